"""Ending sessions before their time: whoever brings such a session is a stranger at the next request, everywhere."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.errors import DatabrokerUnavailable, RecordNotFound
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.records import Record, unpack
from pomerium_agent.sessions.entries import SESSION

BATCH = 100  # tombstones in one write
SLICE = 200  # records that are decoded before others get their turn
WRITE_SECONDS = 5.0
COPY_SECONDS = 30.0  # for a copy of all sessions


class Revoked(NamedTuple):
    """A session that was ended just now."""

    id: str
    user_id: str
    idp_id: str


async def revoke_sessions(backend: Backend, ids: Iterable[str], *, now: datetime) -> tuple[Revoked, ...]:
    """End the sessions with these ids; the answer leaves out those that are gone already, so it may be repeated.

    A tombstone keeps what the record said, for those who must know whose session it was (N-38). Raises
    DatabrokerUnavailable; some of them may have ended by then.
    """
    waiting = iter(dict.fromkeys(ids))
    revoked: list[Revoked] = []
    while batch := list(islice(waiting, BATCH)):
        revoked += await _bury([record for id in batch if (record := await _read(backend, id))], backend, now)
    return tuple(revoked)


async def revoke_sessions_where(
    backend: Backend, ends: Callable[[session_pb2.Session], bool], *, now: datetime
) -> tuple[Revoked, ...]:
    """End every session that `ends` picks, out of all there are at this moment; as `revoke_sessions`.

    It reads the store and not a copy, which may be behind. That costs a look at every session.
    """
    try:
        async with asyncio.timeout(COPY_SECONDS):
            _, records = await backend.latest(SESSION)
    except TimeoutError:
        raise DatabrokerUnavailable(f"the sessions were not read within {COPY_SECONDS:g} s") from None
    picked: list[Record] = []
    for number, record in enumerate(records, 1):
        session = unpack(record.data, session_pb2.Session)
        if session is not None and ends(session):
            picked.append(record)
        if number % SLICE == 0:
            await asyncio.sleep(0)
    return await _bury(picked, backend, now)


async def _read(backend: Backend, id: str) -> Record | None:
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            return await backend.get(SESSION, id)
    except RecordNotFound:
        return None
    except TimeoutError:
        raise DatabrokerUnavailable(f"a session was not read within {WRITE_SECONDS:g} s") from None


async def _bury(records: list[Record], backend: Backend, now: datetime) -> tuple[Revoked, ...]:
    for start in range(0, len(records), BATCH):
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await backend.put([record.as_deleted(now) for record in records[start : start + BATCH]])
        except TimeoutError:
            raise DatabrokerUnavailable(f"the end of sessions was not written within {WRITE_SECONDS:g} s") from None
    return tuple(_revoked(record) for record in records)


def _revoked(record: Record) -> Revoked:
    """A record that cannot be read is ended all the same."""
    session = unpack(record.data, session_pb2.Session) or session_pb2.Session()
    return Revoked(record.id, session.user_id, session.idp_id)

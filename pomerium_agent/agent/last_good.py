"""The last configuration that Envoy took, kept on this machine: sealed, whole, with its age (architecture 4.4).

A replica that starts while its control plane is away serves from it, whatever its storage. It is sealed with a key
that follows from the cluster token, since it holds certificates and secrets.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from pomerium_agent.errors import ConfigRejected
from pomerium_agent.handoff.keys import purpose_key
from pomerium_agent.records import Payload, Record
from pomerium_agent.runtime.waiting import in_thread_to_the_end
from pomerium_agent.zero.bootstrap_file import DIRECTORY_MODE, keep_previous, previous_of, write_atomically
from pomerium_agent.zero.seal import seal, unseal

log = structlog.get_logger(__name__)

VERSION = 1
HEADER = b"pomerium-agent last-good "  # then the version and a line feed, in the clear: a later one may seal otherwise
HEADER_BYTES = len(HEADER) + 8
NAME = "last-good.sealed"
MAX_BYTES = 1 << 28  # of a file that somebody else may have put there


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What was in force, and since when it was known to be; `callers` are the records of service accounts."""

    digest: str
    at: datetime
    records: tuple[Record, ...] = field(repr=False)
    callers: tuple[Record, ...] = field(default=(), repr=False)


class LastGood:
    """One file in the state directory, and beside it the copy before."""

    def __init__(self, directory: Path, file_key: bytes) -> None:
        self.path = directory / NAME
        self.previous = previous_of(self.path)
        self._key = purpose_key(file_key, "last-good")
        self._sound = False  # what is there is known to open

    def rekey(self, file_key: bytes) -> None:
        """Seal with what follows from another cluster token from now on."""
        self._key = purpose_key(file_key, "last-good")
        self._sound = False

    async def load(self) -> Kept | None:
        """What was kept last, else the copy before; None when there is neither.

        Raises ConfigRejected, with the complaint about the newest, when there is none that can be used: damaged, of
        another token, or of a later version.
        """
        return await asyncio.to_thread(self._load)

    async def save(self, kept: Kept) -> None:
        """Replace it, all or nothing. Raises OSError."""
        await in_thread_to_the_end(partial(self._save, kept))

    def _load(self) -> Kept | None:
        complaint: ConfigRejected | None = None
        for path in (self.path, self.previous):
            try:
                found = self._read(path)
            except ConfigRejected as error:
                complaint = complaint or error
                continue
            if found is not None:
                self._sound = path == self.path
                if complaint is not None:
                    log.error("the copy before the last is used", path=str(path), reason=str(complaint))
                return found
        if complaint is not None:
            raise complaint
        return None

    def _read(self, path: Path) -> Kept | None:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigRejected(f"cannot read {path}: {error.strerror}") from error
        try:
            return open_kept(self._key, content)
        except ConfigRejected as error:
            raise ConfigRejected(f"{path}: {error}") from error

    def _save(self, kept: Kept) -> None:
        self.path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        if self._sound or self._opens():
            with suppress(FileNotFoundError):  # somebody removed it, as the manual tells those who want none
                keep_previous(self.path, self.previous)
        write_atomically(self.path, seal_kept(self._key, kept))
        self._sound = True

    def _opens(self) -> bool:
        """Whether what is there is worth keeping; what cannot be opened must not push out a copy that can."""
        try:
            return self._read(self.path) is not None
        except ConfigRejected:
            return False


def seal_kept(key: bytes, kept: Kept) -> bytes:
    """The bytes of the file."""
    return b"%s%d\n%s" % (HEADER, VERSION, seal(key, dump_kept(kept)))


def open_kept(key: bytes, content: bytes) -> Kept:
    """What the bytes of a file hold. Raises ConfigRejected."""
    if len(content) > MAX_BYTES:
        raise ConfigRejected(f"larger than {MAX_BYTES} bytes, which no configuration is")
    head, line_feed, _ = content[:HEADER_BYTES].partition(b"\n")
    version = head.removeprefix(HEADER)
    if not line_feed or not head.startswith(HEADER) or not version.isdigit():
        raise ConfigRejected("not a last known good configuration")
    if int(version) != VERSION:
        raise ConfigRejected(f"version {int(version)} of another release; this one reads version {VERSION}")
    return parse_kept(unseal(key, content[len(head) + 1 :]))


def dump_kept(kept: Kept) -> bytes:
    """As the file holds it, before it is sealed."""
    said = {
        "digest": kept.digest,
        "at": kept.at.timestamp(),
        "records": _dump_records(kept.records),
        "callers": _dump_records(kept.callers),
    }
    return json.dumps(said, separators=(",", ":")).encode()


def parse_kept(text: bytes) -> Kept:
    """Raises ConfigRejected."""
    try:
        said = json.loads(text)
        return Kept(
            digest=str(said["digest"]),
            at=datetime.fromtimestamp(said["at"], UTC),
            records=tuple(_record(each) for each in said["records"]),
            callers=tuple(_record(each) for each in said.get("callers", ())),  # the first releases kept none
        )
    except (
        ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError, RecursionError, binascii.Error,
    ) as error:  # fmt: skip
        raise ConfigRejected(f"its content cannot be read ({type(error).__name__})") from None


def _dump_records(records: Iterable[Record]) -> list[dict[str, str]]:
    return [
        {
            "type": record.type,
            "id": record.id,
            "url": record.data.type_url,
            "data": base64.b64encode(record.data.value).decode(),
        }
        for record in records
        if record.data is not None
    ]


def _record(said: dict[str, str]) -> Record:
    value = base64.b64decode(said["data"], validate=True)
    return Record(type=said["type"], id=said["id"], data=Payload(type_url=said["url"], value=value))

"""The last configuration that Envoy took, kept on this machine: sealed, whole, with its age (architecture 4.4).

A replica that starts while its control plane is away serves from it, whatever its storage. It is sealed with a key
that follows from the cluster token, since it holds certificates and secrets.
"""

import asyncio
import base64
import binascii
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pomerium_agent.errors import ConfigRejected
from pomerium_agent.handoff.keys import purpose_key
from pomerium_agent.records import Payload, Record
from pomerium_agent.zero.bootstrap_file import DIRECTORY_MODE, write_atomically
from pomerium_agent.zero.seal import seal, unseal

VERSION = 1
NAME = "last-good.sealed"
MAX_BYTES = 1 << 28  # of a file that somebody else may have put there


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What was in force, and since when it was known to be."""

    digest: str
    at: datetime
    records: tuple[Record, ...] = field(repr=False)


class LastGood:
    """One file in the state directory."""

    def __init__(self, directory: Path, file_key: bytes) -> None:
        self.path = directory / NAME
        self._key = purpose_key(file_key, "last-good")

    async def load(self) -> Kept | None:
        """None when there is none. Raises ConfigRejected for one that is damaged, of another token, or too new."""
        return await asyncio.to_thread(self._load)

    async def save(self, kept: Kept) -> None:
        """Replace it, all or nothing. Raises OSError."""
        await asyncio.to_thread(self._save, kept)

    def _load(self) -> Kept | None:
        try:
            with self.path.open("rb") as file:
                sealed = file.read(MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigRejected(f"cannot read {self.path}: {error.strerror}") from error
        return parse_kept(unseal(self._key, sealed))

    def _save(self, kept: Kept) -> None:
        self.path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        write_atomically(self.path, seal(self._key, dump_kept(kept)))


def dump_kept(kept: Kept) -> bytes:
    """As the file holds it, before it is sealed."""
    records = [
        {
            "type": record.type,
            "id": record.id,
            "url": record.data.type_url,
            "data": base64.b64encode(record.data.value).decode(),
        }
        for record in kept.records
        if record.data is not None
    ]
    said = {"version": VERSION, "digest": kept.digest, "at": kept.at.timestamp(), "records": records}
    return json.dumps(said, separators=(",", ":")).encode()


def parse_kept(text: bytes) -> Kept:
    """Raises ConfigRejected."""
    try:
        said = json.loads(text)
        if said["version"] != VERSION:
            raise ConfigRejected(f"the last known good configuration is of version {said['version']!r}, not {VERSION}")
        return Kept(
            digest=str(said["digest"]),
            at=datetime.fromtimestamp(said["at"], UTC),
            records=tuple(_record(each) for each in said["records"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, binascii.Error) as error:
        raise ConfigRejected(f"the last known good configuration cannot be read ({type(error).__name__})") from None


def _record(said: dict[str, str]) -> Record:
    value = base64.b64decode(said["data"], validate=True)
    return Record(type=said["type"], id=said["id"], data=Payload(type_url=said["url"], value=value))

"""What must change for the databroker to hold exactly what a bundle says (zero link 12); values in, values out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pomerium_agent.pb.pomerium import databroker_pb2
from pomerium_agent.records import Record, record_to_message

MAX_PUT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The way from the current records to the wanted ones."""

    additions: tuple[Record, ...] = ()
    modifications: tuple[Record, ...] = ()
    deletions: tuple[Record, ...] = ()  # the old records, not yet marked

    @property
    def empty(self) -> bool:
        """Whether nothing has to change."""
        return not (self.additions or self.modifications or self.deletions)

    @property
    def counts(self) -> dict[str, int]:
        """How many records are to be added, modified and deleted."""
        return {"added": len(self.additions), "modified": len(self.modifications), "deleted": len(self.deletions)}


def difference(current: Iterable[Record], wanted: Iterable[Record]) -> Difference:
    """The exact sets to add, modify and delete (Z-38); data is compared by type URL and bytes. Sorted by type and id.

    A bundle owns every record of the types it holds: what it does not name, goes.
    """
    before = {(record.type, record.id): record for record in current}
    after = {(record.type, record.id): record for record in wanted}
    return Difference(
        additions=tuple(after[key] for key in sorted(after.keys() - before.keys())),
        modifications=tuple(
            after[key] for key in sorted(after.keys() & before.keys()) if after[key].data != before[key].data
        ),
        deletions=tuple(before[key] for key in sorted(before.keys() - after.keys())),
    )


def put_requests(change: Difference, now: datetime, max_bytes: int = MAX_PUT_BYTES) -> Iterator[tuple[Record, ...]]:
    """The writes to make, in order, each at most `max_bytes` unless one record alone is larger (Z-39).

    As few as possible, additions first and deletions last: a route that moves to a new record, or out of one that
    goes, is there twice between two writes and never missing (W12).
    """
    records = (*change.additions, *change.modifications, *(record.as_deleted(now) for record in change.deletions))
    batch: list[Record] = []
    size = 0
    for record in records:
        added = _put_bytes(record)
        if batch and size + added > max_bytes:
            yield tuple(batch)
            batch, size = [], 0
        batch.append(record)
        size += added
    if batch:
        yield tuple(batch)


def types_of(records: Sequence[Record]) -> tuple[str, ...]:
    """The sorted types among `records`."""
    return tuple(sorted({record.type for record in records}))


def _put_bytes(record: Record) -> int:
    """How much `record` adds to a serialised PutRequest."""
    return databroker_pb2.PutRequest(records=[record_to_message(record)]).ByteSize()

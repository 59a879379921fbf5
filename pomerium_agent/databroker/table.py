"""The current records of one type, in memory: by id, by age, by indexed field, by network."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice

from pomerium_agent.databroker.index import FieldIndex, NetworkIndex
from pomerium_agent.records import Record


class Table:
    """Keeps every index right through each `set` and `remove`, each at the cost of that one record."""

    def __init__(self, indexed: Iterable[str] = ()) -> None:
        self._records: OrderedDict[str, Record] = OrderedDict()  # lowest version first
        self._fields = FieldIndex(indexed)
        self._networks = NetworkIndex()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        """The records, lowest version first."""
        return iter(self._records.values())

    def get(self, id: str) -> Record | None:
        return self._records.get(id)

    def set(self, record: Record) -> None:
        """Insert or replace; `record` has the highest version of all."""
        self._records[record.id] = record
        self._records.move_to_end(record.id)
        self._fields.set(record.id, record.data)
        self._networks.set(record.id, record.data)

    def remove(self, id: str) -> Record | None:
        """Remove and return a record; None if it was not there."""
        self._fields.remove(id)
        self._networks.remove(id)
        return self._records.pop(id, None)

    def beyond(self, capacity: int) -> tuple[str, ...]:
        """The ids to remove so that only the `capacity` records with the highest versions stay (C4)."""
        return tuple(islice(self._records, max(0, len(self._records) - capacity)))

    def modified_before(self, time: datetime) -> tuple[str, ...]:
        """The ids of records not changed since `time`; all are looked at, as a clock may have been set back."""
        return tuple(r.id for r in self if r.modified_at is not None and r.modified_at < time)

    def index_by(self, fields: Iterable[str]) -> None:
        """Replace the set of indexed fields; the records that are already here are indexed too (C20, C21)."""
        if frozenset(fields) == self._fields.fields:
            return
        self._fields = FieldIndex(fields)
        for record in self:
            self._fields.set(record.id, record.data)

    def holding(self, field: str, value: str) -> Iterable[str]:
        """The ids of the records whose indexed field reads `value`."""
        return self._fields.find(field, value)

    def covering(self, address: str) -> Iterable[str]:
        """The ids of the records whose network covers an address or prefix."""
        return self._networks.covering(address)

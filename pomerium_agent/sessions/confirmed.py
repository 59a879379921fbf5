"""Which sessions were read past the log already, so that their next request need not do it again."""

from collections import OrderedDict

LIMIT = 65_536


class Confirmed:
    """A bounded memory of hints that were met; forgetting one only costs reading again."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._met: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._met)

    def has(self, session_id: str, server_version: int, record_version: int) -> bool:
        """Whether this hint, or a later one, was met."""
        met = self._met.get(session_id)
        return met is not None and met[0] == server_version and met[1] >= record_version

    def add(self, session_id: str, server_version: int, record_version: int) -> None:
        """The copy has at least this."""
        if not self.has(session_id, server_version, record_version):
            self._met[session_id] = (server_version, record_version)
            self._met.move_to_end(session_id)
            if len(self._met) > self._limit:
                self._met.popitem(last=False)

    def clear(self) -> None:
        """The copy was replaced, so nothing is known of it."""
        self._met.clear()

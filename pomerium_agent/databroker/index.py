"""Which records hold a value in an indexed field, and which cover an address: at the cost of the answer."""

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set

from google.protobuf import any_pb2, struct_pb2
from google.protobuf.message import Message

from pomerium_agent.databroker.messages import decode
from pomerium_agent.records import Payload

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
INDEX_KEY = "$index"


class FieldIndex:
    """The ids of one type's records by the text of their indexed fields (databroker 6; C20, C21)."""

    def __init__(self, fields: Iterable[str] = ()) -> None:
        self.fields = frozenset(fields)
        self._ids: dict[tuple[str, str], set[str]] = {}
        self._entries: dict[str, tuple[tuple[str, str], ...]] = {}

    def set(self, id: str, data: Payload | None) -> None:
        """Index a record anew; what it was found by before is forgotten."""
        self.remove(id)
        if not self.fields:
            return
        entries = tuple(indexed_values(data, self.fields))
        if entries:
            self._entries[id] = entries
        for entry in entries:
            self._ids.setdefault(entry, set()).add(id)

    def remove(self, id: str) -> None:
        """Forget a record; it need not be there."""
        for entry in self._entries.pop(id, ()):
            self._ids[entry].discard(id)
            if not self._ids[entry]:
                del self._ids[entry]

    def find(self, field: str, value: str) -> Set[str]:
        """The ids of the records that hold `value`; none for a field that is not indexed (C22)."""
        return self._ids.get((field, value), frozenset())


class NetworkIndex:
    """The ids of one type's records by the network in their `$index.cidr` (D-22)."""

    def __init__(self) -> None:
        self._ids: dict[Network, set[str]] = {}
        self._networks: dict[str, Network] = {}
        self._lengths: Counter[tuple[int, int]] = Counter()  # (IP version, prefix length): how many networks

    def set(self, id: str, data: Payload | None) -> None:
        """Index a record anew."""
        self.remove(id)
        network = network_of(data)
        if network is None:
            return
        self._networks[id] = network
        if network not in self._ids:
            self._ids[network] = set()
            self._lengths[(network.version, network.prefixlen)] += 1
        self._ids[network].add(id)

    def remove(self, id: str) -> None:
        """Forget a record; it need not be there."""
        network = self._networks.pop(id, None)
        if network is None:
            return
        self._ids[network].discard(id)
        if not self._ids[network]:
            del self._ids[network]
            length = (network.version, network.prefixlen)
            self._lengths[length] -= 1
            if not self._lengths[length]:
                del self._lengths[length]

    def covering(self, text: str) -> Iterator[str]:
        """The ids of every record whose network covers the address or prefix `text` (V10); none if it is neither."""
        wanted = parse_network(text)
        if wanted is None:
            return
        for version, length in self._lengths:  # at most 33 + 129 of them, however many networks there are
            if version == wanted.version and length <= wanted.prefixlen:
                yield from self._ids.get(wanted.supernet(new_prefix=length), ())


def parse_network(text: str, *, bare_address: bool = True) -> Network | None:
    """An address or a prefix, host bits tolerated; None for anything else, netmask notation and zones included."""
    address, slash, length = text.partition("/")
    if "%" in address or (slash and not (length.isascii() and length.isdigit())) or not (slash or bare_address):
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def network_of(data: Payload | None) -> Network | None:
    """The prefix at `$index.cidr` of a payload that is a Struct or a Value, possibly inside further Anys."""
    if data is None or INDEX_KEY.encode() not in data.value:  # spares decoding almost everything
        return None
    message = unwrap(decode(data))
    struct = message.struct_value if isinstance(message, struct_pb2.Value) else message
    if not isinstance(struct, struct_pb2.Struct) or INDEX_KEY not in struct.fields:
        return None
    inner = struct.fields[INDEX_KEY].struct_value
    return parse_network(inner.fields["cidr"].string_value, bare_address=False) if "cidr" in inner.fields else None


def indexed_values(data: Payload | None, fields: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(field, text) for each of the dotted fields that the payload has; missing and empty ones have no entry."""
    message = unwrap(decode(data))
    if message is None:
        return
    for field in fields:
        text = _text_at(message, field.split("."))
        if text:
            yield field, text


def unwrap(message: Message | None, depth: int = 0) -> Message | None:
    """The message inside any number of nested Anys."""
    while isinstance(message, any_pb2.Any) and depth < 16:
        message, depth = decode(Payload(message.type_url, message.value)), depth + 1
    return message


def _text_at(message: Message, path: list[str]) -> str:
    """The string at a dotted path of proto field names; empty when there is none, or it is no string.

    Below a Struct the names are its keys; a Struct or Value that is the whole payload is under `value`, which is
    where PostgreSQL keeps it too (databroker 11.5), so that one filter means the same on both.
    """
    place: object = message
    if isinstance(message, struct_pb2.Struct | struct_pb2.Value):
        if path[0] != "value":
            return ""
        path = path[1:]
    for name in path:
        place = _member(place, name)
    if isinstance(place, struct_pb2.Value):
        place = place.string_value
    return place if isinstance(place, str) else ""


def _member(place: object, name: str) -> object:
    if isinstance(place, struct_pb2.Value):
        place = place.struct_value
    if isinstance(place, struct_pb2.Struct):
        place = place.fields
    if isinstance(place, Message):
        field = place.DESCRIPTOR.fields_by_name.get(name)
        if field is None or (field.has_presence and not place.HasField(name)):
            return None
        return getattr(place, name)
    if isinstance(place, Mapping):
        try:
            return place.get(name)
        except TypeError:  # a map whose keys are numbers
            return None
    return None

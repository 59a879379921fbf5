"""Datagrams on a stream, as capsules (RFC 9297, 3.2), with UDP payloads in them (RFC 9298, 5). Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_PAYLOAD = 65527  # what UDP can carry
_DATAGRAM = 0
_UDP = b"\0"  # the context of a UDP payload
_TOO_LONG = 1 << 20  # for anything that we would keep


class Garbled(ValueError):
    """What was read is no sequence of capsules."""


def capsule(payload: bytes) -> bytes:
    """A UDP payload as it stands on the stream."""
    return bytes((_DATAGRAM,)) + _varint(len(payload) + len(_UDP)) + _UDP + payload


@dataclass(slots=True)
class CapsuleReader:
    """Finds the UDP payloads in what is read, wherever it is cut; what else there is, is skipped (RFC 9297, 3.2)."""

    _pending: bytearray = field(default_factory=bytearray)
    _skipping: int = 0  # bytes of a capsule that nobody wants

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads that are complete now. Raises Garbled."""
        skipped = min(self._skipping, len(data))
        self._skipping -= skipped
        self._pending += data[skipped:]
        while (header := self._header()) is not None:
            kind, length, start = header
            if kind != _DATAGRAM:
                skipped = min(length, len(self._pending) - start)
                self._skipping = length - skipped
                del self._pending[: start + skipped]
                continue
            if length > _TOO_LONG:
                raise Garbled("a datagram is longer than any can be")
            if len(self._pending) < start + length:
                return
            body = bytes(self._pending[start : start + length])
            del self._pending[: start + length]
            if body.startswith(_UDP) and len(body) <= MAX_PAYLOAD + len(_UDP):
                yield body[len(_UDP) :]

    def _header(self) -> tuple[int, int, int] | None:
        """Type and length of the next capsule, and where its value begins; None until they are there."""
        kind = _read_varint(self._pending, 0)
        if kind is None:
            return None
        length = _read_varint(self._pending, kind[1])
        return None if length is None else (kind[0], length[0], length[1])


def _varint(value: int) -> bytes:
    """RFC 9000, 16; for lengths of datagrams, which fit into four bytes."""
    if value < 1 << 6:
        return value.to_bytes(1, "big")
    if value < 1 << 14:
        return (value | 1 << 14).to_bytes(2, "big")
    return (value | 2 << 30).to_bytes(4, "big")


def _read_varint(data: bytearray, start: int) -> tuple[int, int] | None:
    """A number, and where the next thing begins."""
    if start >= len(data):
        return None
    end = start + (1 << (data[start] >> 6))
    if end > len(data):
        return None
    bits = 8 * (end - start) - 2
    return int.from_bytes(data[start:end], "big") & (1 << bits) - 1, end

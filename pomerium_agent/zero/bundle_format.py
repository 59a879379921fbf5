"""A bundle's bytes: records, each preceded by its length as a varint (zero link 11.5)."""

from google.protobuf.message import DecodeError

from pomerium_agent.errors import ConfigRejected
from pomerium_agent.pb.pomerium import databroker_pb2
from pomerium_agent.records import Payload, Record

MAX_RECORD_BYTES = 4 * 1024 * 1024
MAX_BUNDLE_BYTES = 256 * 1024 * 1024
_VARINT_BYTES = 10


class BundleReader:
    """Takes a bundle piece by piece and holds the records read so far; a later (type, id) replaces an earlier one.

    Nothing of it may be used before `finish`, which is where a bundle that was cut short shows (Z-36, Z-37).
    Every complaint is ConfigRejected and names the byte at which the trouble begins.
    """

    def __init__(self, max_bytes: int = MAX_BUNDLE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._offset = 0  # of the buffer's first byte in the bundle
        self._records: dict[tuple[str, str], Record] = {}

    def feed(self, piece: bytes) -> None:
        """Read on."""
        self._buffer += piece
        if self._offset + len(self._buffer) > self._max_bytes:
            raise ConfigRejected(f"the bundle is larger than {self._max_bytes} bytes")
        position = 0
        while (framed := self._length_at(position)) is not None:
            length, start = framed
            if start + length > len(self._buffer):
                break
            self._read(position, bytes(self._buffer[start : start + length]))
            position = start + length
        del self._buffer[:position]
        self._offset += position

    def finish(self) -> tuple[Record, ...]:
        """The records, in the order of their first appearance, once all bytes were fed."""
        if self._buffer:
            raise ConfigRejected(
                f"the bundle is cut short: the record at byte {self._offset} is not complete at byte "
                f"{self._offset + len(self._buffer)}"
            )
        return tuple(self._records.values())

    def _length_at(self, position: int) -> tuple[int, int] | None:
        """The length that the varint at `position` says, and where the record begins; None when more must come."""
        length = 0
        for count in range(_VARINT_BYTES):
            if position + count >= len(self._buffer):
                return None
            byte = self._buffer[position + count]
            length |= (byte & 0x7F) << (7 * count)
            if byte < 0x80:
                if length > MAX_RECORD_BYTES:
                    raise ConfigRejected(
                        f"the record at byte {self._offset + position} says it has {length} bytes; "
                        f"at most {MAX_RECORD_BYTES} are allowed"
                    )
                return length, position + count + 1
        raise ConfigRejected(f"the length at byte {self._offset + position} is not a varint; this is not a bundle")

    def _read(self, position: int, encoded: bytes) -> None:
        where = self._offset + position
        message = databroker_pb2.Record()
        try:
            message.ParseFromString(encoded)
        except DecodeError as error:
            raise ConfigRejected(f"the record at byte {where} cannot be decoded; this is not a bundle") from error
        if not message.type:
            raise ConfigRejected(f"the record at byte {where} has no type")
        # Only these three matter (zero link 11.5); the times may be ones that nobody can name.
        data = Payload(message.data.type_url, message.data.value) if message.HasField("data") else None
        self._records[message.type, message.id] = Record(type=message.type, id=message.id, data=data)


def read_bundle(content: bytes) -> tuple[Record, ...]:
    """The records of a bundle that is at hand as a whole."""
    reader = BundleReader()
    reader.feed(content)
    return reader.finish()

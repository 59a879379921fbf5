"""The message definitions that are compiled into the Envoy binary, read out of it."""

import mmap
import re
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

# A serialised FileDescriptorProto begins with its own file name: field 1, length, text.
_START = re.compile(rb"\x0a(.)((?:envoy|xds|udpa|validate)/[\w./-]+\.proto)(?=[\x12\x1a\x22\x2a])", re.DOTALL)
_MAX_BYTES = 1 << 20
_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15})


def embedded_descriptors(binary: Path) -> dict[str, FileDescriptorProto]:
    """Every embedded file by name."""
    found: dict[str, FileDescriptorProto] = {}
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start in _START.finditer(data):
            if start[1][0] != len(start[2]):
                continue
            body = data[start.start() : start.start() + _MAX_BYTES]
            try:
                parsed = FileDescriptorProto.FromString(body[: _length(body)])
            except DecodeError:
                continue
            found[parsed.name] = parsed
    return found


def _length(body: bytes) -> int:
    """How far the fields of one FileDescriptorProto reach; it ends where the next bytes make no sense as one."""
    position = 0
    named = False
    while position < len(body):
        tag, after = _varint(body, position)
        number, kind = tag >> 3, tag & 7
        if number not in _FIELDS or kind not in (0, 2) or (number == 1 and named):
            return position
        named = named or number == 1
        size, after = _varint(body, after)
        position = after + size if kind == 2 else after
        if number in (12, 14):  # syntax or edition is written last
            return position
    return position


def _varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(body):
        byte = body[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            break
        shift += 7
    return value, position

"""gzip undone piece by piece: bounded memory, and an end that is known to be the end."""

import zlib
from collections.abc import Iterator

from pomerium_agent.errors import ConfigRejected

PIECE_BYTES = 64 * 1024
_WITH_GZIP_HEADER = 16 + zlib.MAX_WBITS


class Gunzip:
    """Takes compressed pieces and gives plain ones of at most 64 KiB; several members in a row are one stream."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=_WITH_GZIP_HEADER)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What `piece` adds. Raises ConfigRejected when it is not gzip."""
        rest = piece
        while rest:
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=_WITH_GZIP_HEADER)
            yield self._inflate(rest)
            rest = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def finish(self) -> Iterator[bytes]:
        """What is left. Raises ConfigRejected when the stream has no end: only its trailer proves that it is whole."""
        while not self._member.eof and (more := self._inflate(b"")):
            yield more
        if not self._member.eof:
            raise ConfigRejected("the bundle is cut short: its gzip stream has no end")

    def _inflate(self, piece: bytes) -> bytes:
        try:
            return self._member.decompress(piece, PIECE_BYTES)
        except zlib.error as error:
            raise ConfigRejected(f"the bundle is not valid gzip: {error}") from error

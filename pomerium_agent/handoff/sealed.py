"""Sealed queries: what the agent and the hosted login tell each other through a browser that cannot read it (3.6).

Whatever stands beside a sealed query is ignored: only what was sealed counts (G-1, N-8).
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import zstandard
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pomerium_agent.errors import HandoffRejected
from pomerium_agent.handoff import hpke
from pomerium_agent.handoff.box import decode, encode_raw
from pomerium_agent.handoff.query import as_pairs, encode_query, parameters_of
from pomerium_agent.handoff.signed import MAX_TIME, SIGNED_SECONDS, check_times

MAX_INFLATED = 4 << 20  # bytes of a query that somebody else compressed
WINDOW_LOG = 13  # 8 KiB, which every decoder allows
ISSUED, EXPIRY = "pomerium_issued", "pomerium_expiry"  # in milliseconds here


class Version(Enum):
    """The names of the two parameters: who sealed it, and what."""

    V1 = ("pomerium_hpke_sender_pub", "pomerium_hpke_query")
    V2 = ("k", "q")


NAMES = frozenset(name for version in Version for name in version.value)


@dataclass(frozen=True, slots=True)
class SealedQuery:
    """A sealed query that was not opened yet."""

    version: Version
    sender: bytes  # their public key, by their own word until it is opened
    blob: bytes


def seal_query(
    parameters: Iterable[tuple[str, str]],
    *,
    sender: X25519PrivateKey,
    receiver: bytes,
    version: Version = Version.V2,
    ephemeral: X25519PrivateKey | None = None,
) -> str:
    """The query that carries the parameters to the owner of `receiver` (N-7)."""
    plaintext = encode_query(as_pairs(pair for pair in parameters if pair[0] not in NAMES)).encode()
    if version is Version.V2:
        settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=WINDOW_LOG)
        plaintext = zstandard.ZstdCompressor(compression_params=settings).compress(plaintext)
    blob = hpke.seal(sender, receiver, plaintext, ephemeral)
    key, payload = version.value
    return encode_query(as_pairs([(key, encode_raw(hpke.public_bytes(sender))), (payload, encode_raw(blob))]))


def read_sealed(query: str) -> SealedQuery | None:
    """The sealed part of a query; None when there is none. Raises HandoffRejected when it cannot be one."""
    outer = parameters_of(query)
    for version in Version:  # v1 first, as the reference has it
        key, payload = version.value
        if key in outer and payload in outer:
            sender = decode(outer[key])
            if len(sender) != hpke.KEY_BYTES:
                raise HandoffRejected("it names no usable key")
            return SealedQuery(version, sender, decode(outer[payload]))
    return None


def open_query(sealed: SealedQuery, receiver: X25519PrivateKey, *, limit: int = MAX_INFLATED) -> dict[str, str]:
    """The parameters inside.

    Raises HandoffRejected when it is not for us, not by `sender`, or inflates beyond `limit` bytes (N-6, N-9).
    """
    plaintext = hpke.open_sealed(receiver, sealed.sender, sealed.blob)
    if sealed.version is Version.V2:
        plaintext = _inflate(plaintext, limit)
    try:
        return parameters_of(plaintext.decode("ascii"))
    except UnicodeDecodeError:
        raise HandoffRejected("what was sealed is no query") from None


def lifetime(now: datetime) -> list[tuple[str, str]]:
    """The two parameters that let a sealed query expire after five minutes."""
    issued = int(now.timestamp() * 1000)
    return [(ISSUED, str(issued)), (EXPIRY, str(issued + SIGNED_SECONDS * 1000))]


def check_lifetime(parameters: dict[str, str], now: datetime) -> None:
    """Raises HandoffExpired, or HandoffRejected when either time is missing or is none (N-4)."""
    times = []
    for name in (ISSUED, EXPIRY):
        text = parameters.get(name, "")
        if not (text.isascii() and text.isdigit()) or len(text) > 16 or int(text) > MAX_TIME:
            raise HandoffRejected(f"{name} is missing, or is no time")
        times.append(int(text) / 1000)
    check_times(times[0], times[1], now)


def _inflate(data: bytes, limit: int) -> bytes:
    """One frame, read as a stream: the library trusts the size that a frame states, which may be anything."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 23)
    try:
        with decompressor.stream_reader(io.BytesIO(data)) as reader:
            found: bytes = reader.read(limit + 1)
    except zstandard.ZstdError:
        raise HandoffRejected("what was sealed is not compressed as it should be") from None
    if len(found) > limit:
        raise HandoffRejected("what was sealed is too large")
    return found

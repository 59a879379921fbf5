"""Queries of URLs as both ends of a signature write them (authenticate 3.3), in bytes, since not all is text."""

from collections.abc import Iterable
from urllib.parse import quote_plus, unquote_to_bytes

from pomerium_agent.errors import HandoffRejected

HEX = frozenset("0123456789abcdefABCDEF")

Pairs = list[tuple[bytes, bytes]]


def parse_query(query: str) -> Pairs:
    """The pairs of a query; those with a `;` or a broken escape are dropped (authorize 2)."""
    pairs = []
    for pair in query.split("&"):
        if not pair or ";" in pair:
            continue
        key, _, value = pair.partition("=")
        name, content = _unescape(key), _unescape(value)
        if name is not None and content is not None:
            pairs.append((name, content))
    return pairs


def encode_query(pairs: Iterable[tuple[bytes, bytes]]) -> str:
    """Sorted by key, bytewise; the values of one key stay in their order (authenticate 3.3)."""
    return "&".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted(pairs, key=lambda pair: pair[0]))


def parameters_of(query: str) -> dict[str, str]:
    """The parameters by name, the first value of each. Raises HandoffRejected where one is not text."""
    found: dict[str, str] = {}
    for name, value in parse_query(query):
        try:
            found.setdefault(name.decode(), value.decode())
        except UnicodeDecodeError:
            raise HandoffRejected("a parameter is not text") from None
    return found


def as_pairs(parameters: Iterable[tuple[str, str]]) -> Pairs:
    """Parameters of text, ready to be encoded."""
    return [(name.encode(), value.encode()) for name, value in parameters]


def _unescape(text: str) -> bytes | None:
    """Form decoding; None for a broken escape."""
    if "%" in text:
        for piece in text.split("%")[1:]:
            if len(piece) < 2 or piece[0] not in HEX or piece[1] not in HEX:
                return None
    return unquote_to_bytes(text.replace("+", " "))

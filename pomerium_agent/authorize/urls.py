"""URLs that a visitor is sent to: where they wanted to go, and signed ones that only we can have made."""

import base64
from collections.abc import Iterable
from datetime import datetime
from urllib.parse import quote, quote_plus, unquote_to_bytes, urlsplit

from cryptography.hazmat.primitives.hashes import SHA512_256
from cryptography.hazmat.primitives.hmac import HMAC

from pomerium_agent.authorize.gather import HEX, Question

SIGNED_SECONDS = 300
HOST_CHARACTERS = ":[]"
PATH_CHARACTERS = "/%:@!$&'()*+,;=~"

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


def current_url(question: Question) -> str:
    """Where the visitor wanted to go: `https`, and the host of the request itself (A-16)."""
    host = quote(question.url_host, safe=HOST_CHARACTERS)
    path = quote(question.raw_path, safe=PATH_CHARACTERS)
    query = encode_query(parse_query(question.query))
    return f"https://{host}{path if path.startswith('/') else '/' + path}{'?' + query if query else ''}"


def page_url(question: Question) -> str:
    """The page that a script ran on, if it is of the same host; else where the script wanted to go."""
    referer = question.headers.get("referer", "")
    try:
        parts = urlsplit(referer)
    except ValueError:
        return current_url(question)
    if parts.scheme != "https" or parts.netloc != question.url_host:
        return current_url(question)
    return current_url(question._replace(raw_path=parts.path, query=parts.query))


def signed_url(base: str, parameters: Iterable[tuple[str, str]], key: bytes, now: datetime) -> str:
    """`base`, which has no query, with parameters, good for five minutes, and nobody can change it."""
    issued = int(now.timestamp())
    expiry = issued + SIGNED_SECONDS
    pairs = [(name.encode(), value.encode()) for name, value in parameters]
    pairs += [(b"pomerium_issued", b"%d" % issued), (b"pomerium_expiry", b"%d" % expiry)]
    message = f"{base}?{encode_query(pairs)}{issued} {expiry}"
    pairs.append((b"pomerium_signature", url_signature(message, key).encode()))
    return f"{base}?{encode_query(pairs)}"


def url_signature(message: str, key: bytes) -> str:
    """HMAC with SHA-512/256, as base64url with padding."""
    mac = HMAC(key, SHA512_256())  # not of hashlib, where the machine's OpenSSL may lack it
    mac.update(message.encode())
    return base64.urlsafe_b64encode(mac.finalize()).decode()


def _unescape(text: str) -> bytes | None:
    """Form decoding; None for a broken escape. Bytes, since what is escaped need not be text."""
    if "%" in text:
        for piece in text.split("%")[1:]:
            if len(piece) < 2 or piece[0] not in HEX or piece[1] not in HEX:
                return None
    return unquote_to_bytes(text.replace("+", " "))

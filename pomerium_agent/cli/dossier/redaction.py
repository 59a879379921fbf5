"""The one place where everything that leaves in a bundle passes: known secrets, and what looks like one, are blanked.

Three nets, one behind the other. Whoever knows the secrets of this replica says them, and they are blanked wherever
they stand, in each form in which they travel. In JSON, names tell what is secret. In any text, shapes do.
"""

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import re2

from pomerium_agent.config.redact import BLANK

SHORTEST = 6  # characters of a known secret; a shorter one would blank half of everything
PEM_LINE = 32  # characters of a line of a private key that say something by themselves
MEMORY = 1 << 30  # bytes that the search for known secrets may take; with less it is slower, and finds the same
DEEPEST = 100  # levels of JSON; whatever is deeper is blanked

_SECRET_NAME = re.compile(
    r"(?:^|[_\-. ])(?:secret|password|passwd|passphrase|token|api[_-]?key|private[_-]?key|signing[_-]?key|mac[_-]?key"
    r"|authorization|(?:set-)?cookie|credentials?|basic[_-]?auth)s?$",
    re.IGNORECASE,
)
# Names of Envoy's under which every text is blanked: secrets inline, and what is sent as it is.
_SECRET_BELOW = frozenset({"private_key", "password", "generic_secret", "session_ticket_keys", "direct_response"})
_HEADER_VALUES = ("value", "raw_value")  # beside "key"
_PEOPLE = frozenset(
    {
        "allowed_users", "allowed_idp_claims", "claims", "email", "emails", "forwarded-for", "id-token-claims",
        "impersonate-email", "impersonate-session-id", "impersonate-user-id", "ip", "session", "session-id",
        "session_id", "user", "user-id", "user_id", "x-forwarded-for",
    }
)  # fmt: skip

# To its end, or if that was cut off, to what cannot be part of one.
_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----[\w+/=\\\s:,.-]*?"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|(?=[^\w+/=\\\s:,.-])|\Z)"
)
_SHAPES = (
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*){0,3}"), BLANK),  # a JWT, signed or sealed
    (re.compile(r"\b(bearer|basic)(\s+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1\2{BLANK}"),
    (re.compile(r"\b((?:set-)?cookie|(?:proxy-)?authorization)(:\s*)[^\r\n\"\\]+", re.IGNORECASE), rf"\1\2{BLANK}"),
    # As Envoy writes the headers of a request, one after the other: all of them.
    (re.compile(r"('[\w:.-]{1,128}', ')[^'\r\n]*'"), rf"\1{BLANK}'"),
    (re.compile(r"(?<![a-zA-Z0-9+.-])([a-zA-Z][a-zA-Z0-9+.-]{0,20}://)[^/\s\"'@<>?#\\]+@"), rf"\1{BLANK}@"),
    (
        re.compile(
            r"\b(\w*(?:password|passwd|passphrase|secret|token|api_?key|cookie|credential)\w*=)"
            r"(?:'[^'\r\n]*'|[^\s,;&\"'\\]+)",
            re.IGNORECASE,
        ),
        rf"\1{BLANK}",
    ),
    (re.compile(r"(?<=[\w/.~%-])\?[\w.~%\[\]-]+=[^\s\"'<>\\]*"), f"?{BLANK}"),  # the query of a path or URL
)
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")


class Redaction:
    """What is blanked, for one bundle. E-mail addresses become `person-…`, the same for the same one in it."""

    def __init__(self, known: Iterable[str | bytes] = (), *, with_people: bool = False) -> None:
        found = {form for each in known for form in forms(each)}
        self._forms = _one_of(sorted(found, key=lambda form: (-len(form), form)))
        self._with_people = with_people
        self._salt = secrets.token_bytes(16)

    def text(self, text: str) -> str:
        """Any text, a configuration file or a log among them."""
        return self._known(self._shapes(_KEY_BLOCK.sub(BLANK, self._known(text))))

    def json(self, value: Any) -> str:
        """A JSON value, indented."""
        return self.text(json.dumps(self._value(value), indent=2, ensure_ascii=False, default=str)) + "\n"

    def json_text(self, text: str) -> str:
        """JSON that somebody else has written; as any text, if it is none."""
        try:
            return self.json(json.loads(self._known(text)))
        except (ValueError, RecursionError):
            return self.text(text)

    def lines(self, text: str) -> str:
        """A log, one JSON object a line, with lines of others among them."""
        text = _KEY_BLOCK.sub(BLANK, self._known(text))
        return self._known("".join(f"{self._line(line)}\n" for line in text.splitlines()))

    def leaks(self, content: str) -> bool:
        """Whether a known secret is in there after all."""
        return self._forms is not None and self._forms.search(content) is not None

    def _line(self, line: str) -> str:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return self._shapes(line)
        return self._shapes(_KEY_BLOCK.sub(BLANK, json.dumps(self._value(found), ensure_ascii=False)))

    def _shapes(self, text: str) -> str:
        for shape, instead in _SHAPES:
            text = shape.sub(instead, text)
        return text if self._with_people else _EMAIL.sub(self._person, text)

    def _known(self, text: str) -> str:
        return text if self._forms is None else str(self._forms.sub(BLANK, text))

    def _person(self, found: re.Match[str]) -> str:
        return "person-" + hashlib.blake2b(found[0].lower().encode(), key=self._salt, digest_size=4).hexdigest()

    def _value(self, value: Any, name: str = "", *, hide: bool = False, deep: int = 0) -> Any:
        """The value that stands under `name`."""
        if deep > DEEPEST:
            return BLANK
        people = not self._with_people and name in _PEOPLE
        if isinstance(value, dict):
            hide = hide or people or name in _SECRET_BELOW
            header = isinstance(value.get("key"), str)
            return {
                str(key): BLANK
                if header and key in _HEADER_VALUES and isinstance(inner, str)
                else self._value(inner, str(key).lower(), hide=hide, deep=deep + 1)
                for key, inner in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._value(inner, name, hide=hide, deep=deep + 1) for inner in value]
        if isinstance(value, str) and value and (hide or self._is_secret(name, value, people=people)):
            return BLANK
        return value

    def _is_secret(self, name: str, value: str, *, people: bool) -> bool:
        if people:
            return not _EMAIL.fullmatch(value)  # that one is given a name of its own, so that one can tell them apart
        return name in _SECRET_BELOW or name == "query" or bool(_SECRET_NAME.search(name))


def _one_of(texts: Sequence[str]) -> Any:
    """Finds any of many texts in one pass, however many there are; None for none."""
    if not texts:
        return None
    options = re2.Options()
    options.max_mem, options.log_errors = MEMORY, False
    return re2.compile("|".join(re2.escape(text) for text in texts), options)


def forms(secret: str | bytes) -> Iterator[str]:
    """How a secret may stand in a text: as it is, its parts that are secret themselves, escaped, encoded."""
    raw = secret.encode(errors="surrogateescape") if isinstance(secret, str) else secret
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = ""
    encoded = base64.b64encode(raw).decode()
    found = {encoded, encoded.rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("="), raw.hex()}
    parts = {text, *_parts(text)}
    for part in parts | {unquote(part) for part in parts}:  # of a collector's headers, which are percent-encoded
        found |= {part, json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1], quote(part, safe="")}
        found |= {quote(part), base64.b64encode(part.encode()).decode().rstrip("=")}
    yield from (form for form in found if len(form) >= SHORTEST and form != BLANK)


def _parts(text: str) -> Iterator[str]:
    """`Bearer x`, `name=x`, `user:x`, `scheme://user:x@host?password=x`, lines of a key, and what base64 holds."""
    stripped = text.strip()
    if "PRIVATE KEY" in text:
        yield stripped
        yield from (line for line in stripped.split() if len(line) >= PEM_LINE)
        return
    yield stripped
    if "://" in text:
        yield from _of_url(stripped)
        return
    for mark in (" ", "=", ":"):
        yield stripped.partition(mark)[2].strip()
    for each in re.findall(r"(?:password|sslpassword)\s*=\s*('(?:[^'\\]|\\.)*'|\S+)", stripped):
        yield each.strip("'")
    if text.lstrip().startswith("{"):  # a key file
        yield from _of_json(text)
        return
    try:
        inner = base64.b64decode(stripped, validate=True).decode()
    except ValueError:
        return
    if len(inner) >= SHORTEST and (inner.isprintable() or "PRIVATE KEY" in inner or inner.lstrip().startswith("{")):
        yield inner
        yield from _parts(inner)


def _of_url(url: str) -> Iterator[str]:
    try:
        password = urlsplit(url).password or ""
    except ValueError:
        return
    yield password
    yield unquote(password)
    for each in re.findall(r"[?&](?:password|sslpassword|sig|token)=([^&#\s]+)", url):
        yield each
        yield unquote(each)


def _of_json(text: str) -> Iterator[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return
    for name, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, str) and ("key" in name or _SECRET_NAME.search(name)):
            yield value
            yield from (line for line in value.split() if len(line) >= PEM_LINE)

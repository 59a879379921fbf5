"""Where in a request a visitor may carry a session handle or a bearer token, and what is found there. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote_to_bytes

from pomerium_agent.settings import Secret

HANDLE_HEADER = "x-pomerium-authorization"
POMERIUM_PREFIX = "Pomerium "  # these two are case-sensitive (authorize 4.1)
BEARER_POMERIUM_PREFIX = "Bearer Pomerium-"
BEARER_PREFIX = "bearer "  # this one is not (authorize 4.2)
QUERY_PARAMETER = "pomerium_session"
HEX = frozenset("0123456789abcdefABCDEF")


class Source(StrEnum):
    """A place where a handle may be, in the order in which they are tried."""

    COOKIE = "cookie"
    HEADER = "x-pomerium-authorization"
    AUTHORIZATION = "authorization"
    BEARER = "authorization-bearer"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that may be a handle."""

    source: Source
    token: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """Everything a request carries that may say who makes it.

    `candidates` are tried in order until one validates (W3). A handle in headers or in the query, be it invalid,
    means that no browser is there to be redirected (authorize 9). `bearer` is for routes that interpret bearers.
    """

    candidates: tuple[Candidate, ...] = ()
    cookie: bool = False  # there is a cookie of the session cookie's name
    in_headers: bool = False
    in_query: bool = False
    bearer: Secret = field(default=Secret(""))


NOTHING = Presented()


def find_handles(headers: Iterable[tuple[str, str]], query: str, *, cookie_name: str) -> Presented:
    """Look in every place of authorize 4.1, without judging what is there.

    `headers` are the lines as they came, not joined (A-4), with lower-case names; `query` is raw, without `?`.
    """
    cookie: str | None = None
    header = authorization = ""
    for name, value in headers:
        if name == "cookie":
            if cookie is None:
                cookie = find_cookie(value, cookie_name)
        elif name == "authorization":
            authorization = authorization or value.strip(" \t")
        elif name == HANDLE_HEADER:
            header = header or value.strip(" \t")
    in_query = find_parameter(query, QUERY_PARAMETER)
    if cookie is None and not header and not authorization and in_query is None:
        return NOTHING
    from_headers = tuple(_in_headers(header, authorization)) if header or authorization else ()
    candidates = [Candidate(Source.COOKIE, Secret(cookie))] if cookie else []
    candidates += from_headers
    if in_query:
        candidates.append(Candidate(Source.QUERY, Secret(in_query)))
    bearer = authorization[len(BEARER_PREFIX) :] if authorization[:7].lower() == BEARER_PREFIX else ""
    return Presented(
        candidates=tuple(candidates),
        cookie=cookie is not None,
        in_headers=bool(from_headers),
        in_query=in_query is not None,
        bearer=Secret(bearer.strip(" \t")),
    )


def _in_headers(header: str, authorization: str) -> Iterator[Candidate]:
    if header:
        yield Candidate(Source.HEADER, Secret(header))
    for source, prefix in ((Source.AUTHORIZATION, POMERIUM_PREFIX), (Source.BEARER, BEARER_POMERIUM_PREFIX)):
        if authorization.startswith(prefix) and len(authorization) > len(prefix):
            yield Candidate(source, Secret(authorization[len(prefix) :]))


def find_cookie(line: str, name: str) -> str | None:
    """The value of the first cookie of that name in one `cookie` line; None when there is none."""
    if name not in line:
        return None
    for part in line.split(";"):
        key, equals, value = part.partition("=")
        if equals and key.strip(" \t") == name:
            value = value.strip(" \t")
            return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return None


def find_parameter(query: str, name: str) -> str | None:
    """The first value of a query parameter; pairs with a `;` or a broken escape do not count (authorize 2)."""
    if name not in query and "%" not in query:
        return None
    for pair in query.split("&"):
        if ";" in pair:
            continue
        key, _, value = pair.partition("=")
        if _unescape(key) == name:
            unescaped = _unescape(value)
            if unescaped is not None:
                return unescaped
    return None


def _unescape(text: str) -> str | None:
    if "%" not in text:
        return text.replace("+", " ")
    for piece in text.split("%")[1:]:
        if len(piece) < 2 or piece[0] not in HEX or piece[1] not in HEX:
            return None
    return unquote_to_bytes(text.replace("+", " ")).decode(errors="replace")

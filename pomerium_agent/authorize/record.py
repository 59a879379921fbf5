"""The authorize log: one line for each decision, with chosen fields, and no secrets (authorize 20, A-30, A-34)."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quote  # as `encode` writes texts
from operator import attrgetter
from typing import Any

from pomerium_agent.authorize.decide import Case, Decision
from pomerium_agent.authorize.gather import Asked, Question
from pomerium_agent.runtime.log import encode, log_info
from pomerium_agent.sessions.assertion import ASSERTION, ASSERTION_FOR
from pomerium_agent.sessions.claims import thaw

REDACTED = "[redacted]"
SECRET_HEADERS = frozenset(
    {
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-pomerium-authorization",
        ASSERTION,
        ASSERTION_FOR,
        "x-serverless-authorization",
    }
)
URL_HEADERS = frozenset({":path", "referer"})  # Envoy tells of the path as of one more header
SECRET_PARAMETERS = "pomerium_"  # noqa: S105  # how their names begin
# Of the pages of a login everything is, whatever it is called: a provider's code, a sealed answer.
SECRET_PAGES = re.compile(r"(?:[a-z]+://[^/]*)?/(?:\.pomerium/.*|oauth2/callback)")
HEADERS = "headers"
EVENT = "authorize check"

Field = Callable[[Case, int], object]  # None: the field is left out


def write_record(case: Case, decision: Decision, fields: tuple[str, ...], removed_groups: int = 0) -> None:
    """Tell of one decision."""
    log_info(EVENT, _event(case, decision, fields, removed_groups))


class Line:
    """How the log tells of one remembered answer: what stays the same each time is written down once."""

    __slots__ = ("_readers", "_text")

    def __init__(self, event: Mapping[str, object]) -> None:
        self._readers = tuple([ASKED[name] for name in event if name in ASKED])
        parts = (f"{quote(name)}: {'%s' if name in ASKED else _constant(value)}" for name, value in event.items())
        self._text = ", ".join(parts)

    def fields(self, question: Asked) -> str:
        """The fields, as JSON without the braces."""
        return self._text % tuple([quote(read(question)) for read in self._readers])


def line_of(case: Case, decision: Decision, fields: tuple[str, ...], removed_groups: int) -> Line | None:
    """How to tell of a decision each time it is the answer; None when that depends on which headers there are."""
    if any(name.startswith(HEADERS) for name in fields):
        return None
    return Line(_event(case, decision, fields, removed_groups))


def _constant(value: object) -> str:
    return encode(value).replace("%", "%%")


def _event(case: Case, decision: Decision, fields: tuple[str, ...], removed_groups: int) -> dict[str, Any]:
    event: dict[str, Any] = {}
    headers: dict[str, str] = {}
    for name, read in _readers(fields):
        if read is not None:
            value = read(case, removed_groups)
            if value is not None:
                event[name] = value
        elif name.startswith(HEADERS):
            headers |= _headers(case.question, name)
    if headers:
        event[HEADERS] = headers
    verdict = decision.verdict
    allow, deny = verdict.allow, verdict.deny
    event["allow"] = allow.value
    event["allow-why-true" if allow.value else "allow-why-false"] = sorted(allow.reasons)
    event["deny"] = deny.value
    event["deny-why-true" if deny.value else "deny-why-false"] = sorted(deny.reasons)
    return event


@lru_cache(maxsize=16)
def _readers(fields: tuple[str, ...]) -> tuple[tuple[str, Field | None], ...]:
    return tuple((name, FIELDS.get(name)) for name in fields)


def redacted_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers without what would let somebody in (W10)."""
    return {name: _redacted_header(name, value) for name, value in headers.items()}


def _redacted_header(name: str, value: str) -> str:
    if name in SECRET_HEADERS:
        return REDACTED
    before, mark, query = value.partition("?") if name in URL_HEADERS else (value, "", "")
    return f"{before}{mark}{redacted_query(query, before)}"


def redacted_query(query: str, of: str) -> str:
    """The query without the values of our own parameters; `of` is the path before it, or the URL."""
    if not query:
        return ""
    if SECRET_PAGES.fullmatch(of):
        return REDACTED
    if "%" not in query and SECRET_PARAMETERS not in query:
        return query
    return "&".join(_redacted_pair(pair) for pair in query.split("&"))


def _redacted_pair(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    # An escaped name may be one of ours in disguise; nobody needs to escape a name honestly that begins like them.
    ours = name.startswith(SECRET_PARAMETERS) or "%" in name
    return f"{name}{equals}{REDACTED}" if ours and equals else pair


def canonical(name: str) -> str:
    """A header name as it is usually written; pseudo-headers stay as they are."""
    return name if name.startswith(":") else "-".join(part.capitalize() for part in name.split("-"))


def _headers(question: Question, field: str) -> dict[str, str]:
    """All of them, or the one that is named."""
    known = redacted_headers(question.headers)
    if field == HEADERS:
        return {canonical(name): value for name, value in known.items()}
    name = field.removeprefix(f"{HEADERS}.").lower()
    return {canonical(name): known[name]} if name in known else {}


def _session_id(case: Case, _removed: int) -> str | None:
    resolved = case.who.resolved
    return resolved.session_id if resolved is not None and not resolved.service_account else None


def _service_account_id(case: Case, _removed: int) -> str | None:
    resolved = case.who.resolved
    return resolved.session_id if resolved is not None and resolved.service_account else None


def _actor(name: str) -> Field:
    return lambda case, _: getattr(case.who.resolved, name) if case.who.resolved is not None else ""


def _impersonated(name: str) -> Field:
    def read(case: Case, _removed: int) -> str | None:
        found = case.who.resolved.impersonated if case.who.resolved is not None else None
        return getattr(found, name) if found is not None else None

    return read


def _asked(read: Callable[[Asked], str]) -> Field:
    return lambda case, _: read(case.question)


def _claims(case: Case, _removed: int) -> object:
    resolved = case.who.resolved
    return thaw(resolved.session_claims) if resolved is not None and resolved.session_claims else None


# What the request says itself, and may say otherwise the next time.
ASKED: Mapping[str, Callable[[Asked], str]] = {
    "request-id": attrgetter("request_id"),
    "check-request-id": attrgetter("request_id"),
    "method": attrgetter("method"),
    "path": attrgetter("raw_path"),
    "host": attrgetter("host"),
    "ip": attrgetter("ip_text"),
    "query": lambda question: redacted_query(question.query, question.raw_path),
    "envoy-route-id": attrgetter("route_id"),
    "envoy-route-checksum": attrgetter("checksum"),
}
# What follows from everything that the answer depends on.
FIELDS: Mapping[str, Field] = {
    **{name: _asked(read) for name, read in ASKED.items()},
    "session-id": _session_id,
    "service-account-id": _service_account_id,
    "user": _actor("actor_user_id"),
    "email": _actor("actor_email"),
    "impersonate-session-id": _impersonated("session_id"),
    "impersonate-user-id": _impersonated("user_id"),
    "impersonate-email": _impersonated("email"),
    "removed-groups-count": lambda _, removed: removed or None,
    "route-id": lambda case, _: case.route.id if case.route is not None else "",
    "route-checksum": lambda case, _: case.route.checksum if case.route is not None else 0,
    "cluster-stat-name": lambda case, _: case.route.stat_name if case.route is not None else None,
    "id-token-claims": _claims,
}

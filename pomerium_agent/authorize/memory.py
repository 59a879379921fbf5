"""Whole answers that still hold: remembered by session, route and whatever else they depend on, not a moment longer.

Only permissions are remembered. An answer depends on four things, and each of them ends it exactly:

- the rules: a memory belongs to one generation of them and goes with it (A-33);
- the session: its version, which changes exactly when a record behind it does, is part of the key (A-32);
- the request: every attribute that the route's policy or its headers read is part of the key;
- time: each answer knows until when it is true, whatever it rests on: a session, an assertion, a client certificate.
  What a policy decides by the time of day is not remembered.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from operator import attrgetter

from pomerium_agent.authorize.admit import AUTHORIZATION, REQUEST_HEADERS, carries_handle
from pomerium_agent.authorize.certificate import identity_of
from pomerium_agent.authorize.decide import Decision
from pomerium_agent.authorize.gather import Asked
from pomerium_agent.authorize.record import Line
from pomerium_agent.authorize.rules import RouteRules
from pomerium_agent.authorize.who import Who
from pomerium_agent.config.templates import Reference
from pomerium_agent.policy import Policy, RoutePolicy
from pomerium_agent.runtime.tally import Cell
from pomerium_agent.sessions.assertion import ASSERTION, ASSERTION_FOR
from pomerium_agent.sessions.handle import Handle

REMEMBERED = 16_384
PREFLIGHT = ("origin", "access-control-request-method")  # what PPL looks at among headers (P-18)
IGNORED = frozenset({"identity", "device", "ssh", "mcp"})  # in the session's version, or not of HTTP requests

Look = Callable[[Asked], Hashable]

LOOKS: dict[str, Look] = {
    "method": attrgetter("method"),
    "path": attrgetter("raw_path"),
    "raw_path": attrgetter("raw_path"),
    "query": attrgetter("query"),
    "ip": attrgetter("ip_text"),
    "certificate": lambda asked: identity_of(asked.chain),
    "host": attrgetter("scheme"),  # the host itself is in every key
}


@dataclass(slots=True)
class Remembered:
    """One answer, with what the log has to say of it."""

    answer: bytes
    until: float  # seconds since the epoch
    who: Who
    decision: Decision
    removed_groups: int
    line: Line | None = None  # made when it is needed for the first time
    counted: Cell = field(default_factory=Cell)  # where decisions like this one are


class Memory:
    """The answers of one generation of the rules; the least recently used are forgotten first."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable, time: float) -> Remembered | None:
        """The answer under that key, if it is still true."""
        found = self._kept.get(key)
        if found is None:
            return None
        if time >= found.until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return found

    def keep(self, key: Hashable, remembered: Remembered) -> None:
        """Remember an answer."""
        if self._limit:
            self._kept[key] = remembered
            self._kept.move_to_end(key)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)


def looks_of(route: RouteRules) -> tuple[Look, ...] | None:
    """What of a request the permissions of a route depend on; None: they cannot be remembered."""
    reads = set(frozenset().union(*(policy.reads for policy in route.policies)) - IGNORED)
    if route.serverless_audience:
        return None
    names = _header_names(route, reads)
    if names is None or not reads <= LOOKS.keys():
        return None
    headers = tuple(_header(name) for name in sorted(names))
    return (*(LOOKS[name] for name in sorted(reads)), *headers)


def key_of(
    route: RouteRules, looks: tuple[Look, ...], question: Asked, handle: Handle | None, version: int
) -> Hashable:
    """Under which key the answer to this question is; None when it is not to be remembered."""
    headers = question.headers
    authorization = headers.get(AUTHORIZATION, "")
    if ASSERTION in headers or ASSERTION_FOR in headers:
        return None
    return (
        route.id,
        handle.id if handle is not None else "",
        handle.issued_at if handle is not None else None,
        version,
        question.host,
        carries_handle(authorization) if authorization else False,
        *[look(question) for look in looks],
    )


def _header_names(route: RouteRules, reads: set[str]) -> set[str] | None:
    """The headers that are read by name; moves what templates read into `reads`. None: any header may be read."""
    names: set[str] = set()
    if "headers" in reads:
        reads.discard("headers")
        if not all(_plain(policy) for policy in route.policies):
            return None
        names.update(PREFLIGHT)
    for _, template in route.set_request_headers:
        for part in template:
            if isinstance(part, Reference):
                if part.path[:3] == REQUEST_HEADERS:
                    names.update(name.lower() for name in part.path[3:])
                elif part.path[1:] and part.path[1].startswith("client_cert"):
                    reads.add("certificate")
    return names


def _plain(policy: RoutePolicy) -> bool:
    """Whether no script of it is Rego, which may read any header."""
    return all(isinstance(script.policy, Policy) for script in policy.scripts)


def _header(name: str) -> Look:
    return lambda question: question.headers.get(name, "")

"""The short way to an answer that is remembered: no more of Envoy's question is read than that answer depends on.

It finds what the long way would find, or nothing. Everything unusual is left to the long way: what is asked for the
first time, a handle in the query, headers told line by line, credentials that are not remembered.
"""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from pomerium_agent.authorize.gather import Glance, Question
from pomerium_agent.authorize.memory import Look, key_of
from pomerium_agent.authorize.rules import RouteRules
from pomerium_agent.authorize.who import CARRIERS
from pomerium_agent.sessions.handle import Handle
from pomerium_agent.sessions.sources import QUERY_PARAMETER, Presented

REMEMBERED = 4096
MAX_CARRIED = 4096  # characters of the headers that may carry a handle
COOKIE, AUTHORIZATION, HANDLE_HEADER = CARRIERS


def is_usual(glance: Glance) -> bool:
    """Whether it is about a route, and its query carries no handle for sure."""
    query = glance.query
    return not glance.internal and not (query and ("%" in query or QUERY_PARAMETER in query))


def _carriers(headers: Mapping[str, str]) -> tuple[str, str, str]:
    """The headers that may say who asks."""
    get = headers.get
    return get(COOKIE, ""), get(AUTHORIZATION, ""), get(HANDLE_HEADER, "")


class Carried(NamedTuple):
    """What the headers of a request carry, the first handle in it, and what takes the cookie off."""

    presented: Presented
    handle: Handle
    removal: bytes


class CarriedMemory:
    """What was found in headers, by the headers themselves, which are kept like what remembered answers came from.

    Only those that begin with a good handle are, so strangers cannot push them out with garbage.
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[str, str, str], Carried] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, glance: Glance) -> Carried | None:
        headers = _carriers(glance.headers)
        found = self._kept.get(headers)
        if found is not None:
            self._kept.move_to_end(headers)
        return found

    def keep(self, question: Question, presented: Presented, handle: Handle, removal: bytes) -> None:
        """Remember what a question carried whose query carries nothing."""
        if question.lines:
            return
        headers = _carriers(question.headers)
        if self._limit and sum(map(len, headers)) <= MAX_CARRIED:
            self._kept[headers] = Carried(presented, handle, removal)
            self._kept.move_to_end(headers)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)


class Way(NamedTuple):
    """A route whose answers are remembered."""

    route: RouteRules
    looks: tuple[Look, ...]
    idp_id: str  # whose sessions count
    removes_cookie: bool
    checksum: str  # with which Envoy asks about it

    def key(self, glance: Glance, carried: Carried, version: int) -> Hashable:
        """Where the answer is, if there is one; None when there is none, or it would need a closer look."""
        if self.route.bearer is not None and carried.presented.bearer:
            return None
        return key_of(self.route, self.looks, glance, carried.handle, version)

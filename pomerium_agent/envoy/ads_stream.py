"""One Envoy's end of incremental ADS, without the wire: requests in, responses out.

The order of things (routes 13): clusters are added before the listeners and routes that name them, and
removed only after the routes that named them are gone. Each type has at most one response under way, so a
rejection can always be laid at the door of what was in it:

- clusters and listeners are taken one by one: Envoy names the bad ones and applies their siblings;
- a response that breaks Envoy's validation rules is refused whole, siblings included. It is sent again in
  halves until the bad one stands alone.

(xDS protocol, "Incremental xDS" and "ACK, NACK and resource type instance version".)
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from google.protobuf.any_pb2 import Any as AnyMessage

from pomerium_agent.envoy.ads_state import AdsState
from pomerium_agent.envoyconfig.resources import CLUSTER, LISTENER, ROUTES, SECRET, TYPE_URLS, Resource
from pomerium_agent.pb.envoy.service.discovery.v3 import discovery_pb2

log = structlog.get_logger(__name__)

NAMED = re.compile(r"^Error adding/updating (?:cluster|listener)\(s\) ")
REASON_LIMIT = 2000  # Envoy may answer with the text dump of a whole message
WILDCARD = "*"
NAMED_BY = {CLUSTER: (ROUTES, LISTENER)}  # what must be in force as wanted before others may be removed
SHORT_NAMES = {CLUSTER: "clusters", LISTENER: "listeners", ROUTES: "routes", SECRET: "secrets"}


@dataclass(slots=True)
class _Flight:
    """One response that Envoy has not answered yet."""

    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]
    before: Mapping[str, str]  # name → version that Envoy has as long as it has not accepted this response


@dataclass(slots=True)
class _TypeState:
    """What this Envoy asked for and has, of one type."""

    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    known: dict[str, str] = field(default_factory=dict)  # name → version that Envoy said or was sent
    flight: _Flight | None = None
    retry: list[tuple[Resource, ...]] = field(default_factory=list)  # groups to send one after the other
    resumed: dict[str, str] = field(default_factory=dict)  # what Envoy came with and nobody has compared yet
    unanswered: set[str] = field(default_factory=set)  # asked for by name, and not there


class AdsStream:
    """The state of one stream. `receive` and `pump` return what to send now, in order."""

    def __init__(self, state: AdsState) -> None:
        self._state = state
        self._types: dict[str, _TypeState] = {}
        self._nonce = 0

    def receive(self, request: discovery_pb2.DeltaDiscoveryRequest) -> list[discovery_pb2.DeltaDiscoveryResponse]:
        """Take in a subscription, an acknowledgement or a rejection."""
        url = request.type_url
        if url not in TYPE_URLS:
            log.warning("ads type unknown", type_url=url)
            return []
        first = url not in self._types
        mine = self._types.setdefault(url, _TypeState())
        if first:
            # Envoy resumes: what it still has under the same version need not be sent (envoy.md 4).
            mine.known.update(request.initial_resource_versions)
            mine.resumed.update(request.initial_resource_versions)
            mine.wildcard = not request.resource_names_subscribe
            if url == LISTENER:
                self._state.resumed = bool(request.initial_resource_versions)
        for name in request.resource_names_subscribe:
            if name == WILDCARD:
                mine.wildcard = True
                continue
            mine.names.add(name)
            if name not in mine.resumed:
                mine.unanswered.add(name)
            if not first:
                mine.known.pop(name, None)  # asked for again: the protocol wants it sent again
        for name in request.resource_names_unsubscribe:
            if name == WILDCARD:
                mine.wildcard = False
            mine.names.discard(name)
            mine.unanswered.discard(name)
            mine.known.pop(name, None)
        if request.response_nonce:
            self._answered(url, mine, request)
        return self.pump()

    def pump(self) -> list[discovery_pb2.DeltaDiscoveryResponse]:
        """Everything that may be sent now. Call it after each `receive` (it does so itself) and each new offer."""
        responses: list[discovery_pb2.DeltaDiscoveryResponse] = []
        for url in (SECRET, CLUSTER, LISTENER, ROUTES):
            if url in (LISTENER, ROUTES) and not self._quiet(CLUSTER, removals=False):
                break  # what they refer to must be there first
            self._send_updates(url, responses)
        for url, before in ((ROUTES, ()), (LISTENER, (ROUTES,)), (CLUSTER, (ROUTES, LISTENER)), (SECRET, (CLUSTER,))):
            # An Envoy that resumes asks for one type after the other. Before it has asked for routes we do not know
            # which ones it has, nor what they name.
            if all(other in self._types and self._quiet(other, removals=True) for other in before):
                self._send_removals(url, responses)
        return responses

    @property
    def settled(self) -> bool:
        """Whether Envoy has all there is to have, and has said so.

        A listener that was accepted asks for its routes a moment later; until then nothing is in force.
        """
        asked_for_all_parts = {CLUSTER, LISTENER, ROUTES} <= self._types.keys()
        return asked_for_all_parts and all(self._quiet(url, removals=True) for url in TYPE_URLS)

    def _view(self, url: str, mine: _TypeState) -> Mapping[str, Resource]:
        view = self._state.view(url) or {}
        return view if mine.wildcard else {name: view[name] for name in mine.names if name in view}

    def _updates(self, url: str, mine: _TypeState) -> list[Resource]:
        return [item for name, item in self._view(url, mine).items() if mine.known.get(name) != item.version]

    def _removals(self, url: str, mine: _TypeState) -> list[str]:
        """What Envoy must be told is not there.

        Never what is wanted: of what Envoy refused it keeps what it had. Never what the routes in force may
        name: when the new ones were refused, those are the old ones. And of what Envoy asks for by name, only
        what it waits for; the rest it gives up by itself.
        """
        gone = mine.unanswered - self._view(url, mine).keys()
        if mine.wildcard and self._state.wanted and not any(map(self._state.refuses, NAMED_BY.get(url, ()))):
            gone |= mine.known.keys() - self._state.wanted.of(url).keys()
        return sorted(gone)

    def _quiet(self, url: str, *, removals: bool) -> bool:
        """Nothing of this type is under way or waiting to be sent."""
        mine = self._types.get(url)
        if mine is None or self._state.wanted is None:
            return mine is None and self._state.wanted is not None
        if mine.flight or mine.retry or self._updates(url, mine):
            return False
        return not (removals and self._removals(url, mine))

    def _send_updates(self, url: str, responses: list[discovery_pb2.DeltaDiscoveryResponse]) -> None:
        mine = self._types.get(url)
        if mine is None or mine.flight or self._state.wanted is None:
            return
        view = self._view(url, mine)
        for name, version in mine.resumed.items():
            if name in view and view[name].version == version:
                self._state.accepted(url, view[name])
        mine.resumed.clear()
        while mine.retry:
            group = [item for item in mine.retry.pop(0) if view.get(item.name) == item]
            if group:
                responses.append(self._response(url, mine, group, ()))
                return
        updates = self._updates(url, mine)
        if updates:
            responses.append(self._response(url, mine, updates, ()))

    def _send_removals(self, url: str, responses: list[discovery_pb2.DeltaDiscoveryResponse]) -> None:
        mine = self._types.get(url)
        if mine is None or mine.flight or mine.retry or self._state.wanted is None or self._updates(url, mine):
            return
        removals = self._removals(url, mine)
        if removals:
            responses.append(self._response(url, mine, (), removals))

    def _response(
        self, url: str, mine: _TypeState, resources: Sequence[Resource], removed: Iterable[str]
    ) -> discovery_pb2.DeltaDiscoveryResponse:
        self._nonce += 1
        before = {item.name: mine.known[item.name] for item in resources if item.name in mine.known}
        mine.flight = _Flight(str(self._nonce), tuple(resources), tuple(removed), before)
        for item in resources:
            mine.known[item.name] = item.version
            mine.unanswered.discard(item.name)
        for name in mine.flight.removed:
            mine.known.pop(name, None)
            mine.unanswered.discard(name)
        kind = SHORT_NAMES[url]
        self._state.counters[f"{kind}_responses"] += 1
        self._state.counters[f"{kind}_sent"] += len(resources)
        self._state.counters[f"{kind}_bytes"] += sum(len(item.body) for item in resources)
        self._state.counters[f"{kind}_removed"] += len(mine.flight.removed)
        return discovery_pb2.DeltaDiscoveryResponse(
            type_url=url,
            nonce=mine.flight.nonce,
            resources=[
                discovery_pb2.Resource(
                    name=item.name, version=item.version, resource=AnyMessage(type_url=url, value=item.body)
                )
                for item in resources
            ],
            removed_resources=mine.flight.removed,
        )

    def _answered(self, url: str, mine: _TypeState, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        flight = mine.flight
        if flight is None or request.response_nonce != flight.nonce:
            return  # an answer to something older than what is under way
        mine.flight = None
        if not request.HasField("error_detail"):
            self._state.counters[f"{SHORT_NAMES[url]}_acks"] += 1
            for item in flight.resources:
                self._state.accepted(url, item)
            return
        self._state.counters[f"{SHORT_NAMES[url]}_nacks"] += 1
        reason = request.error_detail.message
        bad = _named(reason, flight.resources)
        if not bad and len(flight.resources) > 1:
            # Refused whole. Which one it was, only smaller responses can tell.
            for item in flight.resources:
                _restore(mine, flight, item)
            middle = len(flight.resources) // 2
            mine.retry[:0] = [flight.resources[:middle], flight.resources[middle:]]
            log.warning("envoy refused a response whole", type=SHORT_NAMES[url], resources=len(flight.resources))
            return
        refused = bad or set(flight.resources)
        for item in flight.resources:
            if item in refused:
                log.error("envoy refused", type=SHORT_NAMES[url], resource=item.name, reason=reason[:REASON_LIMIT])
                self._state.rejected(url, item, reason[:REASON_LIMIT])
                _restore(mine, flight, item)
            else:
                self._state.accepted(url, item)


def _restore(mine: _TypeState, flight: _Flight, item: Resource) -> None:
    """Envoy still has whatever it had of this resource before the response it refused."""
    if item.name in flight.before:
        mine.known[item.name] = flight.before[item.name]
    else:
        mine.known.pop(item.name, None)


def _named(reason: str, resources: Sequence[Resource]) -> set[Resource]:
    """The resources that Envoy names as bad; empty when it names none."""
    if not NAMED.match(reason):
        return set()
    rest = NAMED.sub("", reason)
    return {item for item in resources if re.search(rf"(?:^|[\s,]){re.escape(item.name)}: ", rest)}

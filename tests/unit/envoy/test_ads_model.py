"""Incremental ADS against a model of Envoy that refuses, reconnects and restarts whenever it likes.

Whatever happens, Envoy ends with what it should have, and on the way no route is left without its cluster.
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from google.rpc.status_pb2 import Status
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pomerium_agent.envoy.ads_state import AdsState
from pomerium_agent.envoy.ads_stream import AdsStream
from pomerium_agent.envoyconfig.resources import (
    CLUSTER,
    LISTENER,
    ROUTES,
    SECRET,
    TYPE_URLS,
    EnvoyResources,
    Resource,
    by_name,
    resource_from_bytes,
)
from pomerium_agent.pb.envoy.service.discovery.v3 import discovery_pb2

Request = discovery_pb2.DeltaDiscoveryRequest
Response = discovery_pb2.DeltaDiscoveryResponse

NAMED_ERROR = {
    CLUSTER: "Error adding/updating cluster(s) ",
    LISTENER: "Error adding/updating listener(s) ",
}


@dataclass(frozen=True)
class Body:
    """What a resource of the model says: how good it is, and what it names."""

    version: int
    fault: str = ""  # "named": Envoy says which one it was; "whole": it refuses the response it came in
    names: tuple[str, ...] = ()

    def pack(self, name: str) -> Resource:
        return resource_from_bytes(name, json.dumps([name, self.version, self.fault, self.names]).encode())

    @classmethod
    def unpack(cls, body: bytes) -> "Body":
        _, version, fault, names = json.loads(body)
        return cls(version, fault, tuple(names))


@dataclass
class Envoy:
    """What is in force, and the two directions of one connection to the agent."""

    in_force: dict[str, dict[str, bytes]] = field(default_factory=lambda: {url: {} for url in TYPE_URLS})
    versions: dict[str, dict[str, str]] = field(default_factory=lambda: {url: {} for url in TYPE_URLS})
    subscribed: dict[str, set[str]] = field(default_factory=lambda: {ROUTES: set(), SECRET: set()})
    to_envoy: deque[Response] = field(default_factory=deque)
    to_agent: deque[Request] = field(default_factory=deque)

    def connect(self) -> None:
        """Begin a stream: say what is subscribed to, and what is there already."""
        self.to_envoy.clear()
        self.to_agent.clear()
        for url in (CLUSTER, LISTENER):
            self.to_agent.append(Request(type_url=url, initial_resource_versions=self.versions[url]))
        for url, names in self.subscribed.items():
            if names:
                self._subscribe(url, names, first=True)

    def hear(self) -> None:
        """Apply the next response, and answer it."""
        response = self.to_envoy.popleft()
        url = response.type_url
        faults = {item.name: Body.unpack(item.resource.value).fault for item in response.resources}
        reason = ""
        if "whole" in faults.values() or (url not in NAMED_ERROR and any(faults.values())):
            reason = "Proto constraint validation failed"
            faults = dict.fromkeys(faults, "whole")
        elif any(faults.values()):
            reason = NAMED_ERROR[url] + ", ".join(f"{name}: no" for name, fault in faults.items() if fault)
        for item in response.resources:
            if not faults[item.name]:
                self.in_force[url][item.name] = item.resource.value
                self.versions[url][item.name] = item.version
        for name in response.removed_resources:
            if url in NAMED_ERROR:
                self.in_force[url].pop(name, None)
                self.versions[url].pop(name, None)
        answer = Request(type_url=url, response_nonce=response.nonce)
        if reason:
            answer.error_detail.CopyFrom(Status(code=3, message=reason))
        self.to_agent.append(answer)
        self._subscribe_as_needed()

    def names_of(self, url: str) -> set[str]:
        """What the resources of one type that are in force refer to."""
        return {name for body in self.in_force[url].values() for name in Body.unpack(body).names}

    def _subscribe_as_needed(self) -> None:
        needed = {
            ROUTES: {"main"} if "ingress" in self.in_force[LISTENER] else set(),
            SECRET: self.names_of(CLUSTER) | self.names_of(LISTENER),
        }
        for url, names in needed.items():
            before, self.subscribed[url] = self.subscribed[url], names
            for gone in before - names:
                self.in_force[url].pop(gone, None)
                self.versions[url].pop(gone, None)
            if before != names:
                self._subscribe(url, names - before, before - names)

    def _subscribe(self, url: str, names: Iterable[str], gone: Iterable[str] = (), *, first: bool = False) -> None:
        self.to_agent.append(
            Request(
                type_url=url,
                resource_names_subscribe=sorted(names),
                resource_names_unsubscribe=sorted(gone),
                initial_resource_versions=self.versions[url] if first else {},
            )
        )


# Most things stay as they are, and most are good.
KINDS = (*[(1, "")] * 8, (2, ""), (2, ""), (2, "named"), (2, "whole"))


@st.composite
def offers(draw: st.DrawFn) -> EnvoyResources:
    """A consistent set: every reference in it has its target in it."""

    def body(names: tuple[str, ...] = ()) -> Body:
        version, fault = draw(st.sampled_from(KINDS))
        return Body(version, fault, names)

    clusters = {name: body(("ca",)) for name in draw(st.sets(st.sampled_from("abcd"), min_size=1))}
    certificates = tuple(f"certificate-{number}" for number in range(draw(st.integers(1, 2))))
    listeners = {"ingress": body(certificates)}
    if draw(st.booleans()):
        listeners["redirect"] = body()
    routes = {"main": body(tuple(sorted(draw(st.sets(st.sampled_from(sorted(clusters)))))))}
    secrets = {name: body() for name in ("ca", *certificates)}
    return EnvoyResources(
        {
            url: by_name(each.pack(name) for name, each in bodies.items())
            for url, bodies in ((CLUSTER, clusters), (LISTENER, listeners), (ROUTES, routes), (SECRET, secrets))
        }
    )


class Conversation(RuleBasedStateMachine):
    """One agent after the other, one Envoy after the other, and everything that can come between them."""

    def __init__(self) -> None:
        super().__init__()
        self.state = AdsState()
        self.offered = EnvoyResources({})
        self.stream = AdsStream(self.state)
        self.envoy = Envoy()
        self.envoy.connect()

    @initialize(offered=offers())
    def begin(self, offered: EnvoyResources) -> None:
        self.offer(offered)
        self.they_talk()

    @rule(offered=offers())
    def offer(self, offered: EnvoyResources) -> None:
        self.offered = offered
        self.state.offer(offered, "label")
        self._send(self.stream.pump())

    @precondition(lambda self: self.envoy.to_envoy)
    @rule(times=st.integers(1, 4))
    def envoy_hears(self, times: int) -> None:
        for _ in range(min(times, len(self.envoy.to_envoy))):
            self.envoy.hear()

    @precondition(lambda self: self.envoy.to_agent)
    @rule(times=st.integers(1, 6))
    def agent_hears(self, times: int) -> None:
        for _ in range(min(times, len(self.envoy.to_agent))):
            self._send(self.stream.receive(self.envoy.to_agent.popleft()))

    @rule()
    def they_talk(self) -> None:
        """Deliver everything, both ways, until nobody has anything to say."""
        for _ in range(1000):
            if self.envoy.to_agent:
                self.agent_hears(1)
            elif self.envoy.to_envoy:
                self.envoy_hears(1)
            else:
                return
        raise AssertionError("they never stop talking")

    @rule(what=st.sampled_from(("the connection", "Envoy", "the agent")))
    def something_breaks(self, what: str) -> None:
        if what == "Envoy":
            self.envoy = Envoy()
        if what == "the agent":
            self.state = AdsState()
            self.state.offer(self.offered, "label")
        self.stream = AdsStream(self.state)
        self.envoy.connect()

    def teardown(self) -> None:
        """Whatever has happened, a configuration that Envoy accepts ends up in force, all of it and nothing else."""
        self.they_talk()
        assert self.stream.settled == ("ingress" in self.envoy.in_force[LISTENER])
        mended = EnvoyResources(
            {url: by_name(_mended(item) for item in self.offered.of(url).values()) for url in TYPE_URLS}
        )
        self.offer(mended)
        self.they_talk()
        assert self.stream.settled
        assert self.state.rejections == ()
        for url in TYPE_URLS:
            assert self.envoy.in_force[url] == {name: item.body for name, item in mended.of(url).items()}

    def _send(self, responses: list[Response]) -> None:
        for response in responses:
            self._judge(response)
            self.envoy.to_envoy.append(response)

    def _judge(self, response: Response) -> None:
        url, removed = response.type_url, set(response.removed_resources)
        had = removed & self.envoy.in_force[url].keys()
        assert not had & self.offered.of(url).keys(), "what is wanted is never removed"
        if url == CLUSTER:
            assert not had & self.envoy.names_of(ROUTES), "a cluster in use is never removed"
        if url == SECRET:
            assert not had & (self.envoy.names_of(CLUSTER) | self.envoy.names_of(LISTENER))
        if url == ROUTES:
            for item in response.resources:
                good = {name for name, each in self.offered.of(CLUSTER).items() if not Body.unpack(each.body).fault}
                named = set(Body.unpack(item.resource.value).names)
                assert named & good <= self.envoy.in_force[CLUSTER].keys(), "a route comes after its cluster"


def _mended(item: Resource) -> Resource:
    body = Body.unpack(item.body)
    return Body(body.version, "", body.names).pack(item.name)


TestConversation = Conversation.TestCase
TestConversation.settings = hypothesis_settings(
    max_examples=80,
    stateful_step_count=25,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take longer than a test may
)

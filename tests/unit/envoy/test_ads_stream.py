"""Incremental ADS without the wire: what Envoy is sent, in which order, and what happens when it says no."""

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status

from pomerium_agent.envoy.ads_state import AdsState
from pomerium_agent.envoy.ads_stream import AdsStream
from pomerium_agent.envoyconfig.resources import (
    CLUSTER,
    LISTENER,
    ROUTES,
    SECRET,
    EnvoyResources,
    Resource,
    by_name,
    resource_from_bytes,
)
from pomerium_agent.pb.envoy.service.discovery.v3 import discovery_pb2

Request = discovery_pb2.DeltaDiscoveryRequest
Response = discovery_pb2.DeltaDiscoveryResponse


def named(name: str, text: str = "1") -> Resource:
    return resource_from_bytes(name, f"{name}={text}".encode())


def resources(
    clusters: dict[str, str] | None = None, routes: str | None = "1", secrets: dict[str, str] | None = None
) -> EnvoyResources:
    return EnvoyResources(
        {
            CLUSTER: by_name(named(name, text) for name, text in (clusters or {"a": "1"}).items()),
            LISTENER: by_name([named("https-ingress")]),
            ROUTES: by_name([named("main", routes)] if routes else []),
            SECRET: by_name(named(name, text) for name, text in (secrets or {}).items()),
        }
    )


class Peer:
    """Envoy's side of one stream: subscribes, and answers each response as told."""

    def __init__(self, state: AdsState, **had: dict[str, str]) -> None:
        self.state = state
        self.stream = AdsStream(state)
        self.inbox: list[Response] = []
        for url, key in ((CLUSTER, "clusters"), (LISTENER, "listeners")):
            self._take(Request(type_url=url, initial_resource_versions=had.get(key, {})))
        self._take(
            Request(type_url=ROUTES, resource_names_subscribe=["main"], initial_resource_versions=had.get("routes", {}))
        )

    def _take(self, request: Request) -> None:
        self.inbox += self.stream.receive(request)

    def subscribe(self, url: str, *names: str) -> None:
        self._take(Request(type_url=url, resource_names_subscribe=names))

    def next(self) -> Response:
        return self.inbox.pop(0)

    def ack(self, response: Response) -> None:
        self._take(Request(type_url=response.type_url, response_nonce=response.nonce))

    def nack(self, response: Response, reason: str) -> None:
        self._take(
            Request(
                type_url=response.type_url, response_nonce=response.nonce, error_detail=Status(code=3, message=reason)
            )
        )

    def ack_all(self) -> list[Response]:
        seen = []
        while self.inbox:
            seen.append(self.next())
            self.ack(seen[-1])
        return seen

    def offer(self, offered: EnvoyResources, label: str = "new") -> None:
        self.state.offer(offered, label)
        self.inbox += self.stream.pump()


def state_with(offered: EnvoyResources) -> AdsState:
    state = AdsState()
    state.offer(offered, "first")
    return state


def kinds(responses: list[Response]) -> list[str]:
    return [response.type_url.rpartition(".")[2] for response in responses]


def sent(response: Response) -> list[str]:
    return [item.name for item in response.resources]


def test_nothing_is_sent_before_there_is_a_configuration() -> None:
    """R-22: no listener opens with an empty route set."""
    peer = Peer(AdsState())

    assert peer.inbox == []
    assert not peer.stream.settled


def test_clusters_are_acknowledged_before_the_listeners_and_routes_that_name_them() -> None:
    """R-20: make before break."""
    peer = Peer(state_with(resources()))

    first = peer.next()
    assert (kinds([first]), peer.inbox) == (["Cluster"], [])

    peer.ack(first)
    assert kinds(peer.inbox) == ["Listener", "RouteConfiguration"]


def test_a_configuration_is_settled_when_envoy_has_acknowledged_all_of_it() -> None:
    peer = Peer(state_with(resources()))

    peer.ack_all()

    assert peer.stream.settled
    assert peer.state.rejections == ()


def test_a_resource_carries_its_type_and_bytes_and_version() -> None:
    peer = Peer(state_with(resources()))

    item = peer.next().resources[0]

    assert item.resource == AnyMessage(type_url=CLUSTER, value=b"a=1")
    assert item.version == named("a").version


def test_only_what_changed_is_sent() -> None:
    """R-31."""
    peer = Peer(state_with(resources({"a": "1", "b": "1"})))
    peer.ack_all()

    peer.offer(resources({"a": "1", "b": "2"}))

    assert [sent(response) for response in peer.ack_all()] == [["b"]]


def test_an_equal_offer_sends_nothing() -> None:
    peer = Peer(state_with(resources()))
    peer.ack_all()

    peer.offer(resources())

    assert peer.inbox == []


def test_it_is_known_whether_envoy_serves_something_already() -> None:
    """A new agent that has nothing to offer yet is ready if the Envoy it adopts is; a fresh Envoy is not."""
    state = AdsState()

    Peer(state, listeners={"https-ingress": "1"})
    adopted = state.resumed
    Peer(state)

    assert (adopted, state.resumed) == (True, False)


def test_envoy_resumes_with_what_it_has() -> None:
    """R-22, envoy.md 4: a new agent adopts a running Envoy without resending anything that is the same."""
    offered = resources()
    had = {item.name: item.version for item in offered.of(CLUSTER).values()}

    peer = Peer(
        state_with(offered),
        clusters=had,
        listeners={"https-ingress": named("https-ingress").version},
        routes={"main": named("main").version},
    )

    assert peer.inbox == []
    assert peer.stream.settled


def test_a_removed_cluster_goes_only_after_the_routes_that_named_it() -> None:
    """R-20: a cluster removed while in use would answer 503."""
    peer = Peer(state_with(resources({"a": "1", "b": "1"})))
    peer.ack_all()

    peer.offer(resources({"a": "1"}, routes="2"))

    routes = peer.next()
    assert (kinds([routes]), peer.inbox) == (["RouteConfiguration"], [])
    peer.ack(routes)
    removal = peer.next()
    assert list(removal.removed_resources) == ["b"]
    peer.ack(removal)
    assert peer.stream.settled


def test_secrets_are_answered_at_once() -> None:
    """Routes 11.8: a cluster that references a secret warms up before the listener is asked for."""
    peer = Peer(state_with(resources(secrets={"cert": "1"})))

    peer.subscribe(SECRET, "cert")

    assert kinds(peer.inbox) == ["Cluster", "Secret"]


def test_a_subscription_to_what_does_not_exist_is_answered_so_that_envoy_does_not_wait() -> None:
    peer = Peer(state_with(resources()))

    peer.subscribe(SECRET, "nothing")

    assert [list(r.removed_resources) for r in peer.ack_all() if r.type_url == SECRET] == [["nothing"]]


def test_a_rejected_cluster_does_not_take_its_siblings_with_it() -> None:
    """R-21: Envoy names the bad one and applies the others."""
    peer = Peer(state_with(resources({"a": "1", "b": "1"})))

    peer.nack(peer.next(), "Error adding/updating cluster(s) b: no such thing")

    assert [(r.name, r.reason) for r in peer.state.rejections] == [
        ("b", "Error adding/updating cluster(s) b: no such thing")
    ]
    assert kinds(peer.ack_all()) == ["Listener", "RouteConfiguration"]
    assert peer.stream.settled


def test_a_rejected_version_is_not_offered_again_until_it_changes() -> None:
    """R-21."""
    peer = Peer(state_with(resources({"a": "1", "b": "bad"})))
    peer.nack(peer.next(), "Error adding/updating cluster(s) b: no")
    peer.ack_all()

    peer.offer(resources({"a": "2", "b": "bad"}))
    assert [sent(r) for r in peer.ack_all()] == [["a"]]

    peer.offer(resources({"a": "2", "b": "good"}))
    assert [sent(r) for r in peer.ack_all()] == [["b"]]
    assert peer.state.rejections == ()


def test_a_response_refused_whole_is_sent_in_halves_until_the_bad_one_stands_alone() -> None:
    """R-20: a broken validation rule drops the whole response, siblings included (routes 13)."""
    peer = Peer(state_with(resources({name: "1" for name in "abcde"})))

    while peer.inbox and peer.inbox[0].type_url == CLUSTER:
        response = peer.next()
        if "d" in sent(response):
            peer.nack(response, "Proto constraint validation failed: value out of range")
        else:
            peer.ack(response)

    assert [r.name for r in peer.state.rejections] == ["d"]
    peer.ack_all()
    assert peer.stream.settled


def test_a_fresh_envoy_gets_the_accepted_version_of_what_its_predecessor_refused() -> None:
    """R-22: last good across restarts of Envoy."""
    state = state_with(resources({"a": "good"}))
    Peer(state).ack_all()
    state.offer(resources({"a": "bad"}), "second")
    first = Peer(state, clusters={"a": named("a", "good").version})
    first.nack(first.next(), "Error adding/updating cluster(s) a: no")

    fresh = Peer(state)

    assert [item.resource.value for item in fresh.next().resources] == [b"a=good"]


def test_a_rejected_route_configuration_leaves_the_old_one_known() -> None:
    peer = Peer(state_with(resources(routes="good")))
    peer.ack_all()

    peer.offer(resources(routes="bad"))
    peer.nack(peer.next(), "Only unique values for domains are permitted")

    assert [(r.type_url, r.name) for r in peer.state.rejections] == [(ROUTES, "main")]
    assert (peer.inbox, peer.stream.settled) == ([], True)


def test_what_an_adopted_envoy_has_stays_when_it_refuses_what_is_new() -> None:
    """R-20, R-21: this agent never saw the old version accepted, yet Envoy serves it."""
    old, new = resources({"a": "1"}), resources({"a": "bad"}, routes="bad")
    peer = Peer(
        state_with(new),
        clusters={"a": named("a").version},
        listeners={"https-ingress": named("https-ingress").version},
        routes={"main": named("main").version},
    )
    peer.nack(peer.next(), "Error adding/updating cluster(s) a: no")
    peer.nack(peer.next(), "Only unique values for domains are permitted")

    assert peer.inbox == []
    assert peer.stream.settled

    peer.offer(old)
    assert peer.inbox == []


def test_what_an_adopted_envoy_has_is_given_to_its_successor() -> None:
    """R-22: a version that Envoy came with counts as accepted."""
    state = state_with(resources({"a": "1"}))
    Peer(state, clusters={"a": named("a").version})
    state.offer(resources({"a": "bad"}), "second")
    first = Peer(state, clusters={"a": named("a").version})
    first.nack(first.next(), "Error adding/updating cluster(s) a: no")

    assert [item.resource.value for item in Peer(state).next().resources] == [b"a=1"]


def test_no_cluster_goes_while_envoy_keeps_the_routes_of_before() -> None:
    """R-20: the routes in force are the old ones, and name it."""
    peer = Peer(state_with(resources({"a": "1", "b": "1"})))
    peer.ack_all()

    peer.offer(resources({"a": "1"}, routes="bad"))
    peer.nack(peer.next(), "Only unique values for domains are permitted")
    assert (peer.inbox, peer.stream.settled) == ([], True)

    peer.offer(resources({"a": "1"}, routes="2"))
    assert [list(response.removed_resources) for response in peer.ack_all()] == [[], ["b"]]


def test_an_answer_to_an_older_response_is_ignored() -> None:
    peer = Peer(state_with(resources()))
    first = peer.next()

    peer.nack(Response(type_url=CLUSTER, nonce="unheard-of"), "late")
    peer.ack(first)

    assert peer.state.rejections == ()


def test_a_listener_that_could_not_bind_is_offered_again() -> None:
    """Routes 13: the port may be free by now."""
    peer = Peer(state_with(resources()))
    peer.ack(peer.next())
    peer.nack(peer.next(), "Error adding/updating listener(s) https-ingress: cannot bind '0.0.0.0:443': in use")
    peer.ack_all()

    assert peer.state.forget_bind_failures()
    peer.inbox += peer.stream.pump()

    assert [sent(r) for r in peer.inbox] == [["https-ingress"]]


def test_what_is_sent_is_counted_by_type() -> None:
    peer = Peer(state_with(resources({"a": "1", "b": "1"})))

    peer.ack_all()

    counted = peer.state.counters
    assert (counted["clusters_sent"], counted["listeners_sent"], counted["routes_sent"]) == (2, 1, 1)
    assert (counted["clusters_acks"], counted["clusters_nacks"]) == (1, 0)


def test_nothing_is_removed_before_a_resuming_envoy_has_said_which_routes_it_has() -> None:
    """R-20: it asks for clusters first, and the routes in force may still name what is to go."""
    stream = AdsStream(state_with(resources({"a": "1"}, routes="2")))

    sent_first = stream.receive(
        Request(type_url=CLUSTER, initial_resource_versions={"a": named("a").version, "b": named("b").version})
    )
    stream.receive(
        Request(type_url=LISTENER, initial_resource_versions={"https-ingress": named("https-ingress").version})
    )
    then = stream.receive(
        Request(
            type_url=ROUTES,
            resource_names_subscribe=["main"],
            initial_resource_versions={"main": named("main").version},
        )
    )
    last = stream.receive(Request(type_url=ROUTES, response_nonce=then[0].nonce))

    assert sent_first == []
    assert kinds(then) == ["RouteConfiguration"]
    assert [list(response.removed_resources) for response in last] == [["b"]]

"""A faulty route is never simply omitted, and never troubles the others (R-4, architecture 4.2, routes 13)."""

from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.snapshot import ConfigSnapshot, Fault, Route
from pomerium_agent.config.source import Match, MatchKind
from tests.fakes.config_records import broken, compiled, config, issue, route

GOOD = route(id="r1", to=["http://web.internal:8080"])
BAD_MATCH = route(id="bad1", from_="https://x.example.com", to=["http://x"], regex="^/(?!a)")
BAD_CHECK = route(
    id="bad2",
    from_="https://y.example.com",
    prefix="/y",
    to=["http://y"],
    health_checks=[{"interval": "1s", "http_health_check": {"path": "/"}}],
)


def by_id(snapshot: ConfigSnapshot) -> dict[str, Route]:
    return {r.id: r for r in snapshot.routes}


def serious(faults: tuple[Fault, ...]) -> list[Fault]:
    return [fault for fault in faults if not fault.warning]


def test_the_good_route_serves_and_each_bad_one_answers_503_in_its_place() -> None:
    """A16."""
    snapshot, faults = compiled(config("c", GOOD, BAD_MATCH, BAD_CHECK))

    routes = by_id(snapshot)
    assert not isinstance(routes["r1"].action, Unavailable)
    assert routes["bad1"].match == Match(MatchKind.PREFIX, "/")
    assert routes["bad2"].match == Match(MatchKind.PREFIX, "/y")
    assert {fault.route_id for fault in faults} == {"bad1", "bad2"}
    first = next(fault for fault in faults if fault.route_id == "bad1")
    assert routes["bad1"].action == Unavailable(fault_id=first.id)
    assert routes["bad1"].public, "the answer must reach whoever asks"
    assert routes["bad1"].source.host == "x.example.com"


def test_a_503_stands_at_the_sorted_place_of_the_route_so_that_nothing_laxer_catches_its_traffic() -> None:
    snapshot, _ = compiled(
        config(
            "c",
            route(id="lax", allow_public_unauthenticated_access=True),
            route(id="strict", prefix="/admin", timeout="-1s"),
            route(id="unsayable", regex="("),
            route(id="exact", path="/admin/status"),
        )
    )

    assert [r.id for r in snapshot.routes] == ["exact", "unsayable", "strict", "lax"]
    assert by_id(snapshot)["strict"].match == Match(MatchKind.PREFIX, "/admin")


def test_the_last_accepted_version_of_a_route_stays() -> None:
    before, _ = compiled(config("c", route(id="r", prefix="/app", timeout="5s")))

    after, faults = compiled(config("c", route(id="r", prefix="/app", timeout="-5s")), previous=before)
    still, _ = compiled(config("c", route(id="r", regex="(")), previous=after)

    assert serious(faults)
    assert after.routes == before.routes
    assert after.routes[0] is before.routes[0]
    assert still.routes == before.routes


def test_an_accepted_version_that_stays_is_never_more_open_than_the_new_one_was_meant_to_be() -> None:
    before, _ = compiled(config("c", route(id="r", allow_public_unauthenticated_access=True)))

    still_open, _ = compiled(
        config("c", route(id="r", allow_public_unauthenticated_access=True, timeout="-5s")), previous=before
    )
    closed, _ = compiled(config("c", route(id="r", timeout="-5s")), previous=before)

    assert still_open.routes == before.routes
    assert [r.public for r in closed.routes] == [False]
    assert closed.routes[0].key != before.routes[0].key
    assert closed.routes[0].action == before.routes[0].action


def test_what_stood_in_for_a_route_is_no_accepted_version() -> None:
    before, _ = compiled(config("c", route(id="r", timeout="-5s")))

    after, faults = compiled(config("c", route(id="r", regex="(")), previous=before)

    assert after.routes[0].action == Unavailable(fault_id=faults[0].id)
    assert after.routes[0].match == Match(MatchKind.PREFIX, "/")


def test_a_repaired_route_serves_again() -> None:
    before, _ = compiled(config("c", BAD_MATCH))

    after, faults = compiled(config("c", route(id="bad1", from_="https://x.example.com")), previous=before)

    assert not faults
    assert not isinstance(after.routes[0].action, Unavailable)


def test_a_route_whose_from_cannot_be_read_leaves_only_its_fault() -> None:
    snapshot, faults = compiled(config("c", GOOD, route(id="nowhere", from_="https://")))

    assert list(by_id(snapshot)) == ["r1"]
    assert [fault.route_id for fault in faults] == ["nowhere"]


def test_a_tunnel_that_cannot_be_served_keeps_its_place() -> None:
    snapshot, faults = compiled(config("c", route(id="t", from_="udp+https://ns.example.com:53", to=["https://ns"])))

    assert snapshot.routes[0].match.kind is MatchKind.CONNECT
    assert all("leads to a udp upstream only" in fault.reason for fault in faults)


def test_the_first_of_two_routes_with_one_id_wins_and_the_other_is_named() -> None:
    """Routes 2.2: Config records by id, then the order inside the record."""
    snapshot, faults = compiled(
        config("b", route(id="r", from_="https://late.example.com")),
        config("a", route(id="r", from_="https://early.example.com")),
    )

    assert by_id(snapshot)["r"].source.host == "early.example.com"
    assert [(fault.field, fault.record_id) for fault in serious(faults)] == [("id", "b")]
    late = next(r for r in snapshot.routes if r.source.host == "late.example.com")
    assert late.action == Unavailable(fault_id=faults[0].id)
    assert late.id != "r"


def test_one_route_sent_twice_serves_once_with_a_warning() -> None:
    snapshot, faults = compiled(config("a", GOOD, GOOD), config("b", GOOD))

    assert [r.id for r in snapshot.routes] == ["r1"]
    assert [(fault.field, fault.warning) for fault in faults] == [("id", True), ("id", True)]


def test_an_undecodable_record_is_named_and_the_others_stay() -> None:
    snapshot, faults = compiled(config("a", GOOD), broken("b"))

    assert list(by_id(snapshot)) == ["r1"]
    assert [(fault.subject, fault.record_id) for fault in faults] == [('Config record "b"', "b")]


def test_a_bad_certificate_stands_aside_by_itself() -> None:
    chain, _ = issue("a.example.com")
    _, other = issue("b.example.com")
    good_chain, good_key = issue("c.example.com")

    def pem(chain: bytes, key: bytes) -> dict[str, str]:
        import base64

        return {"cert_bytes": base64.b64encode(chain).decode(), "key_bytes": base64.b64encode(key).decode()}

    snapshot, faults = compiled(config("a", GOOD, certificates=[pem(chain, other), pem(good_chain, good_key)]))

    assert [c.names for c in snapshot.settings.certificates] == [("c.example.com",)]
    assert [(fault.subject, "belong together" in fault.reason) for fault in faults] == [("certificate 1", True)]
    assert list(by_id(snapshot)) == ["r1"]

"""The order in which routes are tried (R-7, routes 3.5 and 3.6)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomerium_agent.config.order import sort_key_of
from pomerium_agent.records import Record
from tests.fakes.config_records import compiled, config, entity, route, versioned


def order(*records: Record) -> list[str]:
    snapshot, faults = compiled(*records)
    assert not faults, faults
    return [r.id for r in snapshot.routes]


def test_exact_paths_come_before_regexes_before_prefixes_before_everything() -> None:
    """A2."""
    host = {"from_": "https://api.example.com", "to": ["http://a.internal"]}

    assert order(
        config(
            "c",
            route(id="d", **host),
            route(id="c", prefix="/v1/", **host),
            route(id="b", regex="^/v[0-9]+/users/.*$", **host),
            route(id="a", path="/v1/status", **host),
        )
    ) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://app.example.com", "https://app.example.com/"),
        ("https://app.example.com", "https://app.example.com:443"),
        ("https://app.example.com", "https://APP.example.com"),
        ("https://app.example.com", "http://app.example.com"),
        ("https://*.app.example.com", "https://*.app.example.com:443"),
    ],
)
def test_a_host_that_is_spelled_in_two_ways_is_one(one: str, other: str) -> None:
    """Or what is open to everybody on one of them would catch what the other one guards."""
    for first, second in ((one, other), (other, one)):
        everything = route(id="open", from_=first, allow_public_unauthenticated_access=True)

        assert order(config("c", everything, route(id="guarded", from_=second, prefix="/admin"))) == ["guarded", "open"]


def test_a_port_of_its_own_goes_before_any_port() -> None:
    """Where hosts with a wildcard share one virtual host."""
    everything = route(id="a", from_="https://*.example.com", allow_public_unauthenticated_access=True)

    assert order(config("c", everything, route(id="b", from_="https://*.example.com:8443"))) == ["b", "a"]


def test_a_route_without_a_prefix_keeps_its_place_behind_one_with_a_slash() -> None:
    """Also as an accepted version of itself."""
    bare = route(id="a", allow_public_unauthenticated_access=True)
    slash = route(id="b", prefix="/")
    before, _ = compiled(config("c", bare, slash))
    after, _ = compiled(
        config("c", route(id="a", allow_public_unauthenticated_access=True, timeout="-5s"), slash), previous=before
    )

    assert [each.id for each in before.routes] == [each.id for each in after.routes] == ["b", "a"]


def test_each_key_counts_in_its_turn() -> None:
    by_rank = [
        route(id="a-host", from_="https://a.example.com"),
        route(id="path-b", path="/b"),
        route(id="path-a-long", path="/a/long"),
        route(id="path-a", path="/a"),
        route(id="first", regex="a", regex_priority_order=10),
        route(id="second", regex="z", regex_priority_order=9),
        route(id="zero", prefix="/", regex_priority_order=0),
        route(id="negative", regex="z", regex_priority_order=-1),
        route(id="regex-z", regex="z"),
        route(id="regex-a", regex="a"),
        route(id="prefix-long", prefix="/foo/bar"),
        route(id="prefix", prefix="/foo"),
        route(id="1"),
        route(id="2"),
        route(id="z-host", from_="https://z.example.com"),
    ]
    shuffled = random.Random(7).sample(by_rank, len(by_rank))

    assert order(config("c", *shuffled)) == [r.id for r in by_rank]


def test_the_more_literal_wildcard_comes_first_and_all_come_after_plain_hosts() -> None:
    """Routes 3.6: `*.example.com` must not capture the traffic of `*.z.example.com`."""
    assert order(
        config(
            "c",
            route(id="wide", from_="https://*.example.com"),
            route(id="narrow", from_="https://*.z.example.com"),
            route(id="wide-path", from_="https://*.example.com", path="/x"),
            route(id="plain", from_="https://zz.example.com"),
        )
    ) == ["plain", "narrow", "wide-path", "wide"]


PATHS = st.sampled_from(["", "/", "/a", "/a/b", "/b", "/ü"])
ROUTES = st.builds(
    lambda host, path, prefix, regex, priority: {
        "from_": f"https://{host}.example.com",
        "path": path,
        "prefix": prefix,
        "regex": regex,
        **({} if priority is None else {"regex_priority_order": priority}),
    },
    st.sampled_from(["a", "b", "*", "*.b"]),
    PATHS,
    PATHS,
    st.sampled_from(["", "a", "ab", "("]),
    st.sampled_from([None, -1, 0, 5]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROUTES, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_arrival_never_shows(fields: list[dict[str, object]], chance: random.Random) -> None:
    """R-7: the same records in any order make the same snapshot and the same faults."""
    routes = [route(id=str(number), **given_fields) for number, given_fields in enumerate(fields)]
    records = [
        config("a", *routes[0::4], cookie_name="a"),
        config("b", *routes[1::4], cookie_name="b"),
        versioned("a", *routes[2::4], conditions=[]),
        *(entity(r.id, r) for r in routes[3::4]),
    ]

    one = compiled(*records)
    other = compiled(*chance.sample(records, len(records)))

    assert one == other


@settings(max_examples=60, deadline=None)
@given(st.lists(ROUTES, max_size=8, unique_by=str))
def test_a_compiled_route_still_knows_its_place(fields: list[dict[str, object]]) -> None:
    """A route with one kind of matcher sorts the same from its compiled form, as one that is kept must."""
    single = [
        {k: v for k, v in f.items() if k not in ("path", "regex") and not (k == "prefix" and not v)} for f in fields
    ]
    routes = [route(id=str(number), **given_fields) for number, given_fields in enumerate(single)]

    snapshot, _ = compiled(config("c", *routes))

    explicit = [r for r in snapshot.routes if r.match.value != "/"]
    assert sorted(explicit, key=sort_key_of) == explicit

"""Finding the route that Envoy refuses, without asking Envoy more often than needed."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.agent.blame import Blame
from pomerium_agent.config.action import DirectResponse, Unavailable
from pomerium_agent.config.snapshot import ConfigSnapshot, Route, Settings
from pomerium_agent.config.source import Kind, Match, MatchKind, Source

EVERYTHING = Match(MatchKind.PREFIX)


def route(name: str, text: str = "1", match: Match = EVERYTHING) -> Route:
    source = Source(url=f"https://{name}.example.com", kind=Kind.HTTP, scheme="https", host=f"{name}.example.com")
    return Route(
        id=name, key=f"{name}={text}", source=source, match=match, action=DirectResponse(status=200, body=text)
    )


def snapshot(*routes: Route) -> ConfigSnapshot:
    return ConfigSnapshot(settings=Settings(), routes=routes)


def run(blame: Blame, wanted: ConfigSnapshot, bad: set[str]) -> tuple[ConfigSnapshot, int]:
    """Offer until there is nothing else to offer, as an Envoy that refuses tables with a bad key would have it."""
    for offers in range(1, 1000):
        offered, _ = blame.arrange(wanted)
        refused = any(each.key in bad for each in offered.routes)
        more = blame.rejected(offered, "no") if refused else blame.accepted(offered)
        if not more:
            return offered, offers
    raise AssertionError("the search does not end")


def test_a_table_that_is_accepted_costs_one_offer() -> None:
    wanted = snapshot(route("a"), route("b"))

    assert run(Blame(), wanted, bad=set()) == (wanted, 1)


def test_the_one_bad_route_answers_503_and_the_others_serve() -> None:
    wanted = snapshot(*(route(name) for name in "abcdefgh"))

    offered, offers = run(Blame(), wanted, bad={"d=1"})

    assert [type(each.action) for each in offered.routes] == [
        Unavailable if each.id == "d" else DirectResponse for each in wanted.routes
    ]
    assert offers <= 1 + 2 * 3 + 1


def test_a_bad_change_leaves_the_accepted_version_in_its_place() -> None:
    blame = Blame()
    run(blame, snapshot(route("a"), route("b")), bad=set())

    offered, _ = run(blame, snapshot(route("a"), route("b", "2")), bad={"b=2"})

    assert offered.routes == (route("a"), route("b", "1"))


def test_only_what_changed_is_suspected() -> None:
    blame = Blame()
    many = [route(str(number)) for number in range(1000)]
    run(blame, snapshot(*many), bad=set())

    _, offers = run(blame, snapshot(*many, route("new")), bad={"new=1"})

    assert offers == 2


def test_a_route_once_refused_is_held_back_at_once_until_it_changes() -> None:
    blame = Blame()
    wanted = snapshot(route("a"), route("b"))
    run(blame, wanted, bad={"b=1"})

    _, offers = run(blame, wanted, bad={"b=1"})
    assert offers == 1

    offered, _ = run(blame, snapshot(route("a"), route("b", "2")), bad={"b=1"})
    assert offered.routes == (route("a"), route("b", "2"))


def test_the_fault_names_the_route_and_repeats_what_envoy_said() -> None:
    blame = Blame()
    wanted = snapshot(replace(route("b"), name="books"))
    run(blame, wanted, bad={"b=1"})

    _, faults = blame.arrange(wanted)

    assert [(f.subject, f.route_id) for f in faults] == [('route "books" (https://b.example.com)', "b")]
    assert "envoy refuses it: no" in faults[0].reason


def test_a_refused_regex_is_answered_for_its_whole_host() -> None:
    """Routes 13: a match that may be the fault itself cannot be used again."""
    blame = Blame()

    offered, _ = run(blame, snapshot(route("a", match=Match(MatchKind.REGEX, "("))), bad={"a=1"})

    assert offered.routes[0].match == Match(MatchKind.PREFIX, "/")


def test_an_accepted_version_that_stays_is_never_more_open_than_the_new_one_was_meant_to_be() -> None:
    """R-4: whoever closed a route must not find it open because Envoy refused something else about it."""
    blame = Blame()
    run(blame, snapshot(replace(route("a"), public=True)), bad=set())

    offered, _ = run(blame, snapshot(route("a", "2")), bad={"a=2"})

    [kept] = offered.routes
    assert kept.action == DirectResponse(status=200, body="1")
    assert not kept.public
    assert kept.key != route("a").key


def test_an_accepted_version_keeps_its_own_place_among_the_routes() -> None:
    """Routes 3.5, 13: where the new one would stand, it would catch what stricter routes below it are for."""
    blame = Blame()
    host = route("host").source
    everything = replace(route("moving"), source=host, public=True)
    run(blame, snapshot(everything), bad=set())
    moved = replace(route("moving", "2", Match(MatchKind.PATH, "/status")), source=host, public=True)
    strict = replace(route("strict", match=Match(MatchKind.PREFIX, "/admin")), source=host)
    lax = replace(route("x-lax"), source=host)

    offered, _ = run(blame, snapshot(moved, strict, lax), bad={"moving=2"})

    assert [(each.id, each.match.value) for each in offered.routes] == [
        ("strict", "/admin"),
        ("moving", "/"),
        ("x-lax", "/"),
    ]


def test_a_table_refused_for_another_reason_is_not_blamed_on_a_route() -> None:
    blame = Blame()
    wanted = snapshot(route("a"))
    run(blame, wanted, bad=set())

    assert not blame.rejected(wanted, "something else")
    assert blame.refused == {}


@given(st.lists(st.booleans(), max_size=40))
def test_every_bad_route_is_found_and_no_good_one_is_blamed(goodness: list[bool]) -> None:
    blame = Blame()
    wanted = snapshot(*(route(str(number)) for number in range(len(goodness))))
    bad = {f"{number}=1" for number, good in enumerate(goodness) if not good}

    offered, _ = run(blame, wanted, bad)

    assert set(blame.refused) == bad
    assert [isinstance(each.action, Unavailable) for each in offered.routes] == [not good for good in goodness]

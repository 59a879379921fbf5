"""What becomes of a request that a route matches (routes 4, 6)."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from pomerium_agent.config.action import DirectResponse, HostRewrite, Redirect, Unavailable
from pomerium_agent.config.snapshot import HeaderRewrite, Route
from pomerium_agent.config.source import Match, MatchKind
from pomerium_agent.envoyconfig.route import LUA_METADATA, RouteContext, build_route, checksum
from pomerium_agent.envoyconfig.skip import EXT_AUTHZ
from pomerium_agent.pb.envoy.config.route.v3 import route_components_pb2 as pb
from pomerium_agent.pb.envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from tests.fakes.snapshots import forward, route, snapshot


def built(each: Route, **settings: Any) -> pb.Route:
    return build_route(each, RouteContext.of(snapshot([each], **settings)))


def check_of(each: pb.Route) -> ext_authz_pb2.ExtAuthzPerRoute:
    return ext_authz_pb2.ExtAuthzPerRoute.FromString(each.typed_per_filter_config[EXT_AUTHZ].value)


def test_every_route_that_is_not_public_is_asked_about() -> None:
    """R-9: redirects and direct responses too."""
    for action in (forward(), Redirect(host="x"), DirectResponse(status=200)):
        asked = route(action=action)

        assert dict(check_of(built(asked)).check_settings.context_extensions) == {
            "internal": "false",
            "route_id": "r1",
            "route_checksum": str(checksum(asked)),
        }


def test_a_public_route_asks_nobody() -> None:
    assert check_of(built(route(public=True))).disabled


def test_the_checksum_is_a_number_of_64_bits_that_follows_the_route() -> None:
    """R-9."""
    one, other = checksum(route()), checksum(route(public=True))

    assert one != other
    assert one == checksum(route())
    assert 0 <= one < 2**64


def test_a_route_with_a_fault_says_so_to_everybody_and_names_it() -> None:
    """R-4, architecture 4.2."""
    aside = built(route(action=Unavailable(fault_id="00c0ffee")))

    assert aside.direct_response.status == 503
    assert "00c0ffee" in aside.direct_response.body.inline_string
    assert check_of(aside).disabled


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (Match(MatchKind.PREFIX, "/a"), pb.RouteMatch(prefix="/a")),
        (Match(MatchKind.PATH, "/a"), pb.RouteMatch(path="/a")),
        (Match(MatchKind.REGEX, "/a+"), pb.RouteMatch(safe_regex={"regex": "/a+"})),
        (
            Match(MatchKind.CONNECT),
            pb.RouteMatch(connect_matcher={}, headers=[{"name": ":method", "string_match": {"exact": "CONNECT"}}]),
        ),
    ],
)
def test_one_matcher_per_route(match: Match, expected: pb.RouteMatch) -> None:
    assert built(route(match=match)).match == expected


@pytest.mark.parametrize(("set_to", "expected"), [(None, 30), (timedelta(0), 0), (timedelta(seconds=90), 90)])
def test_a_timeout_of_zero_is_none_and_none_is_the_default(set_to: timedelta | None, expected: int) -> None:
    """R-10."""
    assert built(route(action=forward(timeout=set_to))).route.timeout.seconds == expected
    assert built(route(), default_upstream_timeout=timedelta(seconds=7)).route.timeout.seconds == 7


def test_an_idle_timeout_is_only_said_when_there_is_one() -> None:
    """R-10."""
    assert not built(route()).route.HasField("idle_timeout")
    assert built(route(action=forward(idle_timeout=timedelta(0)))).route.HasField("idle_timeout")


def test_upgrades_are_explicit_and_each_type_is_there_once() -> None:
    """R-10."""
    upgrades = (("websocket", True), ("spdy/3.1", False), ("WebSocket", False), ("custom", True))

    configs = built(route(action=forward(upgrades=upgrades))).route.upgrade_configs

    assert [(c.upgrade_type, c.enabled.value) for c in configs] == [
        ("websocket", True),
        ("spdy/3.1", False),
        ("custom", True),
    ]


def test_a_tunnel_is_ended_here_only_for_upstreams_that_speak_no_http() -> None:
    here = built(route(url="tcp+https://db:5432", action=forward("tcp://pg:5432", connect=True)))
    further = built(route(url="tcp+https://db:5432", action=forward("http://proxy:3128")))

    assert [c.HasField("connect_config") for c in here.route.upgrade_configs if c.upgrade_type == "connect"] == [True]
    assert [c.HasField("connect_config") for c in further.route.upgrade_configs if c.upgrade_type == "connect"] == [
        False
    ]


@pytest.mark.parametrize(
    ("rewrite", "field", "value"),
    [
        (HostRewrite(literal="a"), "host_rewrite_literal", "a"),
        (HostRewrite(header="x-h"), "host_rewrite_header", "x-h"),
        (HostRewrite(), "auto_host_rewrite", True),
        (HostRewrite(preserve=True), "auto_host_rewrite", False),
    ],
)
def test_one_rule_decides_the_host_an_upstream_sees(rewrite: HostRewrite, field: str, value: object) -> None:
    action = built(route(action=forward(host_rewrite=rewrite))).route

    assert action.WhichOneof("host_rewrite_specifier") == field
    found = getattr(action, field)
    assert getattr(found, "value", found) == value


def test_a_host_may_be_taken_from_the_path() -> None:
    rewrite = HostRewrite(path_regex="^/(.+)/.*$", path_substitution=r"\1")

    found = built(route(action=forward(host_rewrite=rewrite))).route.host_rewrite_path_regex

    assert (found.pattern.regex, found.substitution) == ("^/(.+)/.*$", r"\1")


def test_a_preserved_host_is_not_announced_as_forwarded() -> None:
    assert built(route()).route.append_x_forwarded_host
    assert not built(route(action=forward(host_rewrite=HostRewrite(preserve=True)))).route.append_x_forwarded_host
    assert not built(route(action=forward(append_forwarded_host=False))).route.append_x_forwarded_host


def test_a_path_is_rewritten_by_one_rule_at_most() -> None:
    """Routes 4.2: Envoy refuses the whole table when both are set."""
    plain = built(route(action=forward("http://up/base"))).route
    prefix = built(route(action=forward("http://up/base", prefix_rewrite="/x", regex_rewrite="y"))).route
    regex = built(route(action=forward("http://up/base", regex_rewrite="y", regex_substitution=r"\0"))).route

    assert (plain.prefix_rewrite, plain.HasField("regex_rewrite")) == ("/base", False)
    assert (prefix.prefix_rewrite, prefix.HasField("regex_rewrite")) == ("/x", False)
    assert (regex.prefix_rewrite, regex.regex_rewrite.pattern.regex, regex.regex_rewrite.substitution) == (
        "",
        "y",
        r"\0",
    )


def test_affinity_is_by_routing_key_then_by_address() -> None:
    """Routes 9.5."""
    first, second = built(route()).route.hash_policy

    assert (first.header.header_name, first.terminal) == ("x-pomerium-routing-key", True)
    assert (second.connection_properties.source_ip, second.terminal) == (True, True)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_has_the_code_it_was_given(code: int) -> None:
    names = {
        301: "MOVED_PERMANENTLY",
        302: "FOUND",
        303: "SEE_OTHER",
        307: "TEMPORARY_REDIRECT",
        308: "PERMANENT_REDIRECT",
    }

    found = built(route(action=Redirect(host="x", code=code))).redirect

    assert pb.RedirectAction.RedirectResponseCode.Name(found.response_code) == names[code]


def test_in_a_redirect_https_beats_scheme_and_path_beats_prefix() -> None:
    found = built(
        route(action=Redirect(https=False, scheme="ftp", path="/p", prefix="/q", port=81, strip_query=True))
    ).redirect

    assert found.WhichOneof("scheme_rewrite_specifier") == "https_redirect"
    assert (found.path_redirect, found.prefix_rewrite, found.port_redirect, found.strip_query) == ("/p", "", 81, True)


def test_the_filters_are_told_what_to_take_off_and_rewrite() -> None:
    """Routes 4.1."""
    rewrites = (HeaderRewrite(header="Location", value="b", prefix="a"), HeaderRewrite(header="Server", value="c"))
    rewriting = route(rewrite_response_headers=rewrites, kubernetes=True)

    told = built(rewriting, cookie_name="_mine").metadata.filter_metadata[LUA_METADATA]

    assert told["remove_pomerium_cookie"] == "_mine"
    assert told["remove_pomerium_authorization"] is True
    assert told["remove_impersonate_headers"] is True
    assert MessageToDict(told)["rewrite_response_headers"] == [
        {"header": "Location", "value": "b", "prefix": "a"},
        {"header": "Server", "value": "c"},
    ]


def test_a_route_wakes_the_scripts_it_needs_and_no_others() -> None:
    """Routes 8.1: asleep, they cost other routes nothing."""
    rewriting = route(rewrite_response_headers=(HeaderRewrite(header="Server", value="c"),))

    assert built(route()).typed_per_filter_config.keys() == {EXT_AUTHZ}
    assert built(rewriting).typed_per_filter_config.keys() == {EXT_AUTHZ, "pomerium.rewrite"}
    assert built(route(kubernetes=True)).typed_per_filter_config.keys() == {
        EXT_AUTHZ,
        "pomerium.impersonation",
        "pomerium.groups",
    }


def test_a_context_holds_nothing_a_route_does_not_read() -> None:
    """What is in it throws every kept route away when it changes."""
    assert RouteContext.of(snapshot(log_level="debug")) == RouteContext.of(snapshot(timeout_read=timedelta(1)))
    assert RouteContext.of(snapshot()) != RouteContext.of(snapshot(cookie_name="_other"))

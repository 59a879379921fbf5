"""Which names a route answers to (routes 3.2, 3.6, R-6)."""

import re

import pytest

from pomerium_agent.config.source import Kind, Source
from pomerium_agent.envoyconfig.build import build_resources
from pomerium_agent.envoyconfig.resources import ROUTES
from pomerium_agent.envoyconfig.virtual_hosts import authority_regexes, domains, host_names
from pomerium_agent.pb.envoy.config.route.v3 import route_pb2
from tests.fakes.snapshots import LOCAL, prefix, route, snapshot, source


def table(*routes: object, **settings: object) -> route_pb2.RouteConfiguration:
    built = build_resources(snapshot(routes, **settings), LOCAL)  # type: ignore[arg-type]  # routes, said shortly
    return route_pb2.RouteConfiguration.FromString(built.of(ROUTES)["main"].body)


@pytest.mark.parametrize(
    ("url", "any_port", "expected"),
    [
        ("https://h", True, {"h": ("h", "h:*")}),
        ("https://h:443", True, {"h": ("h", "h:*")}),
        ("http://h:80", True, {"h": ("h", "h:*")}),
        ("https://h:80", True, {"h:80": ("h:80",)}),
        ("https://h:8443", True, {"h:8443": ("h:8443",)}),
        ("https://h", False, {"h": ("h",), "h:443": ("h:443",)}),
        ("http://h", False, {"h": ("h",), "h:80": ("h:80",)}),
        ("https://h:8443", False, {"h:8443": ("h:8443",)}),
        ("https://[::1]", True, {"[::1]": ("[::1]", "[::1]:*")}),
        ("https://[::1]:8443", True, {"[::1]:8443": ("[::1]:8443",)}),
        ("tcp+https://h:5432", True, {"h:5432": ("h:5432",)}),
        ("tcp+https://h", True, {"h": ("h", "h:*")}),
        ("https://*.h", True, {}),
    ],
)
def test_a_from_answers_to_these_names(url: str, any_port: bool, expected: dict[str, tuple[str, ...]]) -> None:
    names = host_names(source(url), any_port=any_port)

    assert {name: domains(name, any_port=any_port) for name in names} == expected


def test_targets_behind_a_shared_front_host_are_the_names() -> None:
    shared = Source(url="", kind=Kind.TCP, scheme="tcp+https", host="front", targets=("a:1", "b:2", "a:1"))

    assert host_names(shared, any_port=True) == ("a:1", "b:2")


@pytest.mark.parametrize(
    ("url", "any_port", "expected"),
    [
        ("https://*.apps.example.com", True, (r"(?i)^(.*)\.apps\.example\.com(:(.+))?$",)),
        ("https://*.x:443", True, (r"(?i)^(.*)\.x(:(.+))?$",)),
        ("https://a-*.x:8443", True, (r"(?i)^a-(.*)\.x:8443$",)),
        ("https://*.x", False, (r"(?i)^(.*)\.x$", r"(?i)^(.*)\.x:443$")),
        ("http://*", False, (r"(?i)^(.*)$", r"(?i)^(.*):80$")),
    ],
)
def test_a_wildcard_is_an_expression_over_the_host_header(url: str, any_port: bool, expected: tuple[str, ...]) -> None:
    assert authority_regexes(source(url), any_port=any_port) == expected


def test_a_dot_in_a_wildcard_host_is_a_dot() -> None:
    [expression] = authority_regexes(source("https://*.example.com"), any_port=True)

    assert re.fullmatch(expression, "a.b.example.com:8443")
    assert not re.fullmatch(expression, "a.examplexcom")


def test_a_wildcard_matches_a_host_in_any_spelling() -> None:
    [expression] = authority_regexes(source("https://*.example.com"), any_port=True)

    assert re.fullmatch(expression, "A.Example.COM")


def test_domains_are_unique_by_construction() -> None:
    urls = ("https://h", "http://h", "https://h:443", "http://h:443", "https://h:80", "tcp+https://h:80", "https://*.h")

    for any_port in (True, False):
        routes = [route(str(i), url, match=prefix(f"/{i}")) for i, url in enumerate(urls)]
        hosts = table(*routes, match_any_incoming_port=any_port, hosts_of_authenticate=("h",)).virtual_hosts

        names = [domain for host in hosts for domain in host.domains]
        assert len(names) == len(set(names))


def test_the_agents_own_routes_come_first_everywhere() -> None:
    """R-8."""
    hosts = table(route(), route("w", "https://*.example.com")).virtual_hosts

    assert [host.name for host in hosts] == ["app.example.com", "catch-all"]
    for host in hosts:
        paths = [r.match.path or r.match.path_separated_prefix for r in host.routes[:4]]
        assert paths == ["/ping", "/healthz", "/.pomerium", "/.well-known/pomerium"]
        assert {r.route.cluster for r in host.routes[:4]} == {"pomerium-control-plane-http"}
        assert [r.name for r in host.routes[4:]] != []


def test_the_login_service_answers_on_its_own_hosts_only() -> None:
    """R-8, routes 8.4."""
    hosts = {host.name: host for host in table(route(), hosts_of_authenticate=("login.example.com",)).virtual_hosts}

    login = [r.match.path for r in hosts["login.example.com"].routes]
    assert {"/oauth2/callback", "/", "/robots.txt"} <= set(login)
    assert "/oauth2/callback" not in [r.match.path for r in hosts["app.example.com"].routes]


def test_the_wildcard_that_spells_out_most_is_tried_first() -> None:
    routes = [
        route("wide", "https://*.example.com"),
        route("narrow", "https://*.z.example.com", match=prefix("/b")),
        route("narrow2", "https://*.z.example.com", match=prefix("/a")),
    ]

    [catch_all] = table(*routes).virtual_hosts

    assert [r.name for r in catch_all.routes[4:]] == ["narrow", "narrow2", "wide"]


def test_there_is_a_catch_all_without_any_route() -> None:
    [host] = table().virtual_hosts

    assert list(host.domains) == ["*"]


def test_a_host_that_is_called_like_the_catch_all_is_not_it() -> None:
    hosts = table(route(url="https://catch-all")).virtual_hosts

    assert [list(host.domains) for host in hosts] == [["catch-all", "catch-all:*"], ["*"]]


def test_routes_of_one_host_keep_their_order() -> None:
    """R-7: the order is the compiler's."""
    routes = [route(id, match=prefix(f"/{id}")) for id in "cab"]

    host = table(*routes).virtual_hosts[0]

    assert [r.name for r in host.routes[4:]] == ["c", "a", "b"]


def test_headers_of_all_routes_are_said_once_unless_a_route_wants_none() -> None:
    common = table(route(set_response_headers={"X-Frame-Options": "DENY"}))
    special = table(route(), route("quiet", "https://quiet.example.com", set_response_headers={"disable": ""}))

    assert [h.header.key for h in common.response_headers_to_add] == [
        "Strict-Transport-Security",
        "X-Frame-Options",
        "X-XSS-Protection",
    ]
    assert common.most_specific_header_mutations_wins
    assert [h.header.key for h in common.virtual_hosts[0].routes[4].response_headers_to_add] == ["X-Frame-Options"]
    assert not special.response_headers_to_add
    assert len(special.virtual_hosts[0].routes[4].response_headers_to_add) == 3
    assert not special.virtual_hosts[1].routes[4].response_headers_to_add

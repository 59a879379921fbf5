"""The grammar of `from` and `to` (routes 3.1, 3.3)."""

import pytest

from pomerium_agent.config.action import Endpoint, Transport
from pomerium_agent.config.complaints import Complaints, Unusable
from pomerium_agent.config.source import Kind, Source
from pomerium_agent.config.urls import parse_endpoint, parse_source, parse_upstreams, with_weights


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://app.example.com", "app.example.com", None),
        ("https://app.example.com/", "app.example.com", None),
        ("http://app.example.com", "app.example.com", None),
        ("https://app.example.com:8443", "app.example.com", 8443),
        ("https://APP.Example.COM", "app.example.com", None),
        ("https://bücher.example", "xn--bcher-kva.example", None),
        ("https://BÜCHER.example", "xn--bcher-kva.example", None),
        ("https://*.apps.example.com", "*.apps.example.com", None),
        ("https://a-*.example.com:444", "a-*.example.com", 444),
        ("https://192.0.2.1", "192.0.2.1", None),
        ("https://[2001:DB8::1]:8443", "[2001:db8::1]", 8443),
        ("https://under_score.example.com", "under_score.example.com", None),
    ],
)
def test_a_public_url_comes_down_to_a_host_in_lower_case_ascii(url: str, host: str, port: int | None) -> None:
    source = parse_source(url)

    assert (source.kind, source.host, source.port, source.url) == (Kind.HTTP, host, port, url)
    assert source.wildcard == ("*" in host)


@pytest.mark.parametrize(
    ("url", "kind", "port", "targets"),
    [
        ("tcp+https://db.example.com:5432", Kind.TCP, 5432, ()),
        ("tcp+https://db.example.com:5432/", Kind.TCP, 5432, ()),
        ("tcp+https://proxy.example.com/db:5432/Cache:6379", Kind.TCP, None, ("db:5432", "cache:6379")),
        ("udp+https://dns.example.com:53", Kind.UDP, 53, ()),
    ],
)
def test_tunnels_know_their_targets(url: str, kind: Kind, port: int | None, targets: tuple[str, ...]) -> None:
    source = parse_source(url)

    assert (source.kind, source.port, source.targets) == (kind, port, targets)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "it is empty"),
        ("app.example.com", "no scheme"),
        ("app.example.com:8443", "no scheme"),
        ("//app.example.com", "no scheme"),
        ("https://", "no host"),
        ("tcp+https://front.example.com/*:443", "has a wildcard"),
        ("udp+https://front.example.com/*.example.com:53", "has a wildcard"),
        ("https:///path", "no host"),
        ("https://app.example.com/admin", "has a path"),
        ("https://app.example.com?x=1", "query"),
        ("ftp://app.example.com", "the scheme of"),
        ("ssh://app.example.com", "ssh routes are not supported"),
        ("https://app.example.com:99999", "not a URL"),
        ("https://app.example.com:0", "port 0"),
        ("https://app example.com", "white space"),
        ("https://app.example.com\n", "white space"),
        ("https://a..b", "not a host name"),
        ("https://a,b.example.com", "not a host name"),
        ("https://[::zz]", "not a URL|no valid IPv6"),
        ("https://user:secret@app.example.com", "user name"),
        ("tcp+https://*.example.com:22", "wildcard"),
        ("tcp+https://proxy.example.com/db", "no port"),
    ],
)
def test_a_public_url_that_cannot_work_is_refused_with_a_reason(url: str, complaint: str) -> None:
    with pytest.raises(Unusable, match=complaint) as caught:
        parse_source(url)

    assert caught.value.remedy
    assert "secret" not in caught.value.reason + caught.value.remedy


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "http://web.internal:8080",
            {"transport": Transport.HTTP, "host": "web.internal", "port": 8080, "hostname": "web.internal:8080"},
        ),
        (
            "https://Wiki.internal",
            {"transport": Transport.HTTPS, "port": 443, "hostname": "wiki.internal", "server_name": "wiki.internal"},
        ),
        ("http://localhost:3000", {"host": "127.0.0.1", "hostname": "localhost:3000", "port": 3000}),
        ("h2c://grpc.internal:9090", {"transport": Transport.H2C, "port": 9090, "server_name": ""}),
        ("h2c://grpc.internal", {"port": 80}),
        ("https://10.1.2.3:8443", {"server_name": "10.1.2.3", "is_ip": True}),
        ("http://[::1]:80", {"host": "::1", "hostname": "[::1]:80", "is_ip": True}),
        ("https://u.internal/base/?q=1", {"path": "/base/"}),
        ("http://10.0.0.1,10", {"host": "10.0.0.1", "weight": 10, "url": "http://10.0.0.1"}),
        ("unix:///run/app.sock", {"pipe": "/run/app.sock", "transport": Transport.HTTP, "hostname": ""}),
        ("http+unix:///run/a%20b.sock", {"pipe": "/run/a b.sock", "transport": Transport.HTTP}),
        ("https+unix:///run/app.sock,3", {"pipe": "/run/app.sock", "tls": True, "server_name": "", "weight": 3}),
        ("tcp://pg.internal:5432", {"transport": Transport.TCP, "port": 5432}),
    ],
)
def test_an_upstream_url_becomes_what_envoy_dials(url: str, expected: dict[str, object]) -> None:
    endpoint = parse_endpoint(url)

    assert {name: getattr(endpoint, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "it is empty"),
        ("web.internal:8080", "no scheme"),
        ("http://", "no host"),
        ("gopher://web.internal", "the scheme of"),
        ("ssh://web.internal:22", "ssh upstreams are not supported"),
        ("tcp://pg.internal", "no port"),
        ("http://*.internal", "wildcard"),
        ("http://web.internal:70000", "not a URL"),
        ("http://web.internal,0", "not a weight"),
        ("http://web.internal,", "not a weight"),
        ("http://web.internal,1,2", "not a weight"),
        ("http://web.internal,ten", "not a weight"),
        ("http://web.internal,-1", "not a weight"),
        ("http://user:secret@web.internal", "user name"),
        ("unix://run/app.sock", "has a host"),
        ("unix:///", "names no socket"),
        ("unix:///" + "x" * 200, "longer than 107"),
    ],
)
def test_an_upstream_url_that_cannot_work_is_refused_with_a_reason(url: str, complaint: str) -> None:
    with pytest.raises(Unusable, match=complaint) as caught:
        parse_endpoint(url)

    assert "secret" not in caught.value.reason + caught.value.remedy


@pytest.mark.parametrize(
    ("urls", "complaint"),
    [
        (["http://a,1", "http://b"], "1 of 2 URLs carry a weight"),
        (["http://a", "tcp://b:1"], "cannot mix tcp"),
        (["udp://a:1", "http://b"], "cannot mix udp"),
        (["unix:///run/a", "http://b"], "cannot mix unix"),
    ],
)
def test_upstreams_of_one_route_are_of_one_kind(urls: list[str], complaint: str) -> None:
    complaints = Complaints("route")

    parse_upstreams(urls, complaints)

    assert [complaint in fault.reason for fault in complaints.faults] == [True]


def test_every_bad_upstream_is_named_at_once() -> None:
    complaints = Complaints("route")

    parse_upstreams(["http://", "http://good", "ftp://x"], complaints)

    assert [fault.field for fault in complaints.faults] == ["to[0]", "to[2]"]


def weights(endpoints: tuple[Endpoint, ...]) -> list[int | None]:
    return [endpoint.weight for endpoint in endpoints]


def test_separate_weights_count_only_when_there_is_one_per_url() -> None:
    complaints = Complaints("route")
    endpoints = parse_upstreams(["http://a", "http://b"], complaints)

    assert weights(with_weights(endpoints, [3, 0], complaints)) == [3, None]
    assert not complaints.faults
    assert weights(with_weights(endpoints, [3], complaints)) == [None, None]
    assert [fault.warning for fault in complaints.faults] == [True]


def test_weights_that_envoy_could_not_add_up_are_refused() -> None:
    complaints = Complaints("route")
    endpoints = parse_upstreams(["http://a,4294967295", "http://b,1"], complaints)

    with_weights(endpoints, [], complaints)

    assert complaints.refused


def test_a_source_without_a_port_knows_that_none_was_written() -> None:
    assert parse_source("https://h") == Source(url="https://h", kind=Kind.HTTP, scheme="https", host="h")

"""What a change costs, and what it leaves alone (R-31)."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pomerium_agent.config.action import Redirect
from pomerium_agent.config.snapshot import ConfigSnapshot
from pomerium_agent.envoyconfig import BuildCache, build_resources
from pomerium_agent.envoyconfig.resources import CLUSTER, LISTENER, ROUTES, SECRET, TYPE_URLS, EnvoyResources
from pomerium_agent.pb.envoy.config.route.v3 import route_pb2
from tests.fakes.snapshots import LOCAL, forward, route, snapshot


def changed(old: EnvoyResources, new: EnvoyResources) -> set[tuple[str, str]]:
    """The resources that one has and the other has not, or in another version."""
    return {
        (url, name)
        for url in TYPE_URLS
        for name in {**old.of(url), **new.of(url)}
        if old.of(url).get(name) != new.of(url).get(name)
    }


def many(count: int) -> list[str]:
    return [f"https://h{index}.example.com" for index in range(count)]


def test_a_build_with_a_cache_equals_one_without() -> None:
    cache = BuildCache()
    routes = [route(f"r{i}", url) for i, url in enumerate(many(20))]
    sequence = [
        snapshot(routes),
        snapshot([*routes[:5], route("r5", many(6)[5], public=True), *routes[6:]]),
        snapshot(routes[1:]),
        snapshot(routes, cookie_name="_other"),
        snapshot(routes, match_any_incoming_port=False),
        snapshot(routes, hosts_of_authenticate=("h1.example.com",)),
        snapshot(routes),
    ]

    for each in sequence:
        assert build_resources(each, LOCAL, cache) == build_resources(each, LOCAL)


def test_a_changed_upstream_changes_one_cluster_and_the_route_table() -> None:
    before = [route(f"r{i}", url) for i, url in enumerate(many(50))]
    after = [*before[:-1], route("r49", many(50)[49], action=forward("http://other.internal"))]

    assert changed(build_resources(snapshot(before), LOCAL), build_resources(snapshot(after), LOCAL)) == {
        (CLUSTER, "route-r49"),
        (ROUTES, "main"),
    }


def test_a_route_that_is_closed_is_never_open_to_its_new_upstream() -> None:
    """R-20 sends clusters before routes: in between, the open route of before must not lead to what is closed now."""
    opened = build_resources(snapshot([route(public=True, action=forward("http://site.internal"))]), LOCAL)
    closed = build_resources(snapshot([route(action=forward("http://vault.internal"))]), LOCAL)

    assert opened.of(CLUSTER).keys() - closed.of(CLUSTER).keys() == {"open-r1"}
    assert closed.of(CLUSTER).keys() - opened.of(CLUSTER).keys() == {"route-r1"}


def test_equal_snapshots_have_equal_versions() -> None:
    assert changed(build_resources(snapshot([route()]), LOCAL), build_resources(snapshot([route()]), LOCAL)) == set()


def test_versions_are_equal_in_every_process() -> None:
    """Routes 13: a new agent must not resend what the running Envoy has."""
    program = (
        "from tests.fakes.snapshots import *\n"
        "from pomerium_agent.envoyconfig import build_resources\n"
        "from pomerium_agent.envoyconfig.resources import *\n"
        "from pomerium_agent.config.snapshot import HeaderRewrite\n"
        "r = route(rewrite_response_headers=(HeaderRewrite(header='a', value='b', prefix='c'),),"
        " set_request_headers={'b': '1', 'a': '2'}, public=True)\n"
        "b = build_resources(snapshot([r], insecure_server=True), LOCAL)\n"
        "print([b.of(t)[n].version for t in TYPE_URLS for n in sorted(b.of(t))])\n"
    )

    found = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
        ).stdout
        for _ in range(2)
    }

    assert len(found) == 1


def test_spliced_bytes_are_a_route_table() -> None:
    routes = [route(f"r{i}", url) for i, url in enumerate(many(300))]

    [table] = build_resources(snapshot(routes), LOCAL).of(ROUTES).values()

    read = route_pb2.RouteConfiguration.FromString(table.body)
    assert read.name == "main"
    assert len(read.virtual_hosts) == 301
    assert not read.validate_clusters.value
    assert read.HasField("validate_clusters")
    assert read.max_direct_response_body_size_bytes.value == 1 << 20
    assert list(read.request_headers_to_remove) == ["x-pomerium-reproxy-policy", "x-pomerium-reproxy-policy-hmac"]
    assert read.SerializeToString(deterministic=True) == table.body


def test_what_is_gone_is_forgotten() -> None:
    cache = BuildCache()
    build_resources(snapshot([route("a"), route("b", "https://b.example.com")]), LOCAL, cache)

    build_resources(snapshot([route("a")]), LOCAL, cache)

    assert len(cache.clusters) == 1
    assert len(cache.table.routes) == 1
    assert len(cache.table.hosts) == 2  # its own and the catch-all


def test_a_redirect_has_no_cluster() -> None:
    built = build_resources(snapshot([route(action=Redirect(host="x"))]), LOCAL)

    assert set(built.of(CLUSTER)) == {"pomerium-authorize", "pomerium-control-plane-http"}


def test_a_plain_server_keeps_its_certificates_to_itself() -> None:
    assert set(build_resources(snapshot(insecure_server=True), LOCAL).of(SECRET)) == {"upstream-ca-system"}


def test_two_routes_with_one_id_cannot_slip_through() -> None:
    """R-6: the compiler keeps ids apart; if it did not, Envoy would refuse every cluster."""
    with pytest.raises(ValueError, match="two resources are called route-r1"):
        build_resources(snapshot([route(), route(name="other")]), LOCAL)


def test_one_change_among_a_thousand_routes_is_cheap() -> None:
    """R-31: a fraction of a full build, by CPU time; how small a one, the bench measures."""
    routes = [route(f"r{i}", url) for i, url in enumerate(many(1000))]
    cache = BuildCache()
    full = cpu(snapshot(routes), cache)

    partial = min(
        cpu(snapshot([*routes[:500], dataclasses.replace(routes[500], key=f"other {turn}"), *routes[501:]]), cache)
        for turn in range(5)
    )

    assert partial < full / 2


def cpu(each: ConfigSnapshot, cache: BuildCache) -> float:
    began = time.process_time()
    build_resources(each, LOCAL, cache)
    return time.process_time() - began


def test_everything_that_is_referred_to_is_there() -> None:
    built = build_resources(snapshot([route(action=forward("https://a"))]), LOCAL)

    text = b"".join(item.body for url in (LISTENER, CLUSTER, ROUTES) for item in built.of(url).values())
    for name in ("route-r1", "pomerium-authorize", "pomerium-control-plane-http"):
        assert name.encode() in text
        assert name in built.of(CLUSTER)
    for name in ("upstream-ca-system", "downstream-0"):
        assert name.encode() in text
        assert name in built.of(SECRET)

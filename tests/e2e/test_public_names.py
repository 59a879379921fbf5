"""How Envoy asks for the names of upstreams: a real Envoy, and a name server of the test's own (R-26, routes 1.7)."""

import subprocess
from itertools import pairwise

import pytest
from google.protobuf.duration_pb2 import Duration

from pomerium_agent.demo.upstream import serve_upstream
from pomerium_agent.pb.pomerium import config_pb2
from tests.e2e.gate import Gate, open_gate
from tests.e2e.world import eventually
from tests.fakes.name_server import NameServer, name_server


def mounts_of_its_own() -> bool:
    """Whether a process may have them here."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=10).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not mounts_of_its_own(), reason="no user namespaces here: allow unprivileged ones, or be root"),
]


def route(name: str, port: int) -> config_pb2.Route:
    made = config_pb2.Route(id=name, to=[f"http://{name}.test:{port}"], allow_public_unauthenticated_access=True)
    setattr(made, "from", f"https://{name}.example.com")
    return made


async def serves(gate: Gate, name: str) -> bool:
    return (await gate.get(f"{name}.example.com")).status == 200


async def asked_again(server: NameServer, name: str, times: int) -> bool:
    return len(server.of(name)) >= times


async def test_names_are_asked_for_over_tcp_and_again_as_often_as_it_says() -> None:
    """Routes 1.7 (147, 154): over TCP alone; an answer without a lifetime is good for the rate of refreshing."""
    async with serve_upstream() as upstream, name_server(app="127.0.0.1") as names:
        settings = config_pb2.Settings(dns_use_tcp=True, dns_refresh_rate=Duration(seconds=1))
        async with open_gate(route("app", upstream.port), settings=settings, name_server=names.address) as gate:
            await eventually("the upstream answers", lambda: serves(gate, "app"))
            names.names["app.test"] = "127.0.0.2"  # where nobody listens
            await eventually("the name is asked for again", lambda: asked_again(names, "app.test", 3))

            async def nobody_there() -> bool:
                return (await gate.get("app.example.com")).status == 503

            await eventually("its new address counts", nobody_there)

    assert all(asked.tcp for asked in names.asked)


async def test_a_name_server_in_trouble_is_asked_again_at_the_rate_of_failures() -> None:
    """Routes 1.7 (153): and not only when Envoy would have looked again by itself, which is far later here."""
    async with serve_upstream() as upstream, name_server(late="") as names:
        settings = config_pb2.Settings(
            dns_failure_refresh_rate=Duration(seconds=1), dns_refresh_rate=Duration(seconds=3600)
        )
        async with open_gate(route("late", upstream.port), settings=settings, name_server=names.address) as gate:
            assert (await gate.get("late.example.com")).status == 503
            await eventually("the name is asked for again", lambda: asked_again(names, "late.test", 3))
            names.names["late.test"] = "127.0.0.1"

            await eventually("the upstream answers", lambda: serves(gate, "late"))


async def test_a_silent_name_server_is_asked_as_often_and_as_long_as_it_says() -> None:
    """Routes 1.7 (146, 148, 149): three tries, a second and more apart, each from a port of its own."""
    async with name_server(mute=None) as names:
        settings = config_pb2.Settings(
            dns_udp_max_queries=1,
            dns_query_tries=3,
            dns_query_timeout=Duration(seconds=1),
            dns_failure_refresh_rate=Duration(seconds=3600),
        )
        async with open_gate(route("mute", 1), settings=settings, name_server=names.address):
            await eventually("it was asked three times", lambda: asked_again(names, "mute.test", 3))
            asked = names.of("mute.test")

    assert len(asked) == 3
    assert all(later.at - earlier.at >= 0.5 for earlier, later in pairwise(asked))
    assert len({each.port for each in asked}) == 3


async def test_several_questions_may_come_from_one_port() -> None:
    """Routes 1.7 (146): as many as it says."""
    async with name_server(mute=None) as names:
        settings = config_pb2.Settings(dns_udp_max_queries=50, dns_query_tries=3, dns_query_timeout=Duration(seconds=1))
        async with open_gate(route("mute", 1), settings=settings, name_server=names.address):
            await eventually("it was asked three times", lambda: asked_again(names, "mute.test", 3))

    assert len({each.port for each in names.of("mute.test")[:3]}) == 1

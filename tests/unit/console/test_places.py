"""Where clusters are, how replicas do, and what is said of it (zero link 13, 16.1)."""

import asyncio
import ipaddress
from datetime import timedelta
from pathlib import Path

import pytest

from pomerium_agent.console import sightings
from pomerium_agent.console.clusters import create_cluster
from pomerium_agent.console.core_config import parse_core_config
from pomerium_agent.console.places import (
    Place,
    detected,
    hosts_lines,
    peer_address,
    place_of,
    set_address,
    zone_lines,
)
from pomerium_agent.console.reach import latest_check
from pomerium_agent.console.server import SEEN_EVERY
from pomerium_agent.console.sightings import HealthReport, Replica, Sighting
from pomerium_agent.console.status import FORGET_AFTER, read_status
from pomerium_agent.console.store import Cluster, open_store
from pomerium_agent.console.words import status_lines
from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import config_pb2
from tests.fakes.clock import ManualClock, settle
from tests.fakes.console import NOW, visited_console

NOTHING = config_pb2.Config()
TEXT = """
authenticate_service_url: https://login.demo.example.com
routes:
- {from: https://app.demo.example.com, to: http://a}
- {from: https://APP.demo.example.com:8443, to: http://b}
- {from: "https://*.x.demo.example.com", to: http://c}
- {from: https://elsewhere.example.com, to: http://d}
- {from: "https://bank.example.com x.demo.example.com", to: http://f}
- {from: https://notdemo.example.com, to: http://e}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    with open_store(tmp_path / "data") as store:
        return create_cluster(store, "demo", domain="demo.example.com", now=NOW).cluster


def replica(
    instance: str = "i", *, address: str = "", connected: bool = True, reports: tuple[HealthReport, ...] = ()
) -> Replica:
    return Replica(
        instance=instance,
        hostname=f"host-{instance}",
        version="1",
        address=address,
        connected=connected,
        connected_at=NOW,
        last_seen=NOW,
        reports={each.check: each for each in reports},
    )


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:50000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:50000", "2001:db8::1"),
        ("ipv6:[2001:db8::1]:50000", "2001:db8::1"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:50000", "192.0.2.1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::1"),
        ("unix:/run/x", ""),
        ("ipv4:nonsense:1", ""),
        ("", ""),
    ],
)
def test_the_address_of_a_caller_is_read_from_what_grpc_says(peer: str, address: str) -> None:
    assert peer_address(peer) == address


def test_a_cluster_is_where_its_connected_replicas_call_from() -> None:
    here = (replica("a", address="192.0.2.2"), replica("b", address="2001:db8::1"), replica("c", address="192.0.2.2"))
    gone = replica("d", address="192.0.2.9", connected=False)

    assert detected((*here, gone)) == ("192.0.2.2", "2001:db8::1")
    assert detected((gone, replica("e"))) == ("192.0.2.9",)
    assert detected(()) == ()


async def test_a_replica_is_seen_with_its_address_until_an_operator_says_otherwise(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit, visit.subscribed(await visit.bearer()):
        await visit.console.presence.written()
        store = visit.console.store

        assert place_of(store, visit.cluster) == Place(("127.0.0.1",), said=False)
        shown = list(status_lines(read_status(store, visit.cluster, console_runs=True), NOW))
        assert shown[2] == "  address 127.0.0.1 (detected)"
        assert shown[3].endswith("from 127.0.0.1")

        assert set_address(store, visit.cluster, "2001:DB8::1") == "2001:db8::1"
        found = read_status(store, visit.cluster, console_runs=True)
        assert list(status_lines(found, NOW))[2] == "  address 2001:db8::1 (set)"
        assert found.to_json()["address"] == {"addresses": ["2001:db8::1"], "source": "set"}

        set_address(store, visit.cluster, "detected")
        assert place_of(store, visit.cluster).addresses == ("127.0.0.1",)


@pytest.mark.parametrize("text", ["", "example.com", "192.0.2.1:443", "192.0.2.0/24", "1.2.3"])
def test_an_address_is_an_ip_address(tmp_path: Path, text: str) -> None:
    with open_store(tmp_path / "data") as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster

        with pytest.raises(SettingsError, match="is not an IP address"):
            set_address(store, cluster, text)


# --- names ----------------------------------------------------------------------------------------


def test_a_hosts_file_has_every_name_below_the_domain(cluster: Cluster) -> None:
    config = parse_core_config(TEXT, "f", Path()).config

    lines = list(hosts_lines(cluster, Place(("192.0.2.1", "2001:db8::1"), said=True), config))

    assert lines == [
        "# demo: demo.example.com",
        "192.0.2.1\tapp.demo.example.com",
        "192.0.2.1\tdemo.example.com",
        "192.0.2.1\tlogin.demo.example.com",
        "2001:db8::1\tapp.demo.example.com",
        "2001:db8::1\tdemo.example.com",
        "2001:db8::1\tlogin.demo.example.com",
        "# a hosts file cannot say *.x.demo.example.com; use the zone file",
    ]


def test_without_an_address_the_files_say_so(cluster: Cluster) -> None:
    nowhere = Place((), said=False)

    for lines in (hosts_lines(cluster, nowhere, NOTHING), zone_lines(cluster, nowhere, 1)):
        assert any("no replica has been seen yet" in line for line in lines)


def test_a_zone_file_answers_for_the_domain_and_all_below_it(cluster: Cluster) -> None:
    """RFC 1035, 4592."""
    lines = list(zone_lines(cluster, Place(("192.0.2.1", "2001:db8::1"), said=False), 42))

    assert lines == [
        "; demo",
        "$ORIGIN demo.example.com.",
        "$TTL 60",
        "@ IN SOA ns.demo.example.com. hostmaster.demo.example.com. 42 3600 600 86400 60",
        "@ IN NS ns.demo.example.com.",
        "@ IN A 192.0.2.1",
        "@ IN AAAA 2001:db8::1",
        "* IN A 192.0.2.1",
        "* IN AAAA 2001:db8::1",
        "ns IN A 192.0.2.1",
        "ns IN AAAA 2001:db8::1",
    ]
    assert all(ipaddress.ip_address(line.split()[-1]) for line in lines[5:])


# --- reachability ---------------------------------------------------------------------------------


def checked(error: str, at: int = 1) -> HealthReport:
    return HealthReport(check="routes.reachable", error=error, time_ns=at * 10**9)


def test_what_cannot_be_reached_is_told_by_host_with_what_to_do() -> None:
    """Zero link 16.1: errors are prefixed with their host and joined by newlines."""
    text = (
        "a.example.com: DNS error: no such host\n"
        "b.example.com:8443: connection error: refused\nby everybody\n"
        "c.example.com: key not found: key k not found in JWKS"
    )

    found = latest_check((replica("a", reports=(checked("", 1),)), replica("b", reports=(checked(text, 2),))))

    assert found is not None
    assert found.replica == "host-b"
    assert found.unreachable == {
        "a.example.com": "DNS error: no such host",
        "b.example.com:8443": "connection error: refused by everybody",
        "c.example.com": "key not found: key k not found in JWKS",
    }
    first, second, third = found.lines()
    assert "console hosts" in first
    assert "console cluster set-address" in second
    assert "another cluster" in third
    assert found.to_json()["reachable"] is False


def test_the_newest_check_counts_and_may_be_well() -> None:
    found = latest_check(
        (replica("a", reports=(checked("x.y: DNS error", 1),)), replica("b", reports=(checked("", 2),)))
    )

    assert found is not None
    assert found.well
    assert list(found.lines()) == []
    assert latest_check((replica(),)) is None


def test_what_belongs_to_no_host_is_kept_too() -> None:
    found = latest_check((replica(reports=(checked("internal error"),)),))

    assert found is not None
    assert list(found.lines()) == ["reachability: internal error"]


async def test_a_status_shows_what_cannot_be_reached_once(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        store = visit.console.store
        seen = Sighting(cluster_id=visit.cluster.id, instance="i", hostname="web-1")
        store.sightings.reported(seen, [checked("a.example.com: DNS error: no such host")], NOW)

        found = read_status(store, visit.cluster, console_runs=True)

        lines = list(status_lines(found, NOW))
    assert found.replicas[0].failing == {}
    assert sum("a.example.com" in line for line in lines) == 1
    assert lines[-1].startswith("  NOT reachable: a.example.com: DNS error: no such host")
    assert lines[-1].endswith("by web-1")


# --- replicas -------------------------------------------------------------------------------------


async def test_names_and_checks_without_end_push_out_the_oldest_that_are_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has a token, be it a pod that crashes again and again, is somebody else each time."""
    monkeypatch.setattr(sightings, "MAX_AWAY", 3)
    monkeypatch.setattr(sightings, "MAX_CHECKS", 2)
    async with visited_console(tmp_path) as visit:
        seen, id = visit.console.store.sightings, visit.cluster.id
        seen.joined(Sighting(cluster_id=id, instance="here", hostname="here"), NOW)
        other = create_cluster(visit.console.store, "other", now=NOW).cluster
        seen.reported(Sighting(cluster_id=other.id, instance="elsewhere"), (), NOW)
        for number in range(10):
            at = NOW + timedelta(seconds=number)
            made_up = HealthReport(check=f"check.{number}", time_ns=number)
            seen.reported(Sighting(cluster_id=id, instance=f"i{number}", hostname="x"), (), at)
            seen.reported(Sighting(cluster_id=id, instance="here", hostname="here"), (made_up,), at)

        kept = {each.instance: each for each in seen.replicas(id)}

        assert set(kept) == {"here", "i7", "i8", "i9"}
        assert set(kept["here"].reports) == {"check.8", "check.9"}
        assert [each.instance for each in seen.replicas(other.id)] == ["elsewhere"]


def reports(role: str) -> tuple[HealthReport, ...]:
    return (
        HealthReport(check="zero.lease", attributes={"role": role}),
        HealthReport(check="xds.listener", error="no room for it"),
        HealthReport(check="storage.backend", error="away"),
    )


async def test_a_leader_that_was_killed_is_not_taken_for_one(tmp_path: Path) -> None:
    """Z-29: it had no time to say that it gave the lease back, and within half a minute somebody else has it."""
    async with visited_console(tmp_path) as visit:
        for name in ("one", "two"):
            seen = Sighting(cluster_id=visit.cluster.id, instance=name, hostname=name)
            visit.console.store.sightings.joined(seen, NOW)
            visit.console.store.sightings.reported(seen, reports("active"), NOW)
            if name == "one":
                visit.console.store.sightings.left(seen, NOW)

        found = read_status(visit.console.store, visit.cluster, console_runs=True)
        unknown = read_status(visit.console.store, visit.cluster, console_runs=False)

    assert [each.to_json()["lease_holder"] for each in found.replicas] == [None, True]
    assert [each.to_json()["lease_holder"] for each in unknown.replicas] == [None, None]


async def test_trouble_of_the_time_when_a_replica_led_is_not_shown_any_more(tmp_path: Path) -> None:
    """Z-30, Z-53: only its holder brings bundles, and that somebody has stopped to is said by no span."""
    trouble = HealthReport(check="zero.resource-bundle.config", error="the download stalled")
    async with visited_console(tmp_path) as visit:
        for name, role in (("one", "active"), ("six", ""), ("two", "standby")):
            seen = Sighting(cluster_id=visit.cluster.id, instance=name, hostname=name)
            visit.console.store.sightings.joined(seen, NOW)
            visit.console.store.sightings.reported(seen, (*(reports(role) if role else ()), trouble), NOW)

        found = read_status(visit.console.store, visit.cluster, console_runs=True)

    assert [trouble.check in each.failing for each in found.replicas] == [True, True, False]


async def test_a_status_says_who_has_the_lease_and_what_envoy_refuses(tmp_path: Path) -> None:
    """Z-29: the lease; Z-30: its holder runs the jobs."""
    async with visited_console(tmp_path) as visit:
        for name, role in (("one", "active"), ("two", "standby"), ("six", "")):
            seen = Sighting(cluster_id=visit.cluster.id, instance=name, hostname=name)
            visit.console.store.sightings.joined(seen, NOW)
            visit.console.store.sightings.reported(seen, reports(role) if role else (), NOW)

        found = read_status(visit.console.store, visit.cluster, console_runs=True)

        lines = list(status_lines(found, NOW))
    told = {each.hostname: each.to_json() for each in found.replicas}
    assert {name: each["lease_holder"] for name, each in told.items()} == {"one": True, "two": False, "six": None}
    assert told["one"]["nacks"] == {"xds.listener": "no room for it"}
    assert told["one"]["failing"] == {"xds.listener": "no room for it", "storage.backend": "away"}
    assert [line.split()[1] for line in lines if line.endswith("lease holder")] == ["one"]


async def test_a_replica_that_is_silent_for_a_day_disappears(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    async with visited_console(tmp_path, clock=clock) as visit:
        store = visit.console.store
        here = Sighting(cluster_id=visit.cluster.id, instance="here")
        store.sightings.joined(here, clock.now())
        store.sightings.reported(Sighting(cluster_id=visit.cluster.id, instance="gone"), (), clock.now())

        def shown(after: timedelta) -> list[str]:
            found = read_status(store, visit.cluster, console_runs=True, now=NOW + after)
            return [each.instance for each in found.replicas]

        assert shown(FORGET_AFTER) == ["gone", "here"]
        assert shown(FORGET_AFTER + timedelta(seconds=1)) == ["here"]

        clock.jump(FORGET_AFTER.total_seconds())
        await clock.advance(SEEN_EVERY.total_seconds())
        async with asyncio.timeout(10):  # it is done in a thread
            while len(left := await asyncio.to_thread(store.sightings.replicas, visit.cluster.id)) > 1:
                await settle()

        assert [each.instance for each in left] == ["here"]


async def test_a_console_that_was_off_for_days_knows_nobody(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        visit.console.store.sightings.joined(Sighting(cluster_id=visit.cluster.id, instance="i"), NOW)

        found = read_status(
            visit.console.store, visit.cluster, console_runs=False, now=NOW + FORGET_AFTER + timedelta(seconds=1)
        )

    assert found.replicas == ()

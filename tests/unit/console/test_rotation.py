"""A token rotated with an overlap: both are good until then, and the console says who still uses the old one."""

import asyncio
import json
import math
import threading
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from pomerium_agent.console.clusters import create_cluster, rotate_token
from pomerium_agent.console.nudges import Nudges, Numbers
from pomerium_agent.console.rotation import MAX_OVERLAP, read_overlap
from pomerium_agent.console.sightings import Sighting
from pomerium_agent.console.status import read_status
from pomerium_agent.console.store import Cluster, Store, open_store
from pomerium_agent.console.words import status_lines
from pomerium_agent.errors import SettingsError
from tests.fakes.clock import ManualClock
from tests.fakes.console import NOW, QUICKSTART, Visit, visited_console
from tests.unit.console.test_connect import end_of, next_message, poked

HOUR = timedelta(hours=1)


async def exchanged(visit: Visit, token: str) -> tuple[int, str]:
    status, answer = await visit.post("exchangeToken", {"refreshToken": token})
    return status, str(answer.get("idToken", ""))


async def test_both_tokens_open_the_same_bootstrap_until_the_overlap_is_over(tmp_path: Path) -> None:
    """Zero link 4.1, 18.5: the shared secret stays what it was, so nobody's session ends. Z-10, Z-11 afterwards."""
    clock = ManualClock()
    async with visited_console(tmp_path, clock=clock) as visit:
        bearer, url = await visit.bearer(), await visit.bundle_url()
        before = (await visit.get("bootstrap", bearer))[1]

        new = rotate_token(visit.console.store, visit.cluster, now=clock.now(), overlap=HOUR / 2)

        for token in (visit.token, str(new)):
            status, another = await exchanged(visit, token)
            assert status == 200
            assert await visit.get("bootstrap", another) == (200, before)
        async with visit.http.get(url) as answer:
            assert answer.status == 200
        clock.jump(1800)
        assert (await visit.get("bootstrap", bearer))[0] == 401
        assert (await exchanged(visit, visit.token))[0] == 400
        assert (await exchanged(visit, str(new)))[0] == 200
        async with visit.http.get(url) as answer:
            assert answer.status == 401


async def test_the_stream_of_an_old_token_ends_with_the_overlap(tmp_path: Path) -> None:
    """Z-66."""
    clock = ManualClock()
    async with visited_console(tmp_path, clock=clock) as visit:
        bearer = await visit.bearer()
        async with visit.subscribed(bearer) as call:
            rotate_token(visit.console.store, visit.cluster, now=clock.now(), overlap=timedelta(seconds=0.3))
            await poked(visit)

            code, details = await end_of(call)

    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "token" in details


async def test_ending_the_overlap_refuses_the_old_token_and_leaves_the_new_one(tmp_path: Path) -> None:
    async with visited_console(tmp_path, clock=ManualClock()) as visit:
        store, old = visit.console.store, await visit.bearer()
        new = rotate_token(store, visit.cluster, now=NOW, overlap=HOUR)
        _, fresh = await exchanged(visit, str(new))
        async with visit.subscribed(old, instance="a") as one, visit.subscribed(fresh, instance="b") as other:
            store.rotations.end_overlap(visit.cluster.id)
            await poked(visit)

            code, _ = await end_of(one)

            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert not other.done()
        assert (await exchanged(visit, visit.token))[0] == 400
        assert (await visit.get("bootstrap", fresh))[0] == 200


async def test_a_stream_of_the_new_token_is_good_before_anybody_said_that_it_was_rotated(tmp_path: Path) -> None:
    """W1: whoever rotates pokes the console afterwards, and a replica may be quicker."""
    async with visited_console(tmp_path) as visit, visit.subscribed(await visit.bearer(), instance="a") as old:
        new = rotate_token(visit.console.store, visit.cluster)
        _, fresh = await exchanged(visit, str(new))

        async with visit.subscribed(fresh, instance="b") as call:
            visit.apply(QUICKSTART)
            await poked(visit)

            assert (await next_message(call)).config_updated.changeset_version == 2
        assert (await end_of(old))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_what_was_read_before_does_not_replace_what_was_read_after(tmp_path: Path) -> None:
    """Z-20: a slow look at the store must not hide what a quick one has found since."""
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster
        nudges, find = Nudges(store), store.find
        cell = await nudges.cell(cluster.id)
        has_read, may_return = threading.Event(), threading.Event()

        def find_slowly(cluster_id: str) -> Cluster | None:
            found = find(cluster_id)
            if not has_read.is_set():
                has_read.set()
                may_return.wait(5)
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "find", lambda _, cluster_id: find_slowly(cluster_id))
            async with asyncio.TaskGroup() as group:
                group.create_task(nudges.refresh(cluster.id))
                await asyncio.to_thread(has_read.wait, 5)
                await asyncio.to_thread(rotate_token, store, cluster)
                later = group.create_task(nudges.refresh(cluster.id))
                await asyncio.wait([later], timeout=0.2)  # it may be done now, or wait its turn
                may_return.set()

        assert cell.value.generation == cluster.generation + 1


async def test_the_status_says_which_replica_still_uses_the_old_token(tmp_path: Path) -> None:
    clock = ManualClock()
    async with visited_console(tmp_path, clock=clock) as visit:
        store, now = visit.console.store, clock.now()
        new = rotate_token(store, visit.cluster, now=now, overlap=HOUR)
        _, fresh = await exchanged(visit, str(new))
        async with visit.subscribed(await visit.bearer(), instance="a"), visit.subscribed(fresh, instance="b"):
            await visit.console.presence.written()

            found = read_status(store, store.cluster("demo"), console_runs=True, now=now)

        assert {each.instance: each.token for each in found.replicas} == {"a": "old", "b": "current"}
        assert found.on_old_token == 1
        said = found.to_json()["token"]
        assert isinstance(said, dict)
        assert said["old"]["until"] == (now + HOUR).isoformat()
        assert said["replicas_on_old"] == 1
        text = "\n".join(status_lines(found, now))
        assert "still uses the old token" in text
        assert "1 replica still using it" in text
        assert visit.token not in json.dumps(found.to_json()) + text
        store.rotations.end_overlap(visit.cluster.id)
        later = read_status(store, store.cluster("demo"), console_runs=True, now=now)
        assert {each.instance: each.token for each in later.replicas} == {"a": "refused", "b": "current"}


def test_only_those_on_the_old_token_are_counted_as_on_it(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        made = create_cluster(store, "demo", now=NOW)
        rotate_token(store, made.cluster, now=NOW)
        rotate_token(store, store.cluster("demo"), now=NOW, overlap=HOUR)
        for generation, name in enumerate(("unknown", "refused", "old", "current")):
            seen = Sighting(cluster_id=made.cluster.id, instance=name, generation=generation)
            store.sightings.joined(seen, NOW)

        found = read_status(store, store.cluster("demo"), console_runs=True, now=NOW)

    assert all(each.connected and each.token == each.instance for each in found.replicas)
    assert len(found.replicas) == 4
    assert found.on_old_token == 1


def test_a_third_token_does_not_silently_end_the_oldest(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        made = create_cluster(store, "demo", now=NOW)
        new = rotate_token(store, made.cluster, now=NOW, overlap=HOUR)

        with pytest.raises(SettingsError, match="end-overlap demo"):
            rotate_token(store, store.cluster("demo"), now=NOW, overlap=HOUR)

        assert store.rotations.open(made.token, NOW) is not None
        third = rotate_token(store, store.cluster("demo"), now=NOW)
        assert [store.rotations.open(each, NOW) is not None for each in (made.token, new, third)] == [
            False,
            False,
            True,
        ]


def test_after_the_overlap_the_next_one_may_begin(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        made = create_cluster(store, "demo", now=NOW)
        new = rotate_token(store, made.cluster, now=NOW, overlap=HOUR)

        rotate_token(store, store.cluster("demo"), now=NOW + HOUR, overlap=HOUR)

        assert store.rotations.open(made.token, NOW + HOUR) is None
        assert store.rotations.open(new, NOW + HOUR) is not None


@pytest.mark.parametrize(
    ("text", "meant"),
    [("0", 0), ("90s", 90), ("30m", 1800), ("24h", 86_400), ("30d", 30 * 86_400)],
)
def test_an_overlap_is_a_number_and_a_unit(text: str, meant: int) -> None:
    assert read_overlap(text) == timedelta(seconds=meant)


@pytest.mark.parametrize("text", ["", "h", "24", "-1h", "1.5h", "²h", "1h30m", "forever", "9999999999s", "31d"])
def test_what_is_no_overlap_is_refused_in_words(text: str) -> None:
    assert timedelta(days=30) == MAX_OVERLAP
    with pytest.raises(SettingsError, match="--overlap"):
        read_overlap(text)


def test_a_stream_lasts_as_long_as_the_token_behind_it() -> None:
    numbers = Numbers(1, 0, 1, generation=3, old_generation=2, old_until=NOW + HOUR)

    assert numbers.seconds_good(3, NOW) == math.inf
    assert numbers.seconds_good(2, NOW) == 3600
    assert numbers.seconds_good(2, NOW + 2 * HOUR) == 0
    assert numbers.seconds_good(1, NOW) == 0
    assert Numbers.of(None).seconds_good(1, NOW) == 0

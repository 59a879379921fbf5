"""The cluster API as a replica meets it, over real HTTP (zero link 4 and 11)."""

import asyncio
import base64
import gzip
import io
from collections.abc import Callable
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from yarl import URL

from pomerium_agent.console.clusters import create_cluster, rotate_token, set_storage
from tests.fakes.clock import ManualClock
from tests.fakes.console import NOW, QUICKSTART, bearing, visited_console

GZIP = {"Accept-Encoding": "gzip"}


async def test_a_token_is_exchanged_for_a_bearer_of_one_hour(tmp_path: Path) -> None:
    """Z-9: expiresInSeconds is a string."""
    async with visited_console(tmp_path) as visit:
        status, answer = await visit.post("exchangeToken", {"refreshToken": visit.token})

    assert status == 200
    assert answer["expiresInSeconds"] == "3600"
    assert isinstance(answer["idToken"], str)


@pytest.mark.parametrize(
    "body", [{"refreshToken": "wrong"}, {"refreshToken": "\ud800"}, {"refreshToken": ""}, {}, {"refreshToken": 7}, []]
)
async def test_a_token_that_is_not_known_is_refused_for_good(tmp_path: Path, body: object) -> None:
    """Z-10: HTTP 400 with JSON is the one answer a replica does not retry."""
    async with visited_console(tmp_path) as visit:
        status, answer = await visit.post("exchangeToken", body)

    assert status == 400
    assert isinstance(answer["error"], str)


async def test_bootstrap_says_who_the_cluster_is_and_where_its_records_live(tmp_path: Path) -> None:
    """Z-9, Z-23."""
    async with visited_console(tmp_path) as visit:
        bearer = await visit.bearer()
        _, in_memory = await visit.get("bootstrap", bearer)
        set_storage(visit.console.store, visit.cluster, "postgres://ada@db/agents")
        _, in_postgres = await visit.get("bootstrap", bearer)

    secrets = {"clusterId", "organizationId", "pseudonymizationKey", "sharedSecret"}
    assert in_memory.keys() == secrets
    assert in_memory["clusterId"] == visit.cluster.id
    assert len(base64.b64decode(str(in_memory["sharedSecret"]))) == 32
    assert in_postgres == {**in_memory, "databrokerStorageConnection": "postgres://ada@db/agents"}


@pytest.mark.parametrize("path", ["bootstrap", "bundles", "bundles/config/download"])
async def test_nothing_is_said_without_a_bearer(tmp_path: Path, path: str) -> None:
    async with visited_console(tmp_path) as visit:
        for bearer in ("", "nonsense", "1.a.b.c", visit.token):
            status, answer = await visit.get(path, bearer)

            assert status == 401
            assert isinstance(answer["error"], str)


async def test_a_bearer_that_is_no_text_is_none_of_ours(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit, asyncio.timeout(5):
        address = URL(visit.console.cluster_api)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET /cluster/v1/bundles HTTP/1.0\r\nAuthorization: Bearer 1.a.b.\xff\r\n\r\n")

        assert (await reader.readline()).split()[1] == b"401"

        writer.close()
        await writer.wait_closed()


async def test_a_bearer_ends_after_its_hour(tmp_path: Path) -> None:
    """Z-11 begins here: 401 makes the replica exchange anew."""
    clock = ManualClock()
    async with visited_console(tmp_path, clock=clock) as visit:
        bearer = await visit.bearer()

        clock.jump(3599)
        before, _ = await visit.get("bootstrap", bearer)
        clock.jump(1)
        after, answer = await visit.get("bootstrap", bearer)

    assert (before, after) == (200, 401)
    assert "expired" in str(answer["error"])


async def test_a_bearer_cannot_be_made_into_another(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        bearer = await visit.bearer()
        other = create_cluster(visit.console.store, "other", now=NOW).cluster

        version, _, generation, expires, signature = bearer.split(".")
        for forged in (
            f"{version}.{other.id}.{generation}.{expires}.{signature}",
            f"{version}.{visit.cluster.id}.{generation}.{int(expires) + 60}.{signature}",
            bearer[:-1],
        ):
            assert (await visit.get("bootstrap", forged))[0] == 401


async def test_rotation_ends_the_old_token_its_bearers_and_its_urls_at_once(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        bearer, url = await visit.bearer(), await visit.bundle_url()

        new = rotate_token(visit.console.store, visit.cluster)

        assert (await visit.get("bootstrap", bearer))[0] == 401
        assert (await visit.post("exchangeToken", {"refreshToken": visit.token}))[0] == 400
        async with visit.http.get(url) as answer:
            assert answer.status == 401
        assert (await visit.post("exchangeToken", {"refreshToken": str(new)}))[0] == 200


async def test_every_answer_has_an_id_that_can_be_named(tmp_path: Path) -> None:
    """Z-13."""
    async with visited_console(tmp_path) as visit:
        ids = set()
        for path in ("bundles", "nowhere"):
            async with visit.http.get(f"{visit.console.cluster_api}/{path}") as answer:
                ids.add(answer.headers["X-Response-Id"])
                assert answer.content_type == "application/json"

    assert len(ids) == 2


# --- bundles --------------------------------------------------------------------------------------


async def test_the_one_bundle_is_called_config(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        bearer = await visit.bearer()

        assert await visit.get("bundles", bearer) == (200, {"bundles": [{"id": "config"}]})
        status, answer = await visit.get("bundles/other/download", bearer)

    assert status == 404
    assert "no bundle 'other'" in str(answer["error"])


async def test_the_download_url_opens_the_bundle_without_a_bearer(tmp_path: Path) -> None:
    """Z-14, Z-33, Z-44."""
    async with visited_console(tmp_path) as visit:
        _, answer = await visit.get("bundles/config/download", await visit.bearer())
        async with visit.http.get(str(answer["url"])) as download:
            content = await download.read()
        digest = visit.console.store.config(visit.cluster.id).digest

    assert answer["expiresInSeconds"] == "3600"
    assert answer["captureMetadataHeaders"] == ["X-Bundle-Version", "X-Bundle-Digest"]
    assert download.status == 200
    assert download.headers["X-Bundle-Version"] == "1"
    assert download.headers["X-Bundle-Digest"] == digest
    assert parsedate_to_datetime(download.headers["Last-Modified"])
    assert content


@pytest.mark.parametrize(
    ("accepts", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("identity", None),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("", None),
    ],
)
async def test_the_bundle_is_compressed_when_asked(tmp_path: Path, accepts: str, encoding: str | None) -> None:
    """Z-36."""
    async with visited_console(tmp_path) as visit:
        url = await visit.bundle_url()
        async with visit.http.get(url, headers={"Accept-Encoding": accepts}, auto_decompress=False) as answer:
            body = await answer.read()
        async with visit.http.get(url, headers={"Accept-Encoding": "identity"}) as plain:
            content = await plain.read()

    assert answer.headers.get("Content-Encoding") == encoding
    assert (gzip.decompress(body) if encoding else body) == content
    assert answer.headers["ETag"] == plain.headers["ETag"]


async def test_who_has_the_bundle_already_is_told_so(tmp_path: Path) -> None:
    """Z-34, Z-35."""
    async with visited_console(tmp_path) as visit:
        url = await visit.bundle_url()
        async with visit.http.get(url, headers=GZIP) as first:
            etag = first.headers["ETag"]

        for condition in (etag, f'"other", W/{etag}', "*"):
            async with visit.http.get(url, headers={"If-None-Match": condition}) as again:
                assert again.status == 304
                assert again.headers["ETag"] == etag
                assert again.headers["Last-Modified"] == first.headers["Last-Modified"]
                assert await again.read() == b""
        async with visit.http.head(url) as head:
            assert (head.status, head.headers["ETag"]) == (200, etag)
            assert head.headers["X-Bundle-Version"] == "1"


async def test_a_change_makes_another_tag_and_the_same_url_opens_it(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        url = await visit.bundle_url()
        async with visit.http.get(url) as before:
            pass

        visit.apply(QUICKSTART)

        async with visit.http.get(url, headers={"If-None-Match": before.headers["ETag"]}) as after:
            assert after.status == 200
            assert after.headers["ETag"] != before.headers["ETag"]
            assert after.headers["X-Bundle-Version"] == "2"


async def test_a_configuration_that_comes_back_has_its_old_tag_and_a_new_date(tmp_path: Path) -> None:
    """Z-35: the records stay, the metadata change."""
    clock = ManualClock()
    (tmp_path / "empty.yaml").write_text("routes: []\n")
    async with visited_console(tmp_path / "data", clock=clock) as visit:
        url = await visit.bundle_url()
        async with visit.http.get(url) as first:
            pass

        visit.apply(QUICKSTART)
        visit.apply(tmp_path / "empty.yaml")

        async with visit.http.get(url) as back:
            pass
    assert back.headers["ETag"] == first.headers["ETag"]
    assert (first.headers["X-Bundle-Version"], back.headers["X-Bundle-Version"]) == ("1", "3")


async def test_an_expired_url_makes_the_replica_ask_for_a_new_one(tmp_path: Path) -> None:
    """zero link 11.4: 401 drops the URL; the reason comes in the form of Z-42."""
    clock = ManualClock()
    async with visited_console(tmp_path, clock=clock) as visit:
        url = await visit.bundle_url()

        clock.jump(3600)

        async with visit.http.get(url) as answer:
            assert answer.status == 401
            assert answer.content_type == "application/xml"
            assert "<Code>AccessDenied</Code><Message>this URL has expired" in await answer.text()
            assert "ETag" not in answer.headers


async def test_a_url_that_was_tampered_with_opens_nothing(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        url = URL(await visit.bundle_url())
        other = create_cluster(visit.console.store, "other", now=NOW).cluster

        for wrong in (
            url.update_query(expires=str(int(url.query["expires"]) + 60)),
            url.update_query(signature=url.query["signature"][:-1] + "!"),
            url.update_query(signature=""),
            url.with_query({}),
            url.with_path(url.path.replace(visit.cluster.id, other.id), keep_query=True),
            url.with_path(url.path.replace(visit.cluster.id, visit.cluster.name), keep_query=True),
        ):
            async with visit.http.get(wrong) as answer:
                assert answer.status == 401, wrong


async def test_the_url_is_given_as_replicas_reach_it(tmp_path: Path, free_port: Callable[[], int]) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with visited_console(tmp_path, address=address, public_url="https://console.example.com") as visit:
        assert visit.console.cluster_api == "https://console.example.com/cluster/v1"
        near = f"http://{address}/cluster/v1"
        async with visit.http.post(f"{near}/exchangeToken", json={"refreshToken": visit.token}) as answer:
            bearer = (await answer.json())["idToken"]
        async with visit.http.get(f"{near}/bundles/config/download", headers=bearing(bearer)) as answer:
            url = URL((await answer.json())["url"])

    assert url.origin() == URL("https://console.example.com")


# --- reports --------------------------------------------------------------------------------------


async def test_what_a_replica_says_of_a_bundle_is_kept(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        bearer = await visit.bearer()
        said = {"failure": {"message": "no room", "source": "io_error"}}

        status, _ = await visit.post("bundles/config/status", said, bearer)
        wrong, _ = await visit.post("bundles/config/status", {"failure": {"message": "x", "source": "y"}}, bearer)

        assert visit.console.store.sightings.bundle_status(visit.cluster.id) == {"config": said}
    assert (status, wrong) == (204, 400)


async def test_usage_is_kept_by_pseudonym_and_the_latest_wins(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        bearer = await visit.bearer()
        user = {"pseudonymousId": "p", "pseudonymousEmail": "", "lastSignedInAt": "0001-01-01T00:00:00Z"}
        later = user | {"pseudonymousEmail": "e", "lastSignedInAt": "2030-01-01T00:00:00.123456789Z"}

        for users in ([user], [later], []):
            assert (await visit.post("reportUsage", {"users": users}, bearer))[0] == 204
        wrong, _ = await visit.post("reportUsage", {"users": [{"pseudonymousId": "p"}]}, bearer)

        (kept,) = visit.console.store.sightings.users(visit.cluster.id)
    assert (kept.pseudonymous_email, kept.last_signed_in_at) == ("e", "2030-01-01T00:00:00.123456789Z")
    assert wrong == 400


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[1]", b'"text"'])
async def test_a_body_that_is_no_json_object_is_refused(tmp_path: Path, body: bytes) -> None:
    async with visited_console(tmp_path) as visit:
        url = f"{visit.console.cluster_api}/exchangeToken"
        async with visit.http.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status == 400
            assert "error" in await answer.json()


async def test_a_body_without_end_is_cut_off(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        url = f"{visit.console.cluster_api}/exchangeToken"
        async with visit.http.post(url, data=io.BytesIO(b"x" * (9 * 1024 * 1024))) as answer:
            assert answer.status == 413
            assert "error" in await answer.json()


async def test_a_database_that_fails_is_an_answer_that_may_pass(tmp_path: Path) -> None:
    """Z-10: a 500 is retried, a 400 would end every replica."""
    async with visited_console(tmp_path) as visit:
        bearer = await visit.bearer()
        visit.console.store.database.close()

        status, answer = await visit.get("bootstrap", bearer)

    assert status == 500
    assert "database" in str(answer["error"])


async def test_lives_of_bearers_and_urls_can_be_shortened(tmp_path: Path) -> None:
    minute = timedelta(minutes=1)
    async with visited_console(tmp_path, bearer_life=minute, link_life=2 * minute) as visit:
        _, exchanged = await visit.post("exchangeToken", {"refreshToken": visit.token})
        _, linked = await visit.get("bundles/config/download", str(exchanged["idToken"]))

    assert (exchanged["expiresInSeconds"], linked["expiresInSeconds"]) == ("60", "120")

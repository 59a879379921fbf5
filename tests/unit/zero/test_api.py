"""The cluster API: what is asked, and what each answer means."""

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from pomerium_agent.errors import ControlPlaneUnavailable, Refused
from pomerium_agent.zero.answers import BootstrapConfig
from pomerium_agent.zero.api import MAX_ANSWER_BYTES, MAX_ERROR_CHARACTERS, MAX_RETRY_AFTER, PATIENCE
from tests.fakes.authority import issue_for_loopback
from tests.fakes.control_plane import SIGNATURE, TOKEN, Say, html, say, serve_control_plane
from tests.fakes.raw_server import serve_raw, swallow
from tests.unit.zero.wire import IMPATIENT, open_api


async def test_each_operation_is_asked_as_the_contract_says() -> None:
    """Z-3, Z-9."""
    async with serve_control_plane() as plane, open_api(plane) as api:
        plane.publish("a/b c", b"", etag="1")

        bootstrap = await api.bootstrap()
        ids = await api.bundle_ids()
        ticket = await api.download_ticket("a/b c")

    assert bootstrap == BootstrapConfig(
        cluster_id="cluster", organization_id="organization", shared_secret=b"s" * 32, pseudonymization_key=b"p" * 32
    )
    assert ids == ("a/b c",)
    assert ticket.url.endswith(SIGNATURE)
    assert ticket.expires_in.total_seconds() == 3600
    assert ticket.capture_headers == ("X-Amz-Meta-Version", "X-Absent")
    exchange, *others = plane.seen
    assert (exchange.method, exchange.path) == ("POST", "/v1/exchangeToken")
    assert exchange.headers["content-type"] == "application/json"
    assert json.loads(exchange.body) == {"refreshToken": TOKEN}
    assert "authorization" not in exchange.headers
    assert [(seen.method, seen.path) for seen in others] == [
        ("GET", "/v1/bootstrap"),
        ("GET", "/v1/bundles"),
        ("GET", "/v1/bundles/a%2Fb%20c/download"),
    ]
    assert {seen.headers["authorization"] for seen in others} == {"Bearer bearer-1"}
    assert all(seen.headers["user-agent"].startswith("pomerium-agent/") for seen in others)


async def test_an_expiry_may_also_be_a_number() -> None:
    """Z-9."""
    async with serve_control_plane() as plane, open_api(plane) as api:
        plane.script("download", say({"url": "http://x/", "expiresInSeconds": 60}))

        assert (await api.download_ticket("a")).expires_in.total_seconds() == 60


async def test_the_optional_fields_of_a_bootstrap_may_be_null() -> None:
    """Zero link 4.2, 8.1."""
    async with serve_control_plane() as plane, open_api(plane) as api:
        plane.bootstrap |= {"pseudonymizationKey": None, "databrokerStorageConnection": None}
        without = await api.bootstrap()
        plane.bootstrap |= {"databrokerStorageConnection": "postgres://ada:secret@db/x"}
        found = await api.bootstrap()

    assert (without.pseudonymization_key, without.storage_connection) == (b"", None)
    assert found.storage_connection == "postgres://ada:secret@db/x"
    assert "secret@" not in repr(found)


async def test_only_400_with_json_is_a_refusal() -> None:
    """Z-10."""
    async with serve_control_plane() as plane, open_api(plane) as api:
        plane.script("bootstrap", say({"error": "cluster was deleted"}, 400))

        with pytest.raises(Refused, match="bad request: cluster was deleted"):
            await api.bootstrap()


async def test_a_refused_exchange_is_a_refusal_of_every_call() -> None:
    """Z-10, zero link 4.4."""
    async with serve_control_plane() as plane, open_api(plane) as api:
        plane.script("exchangeToken", say({"error": "unknown token"}, 400))

        with pytest.raises(Refused, match="unknown token") as refused:
            await api.bundle_ids()

    assert TOKEN not in str(refused.value)


LONG = "x" * (MAX_ERROR_CHARACTERS - 32)  # what is cut off after this leaves the beginning of what follows


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("before", ["cannot parse ", LONG])
async def test_a_token_that_is_echoed_does_not_come_into_our_words(status: int, before: str) -> None:
    """Zero link 4.3, 5: the error text goes to logs and reports."""
    said = f'{before}{{"refreshToken":"{TOKEN}"}}'
    async with serve_control_plane() as plane, open_api(plane) as api:
        plane.script("exchangeToken", say({"error": said}, status, X_Response_Id=f"for {TOKEN}"))

        with pytest.raises((Refused, ControlPlaneUnavailable)) as failed:
            await api.bundle_ids()

    assert TOKEN not in str(failed.value)
    assert TOKEN[:5] not in str(failed.value)
    assert before in str(failed.value)


@pytest.mark.parametrize(
    "answer",
    [
        say({"error": "Authorization: Bearer bearer-1 is odd"}, 400),
        say({"error": "Authorization: Bearer bearer-1 is odd"}, 404),
        say({"error": "no"}, 500, X_Response_Id="bearer-1"),
        replace(say({}), content_type="text/bearer-1"),
    ],
)
async def test_a_bearer_that_is_echoed_does_not_come_into_our_words(answer: Say) -> None:
    """Zero link 4.3, 5."""
    async with serve_control_plane() as plane, open_api(plane) as api:
        plane.script("download", answer)

        with pytest.raises((Refused, ControlPlaneUnavailable)) as failed:
            await api.download_ticket("a")

    assert "bearer-1" not in str(failed.value)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (html(), "unexpected response: 200 text/html from GET {base}/v1/bootstrap, and not JSON; is CLUSTER_API"),
        (html(400), "unexpected response: 400 text/html"),
        (replace(say({"error": "x"}, 400), content_type="text/plain"), "unexpected response: 400 text/plain"),
        (html(502), "unexpected response: 502 text/html"),
        (Say(content_type=None), "unexpected response: 200"),
        (say({"error": "oops"}, 500), "internal server error: oops"),
        (say({"error": "no"}, 403), "unexpected response: 403"),
        (say({"error": "no"}, 404), "does CLUSTER_API_ENDPOINT lack its path, /cluster/v1?"),
        (say({}, 201), "unexpected response: 201"),
        (say({"error": "no"}, 503), "unexpected response: 503"),
        (Say(body=b"{", status=200), "whose body is not JSON"),
        (Say(body=b"{", status=400), "whose body is not JSON"),
        (Say(body=b"[" * 100_000), "whose body is not JSON"),
        (say([]), "expected a JSON object"),
        (say({}), "sharedSecret must be 32 bytes, not 0"),
        (say({"sharedSecret": "*"}), "sharedSecret is not base64"),
        (say({"sharedSecret": base64.b64encode(bytes(32)).decode()}), "clusterId is missing"),
        (Say(body=b" " * (MAX_ANSWER_BYTES + 1)), "longer than"),
        (Say(hang=True), "GET {base}/v1/bootstrap: no answer in time"),
        (Say(body=b'{"clusterId"', cut_after=5), "GET {base}/v1/bootstrap: "),
        (Say(status=302, headers={"Location": "/v1/bootstrap"}), "TooManyRedirects"),
    ],
)
async def test_every_other_answer_may_pass_by_itself_and_says_what_came(answer: Say, complaint: str) -> None:
    """Z-10: zero link 4.3, W3."""
    patience = IMPATIENT if answer.hang else PATIENCE
    async with serve_control_plane() as plane, open_api(plane, patience=patience) as api:
        plane.always("bootstrap", answer)

        with pytest.raises(ControlPlaneUnavailable) as unavailable:
            await api.bootstrap()
        plane.always("bootstrap", None)

        assert complaint.format(base=plane.http_url) in str(unavailable.value)
        assert (await api.bootstrap()).cluster_id == "cluster"


async def test_the_port_of_a_grpc_service_is_told_from_that_of_the_api() -> None:
    """They are easily swapped."""

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00")  # HTTP/2 SETTINGS
        await writer.drain()

    async with serve_control_plane() as plane, serve_raw(greet) as port:
        plane.http_url = f"http://127.0.0.1:{port}"
        async with open_api(plane) as api:
            with pytest.raises(ControlPlaneUnavailable, match="is this the address of a gRPC service"):
                await api.bootstrap()


async def test_an_address_where_nobody_listens_is_told_in_plain_words() -> None:
    async with serve_raw(swallow) as port:
        pass
    async with serve_control_plane() as plane:
        plane.http_url = f"http://127.0.0.1:{port}"
        async with open_api(plane) as api:
            with pytest.raises(ControlPlaneUnavailable, match=rf"connect to 127.0.0.1:{port}: Connection refused$"):
                await api.bootstrap()


async def test_a_bundle_that_is_not_known_says_why() -> None:
    """Zero link 4.3: 404 is declared for the download only."""
    async with serve_control_plane() as plane, open_api(plane) as api:
        plane.script("download", say({"error": "no such bundle"}, 404))

        with pytest.raises(ControlPlaneUnavailable, match="no such bundle"):
            await api.download_ticket("x")


@pytest.mark.parametrize(
    ("status", "said", "seconds"),
    [
        (429, "30", 30.0),
        (503, " 7 ", 7.0),
        (429, "999999999999999999999", MAX_RETRY_AFTER),
        (429, "Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        (429, "-5", 0.0),
        (429, "²", 0.0),
        (429, "", 0.0),
        (500, "30", 0.0),
    ],
)
async def test_a_control_plane_that_asks_for_time_is_given_it_within_bounds(
    status: int, said: str, seconds: float
) -> None:
    """Z-10: whoever retries waits so long at least."""
    async with serve_control_plane() as plane, open_api(plane) as api:
        plane.script("bootstrap", say({"error": "later"}, status, Retry_After=said))

        with pytest.raises(ControlPlaneUnavailable) as unavailable:
            await api.bootstrap()

    assert unavailable.value.retry_after == seconds


async def test_a_bearer_that_is_refused_is_dropped_and_the_next_call_exchanges_anew() -> None:
    """Z-11: the call itself is not repeated."""
    async with serve_control_plane() as plane, open_api(plane) as api:
        await api.bootstrap()
        plane.bearers.clear()

        with pytest.raises(ControlPlaneUnavailable, match="unexpected response: 401"):
            await api.bootstrap()
        await api.bootstrap()

    assert [seen.operation for seen in plane.seen] == [
        "exchangeToken", "bootstrap", "bootstrap", "exchangeToken", "bootstrap",
    ]  # fmt: skip


async def test_the_cluster_token_does_not_follow_a_redirect() -> None:
    async with serve_control_plane() as plane, serve_control_plane() as elsewhere, open_api(plane) as api:
        there = f"{elsewhere.http_url}/v1/exchangeToken"
        plane.script("exchangeToken", Say(status=307, content_type=None, headers={"Location": there}))

        with pytest.raises(ControlPlaneUnavailable, match="unexpected response: 307"):
            await api.bootstrap()

    assert elsewhere.seen == []


async def test_the_response_id_is_part_of_the_message() -> None:
    """Z-13."""
    async with serve_control_plane() as plane, open_api(plane) as api:
        plane.script("bootstrap", say({"error": "oops"}, 500, X_Response_Id="r-17"))

        with pytest.raises(ControlPlaneUnavailable, match=r"oops .*response id r-17"):
            await api.bootstrap()


async def test_a_control_plane_that_is_not_there_is_named() -> None:
    """Z-65."""
    async with serve_control_plane() as plane:
        pass
    async with open_api(plane) as api:
        with pytest.raises(ControlPlaneUnavailable, match=r"POST http://127.0.0.1:\d+/v1/exchangeToken: "):
            await api.bootstrap()


@pytest.mark.parametrize(
    "document", [{}, {"bundles": "x"}, {"bundles": ["x"]}, {"bundles": [{"id": ""}]}, {"bundles": [{"id": "\ud800"}]}]
)
async def test_a_list_that_cannot_be_read_is_not_an_empty_list(document: object) -> None:
    """What would be lost otherwise is every record there is."""
    async with serve_control_plane() as plane, open_api(plane) as api:
        plane.script("bundles", say(document))

        with pytest.raises(ControlPlaneUnavailable, match="unexpected response"):
            await api.bundle_ids()


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    issued = issue_for_loopback()
    async with serve_control_plane(issued, tmp_path) as plane, open_api(plane) as api:
        with pytest.raises(ControlPlaneUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await api.bootstrap()

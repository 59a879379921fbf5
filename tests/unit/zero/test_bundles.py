"""Fetching one bundle: what is asked, and which answers are believed."""

import asyncio
import gzip
from dataclasses import replace

import pytest

from pomerium_agent.databroker.bundle_entry import CacheEntry
from pomerium_agent.errors import ConfigRejected, ControlPlaneUnavailable, Refused
from pomerium_agent.zero.bundles import Downloaded, Unchanged
from tests.fakes.clock import ManualClock
from tests.fakes.control_plane import CAPTURED, SIGNATURE, Say, encode_bundle, html, say, serve_control_plane
from tests.fakes.raw_server import serve_raw
from tests.unit.zero.wire import IMPATIENT, open_downloader, record

RECORDS = (record("a"), record("b"))
CONTENT = encode_bundle(RECORDS)
LAST_MODIFIED = "Tue, 01 Jan 2030 00:00:00 GMT"
HAVE = CacheEntry(etag='"1"', last_modified=LAST_MODIFIED, record_types=("t",))
OCTETS = Say(body=CONTENT, content_type="application/octet-stream", headers={"ETag": '"1"'})


@pytest.mark.parametrize("compress", [True, False])
async def test_a_bundle_arrives_with_its_version_and_the_captured_headers(compress: bool) -> None:
    """Z-36, Z-44: gzip and identity are both accepted."""
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.publish("config", RECORDS, etag='"1"', metadata="v7")
        plane.compress = compress

        found = await downloader.fetch("config", None)

    assert found == Downloaded(etag='"1"', last_modified=LAST_MODIFIED, metadata={CAPTURED: "v7"}, records=RECORDS)


async def test_the_bearer_never_reaches_the_storage() -> None:
    """Z-14."""
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.publish("config", RECORDS, etag='"1"')

        await downloader.fetch("config", None)

    (seen,) = plane.requests("storage")
    assert "authorization" not in seen.headers
    assert seen.headers["accept-encoding"] == "gzip"
    assert seen.path == f"/storage/config?{SIGNATURE}"
    assert "if-none-match" not in seen.headers


async def test_a_bundle_that_did_not_change_is_not_sent_again() -> None:
    """Z-34."""
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.publish("config", RECORDS, etag='"1"')

        assert await downloader.fetch("config", HAVE) == Unchanged(last_modified=LAST_MODIFIED)

    (seen,) = plane.requests("storage")
    assert seen.headers["if-none-match"] == '"1"'


async def test_new_metadata_of_an_old_bundle_is_asked_for_without_the_body() -> None:
    """Z-35."""
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.publish("config", RECORDS, etag='"1"', last_modified="later", metadata="v8")

        assert await downloader.fetch("config", HAVE) == Unchanged(last_modified="later", metadata={CAPTURED: "v8"})

    assert [seen.method for seen in plane.requests("storage")] == ["GET", "HEAD"]


async def test_metadata_of_another_version_is_not_taken_for_ours() -> None:
    """Z-35: the ETag must match."""
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.publish("config", RECORDS, etag='"2"')
        plane.script("storage", Say(status=304, headers={"Last-Modified": "later"}))

        with pytest.raises(ControlPlaneUnavailable, match="the bundle changed while we looked"):
            await downloader.fetch("config", HAVE)


async def test_a_download_url_is_used_until_a_quarter_of_an_hour_before_it_expires() -> None:
    """Z-33."""
    clock = ManualClock()
    async with serve_control_plane() as plane, open_downloader(plane, clock=clock) as (_, downloader):
        plane.publish("config", RECORDS, etag='"1"')
        await downloader.fetch("config", None)
        clock.jump(3600 - 900)
        await downloader.fetch("config", None)
        assert len(plane.requests("download")) == 1
        clock.jump(1)

        await downloader.fetch("config", None)

    assert len(plane.requests("download")) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_url_that_the_storage_does_not_accept_is_asked_for_anew(status: int) -> None:
    """W7."""
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.publish("config", RECORDS, etag='"1"')
        plane.script("storage", Say(status=status, content_type=None))

        with pytest.raises(ControlPlaneUnavailable, match=f"/storage/config answered {status}"):
            await downloader.fetch("config", None)
        await downloader.fetch("config", None)

    assert len(plane.requests("download")) == 2


async def test_a_url_survives_a_storage_that_has_trouble_of_its_own() -> None:
    """W7."""
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.publish("config", RECORDS, etag='"1"')
        plane.script("storage", Say(status=503))

        with pytest.raises(ControlPlaneUnavailable, match="answered 503"):
            await downloader.fetch("config", None)
        await downloader.fetch("config", None)

    assert len(plane.requests("download")) == 1


@pytest.mark.parametrize("compress", [True, False])
async def test_the_storage_is_quoted_when_it_says_what_is_wrong(compress: bool) -> None:
    """Z-42."""
    body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    headers = {"Content-Encoding": "gzip"} if compress else {}
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        answer = Say(status=403, body=gzip.compress(body) if compress else body, content_type="application/xml")
        plane.script("storage", replace(answer, headers=headers))

        with pytest.raises(ControlPlaneUnavailable, match="403 Forbidden: AccessDenied: Request has expired"):
            await downloader.fetch("config", None)


@pytest.mark.parametrize("message", [f"{SIGNATURE} does not match", "the signature s3cr3t-signature does not match"])
async def test_a_signature_that_is_echoed_does_not_come_into_our_words(message: str) -> None:
    """Z-42, zero link 11.3: the signature opens the bundle to anyone, and our words go to logs and reports."""
    body = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{message}</Message></Error>".encode()
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.script("storage", Say(status=403, body=body, content_type="application/xml"))

        with pytest.raises(ControlPlaneUnavailable, match="does not match") as failed:
            await downloader.fetch("config", None)

    assert "s3cr3t" not in str(failed.value)


GZIPPED = replace(OCTETS, body=gzip.compress(CONTENT), headers={"ETag": '"1"', "Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (replace(OCTETS, cut_after=10), "the download was cut short"),
        (replace(GZIPPED, cut_after=10), "the download was cut short"),
        (replace(OCTETS, cut_after=10, close_delimited=True), "answered without a length"),
        (replace(OCTETS, headers={}), "answered without an ETag"),
        (replace(OCTETS, headers={"ETag": "1", "Content-Encoding": "br"}), "in encoding 'br'; gzip was offered"),
        (Say(hang=True), "the download stalled"),
        (Say(status=304), "answered 304"),
        (Say(status=206, body=CONTENT), "answered 206"),
        (html(502), "answered 502"),
        (replace(html(), headers={"ETag": "1"}), "answered 200 text/html, which is a page and not a bundle"),
    ],
)
async def test_a_download_that_went_wrong_may_pass_by_itself(answer: Say, complaint: str) -> None:
    """Z-36, W3, W8."""
    async with serve_control_plane() as plane, open_downloader(plane, patience=IMPATIENT) as (_, downloader):
        plane.publish("config", RECORDS, etag='"1"')
        plane.script("storage", answer)

        with pytest.raises(ControlPlaneUnavailable, match=complaint) as unavailable:
            await downloader.fetch("config", None)

        assert f"{plane.http_url}/storage/config" in str(unavailable.value)
        assert "s3cr3t" not in str(unavailable.value)
        assert isinstance(await downloader.fetch("config", None), Downloaded)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (replace(OCTETS, body=html().body * 2), "this is not a bundle"),
        (replace(OCTETS, body=CONTENT[:-1]), "the bundle is cut short"),
        (replace(GZIPPED, body=GZIPPED.body[:-1]), "its gzip stream has no end"),
        (replace(GZIPPED, body=b""), "its gzip stream has no end"),
        (replace(GZIPPED, body=CONTENT), "not valid gzip"),
        (replace(GZIPPED, body=GZIPPED.body + b"rubbish"), "not valid gzip"),
        (replace(GZIPPED, body=gzip.compress(encode_bundle([record("a", bytes(10**6))]))), "larger than 1000000 bytes"),
    ],
)
async def test_a_bundle_that_arrived_and_cannot_be_read_is_rejected(answer: Say, complaint: str) -> None:
    """Z-36, Z-37, W8."""
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.script("storage", answer)

        with pytest.raises(ConfigRejected, match=complaint):
            await downloader.fetch("config", None)


async def test_a_gzip_body_of_several_members_is_read_as_one() -> None:
    """Z-36."""
    body = gzip.compress(CONTENT[:7]) + gzip.compress(CONTENT[7:])
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.script("storage", replace(GZIPPED, body=body))

        found = await downloader.fetch("config", None)

    assert isinstance(found, Downloaded)
    assert found.records == RECORDS


async def test_a_large_bundle_is_read_whole() -> None:
    """Z-36: what compresses well gives more than one piece of plain bytes per piece that arrives."""
    records = tuple(record(f"{number:03}", bytes(9000)) for number in range(100))
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.publish("config", records, etag='"1"')

        found = await downloader.fetch("config", None)

    assert isinstance(found, Downloaded)
    assert found.records == records


@pytest.mark.parametrize("url", ["not a url?secret", "ftp://host/x?secret", "http://[::1?secret", "http:///x?secret"])
async def test_a_url_that_cannot_be_fetched_is_not_quoted(url: str) -> None:
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.script("download", say({"url": url, "expiresInSeconds": "3600"}))

        with pytest.raises(ControlPlaneUnavailable) as unavailable:
            await downloader.fetch("config", None)

    assert "secret" not in str(unavailable.value)


async def test_headers_that_are_no_text_do_no_harm() -> None:
    """What is kept of an answer goes into records and reports, which hold nothing but text."""
    head = b"HTTP/1.1 200 OK\r\nETag: \xff1\r\nLast-Modified: \xff2\r\nX-Amz-Meta-Version: \xff3\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + f"Content-Length: {len(CONTENT)}\r\n\r\n".encode() + CONTENT)
        await writer.drain()

    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader), serve_raw(answer) as port:
        ticket = {"url": f"http://127.0.0.1:{port}/", "expiresInSeconds": "3600", "captureMetadataHeaders": [CAPTURED]}
        plane.script("download", say(ticket))

        found = await downloader.fetch("config", None)

    assert found == Downloaded(etag="?1", last_modified="?2", metadata={CAPTURED: "?3"}, records=RECORDS)


async def test_a_refusal_of_the_url_is_a_refusal() -> None:
    """Z-10."""
    async with serve_control_plane() as plane, open_downloader(plane) as (_, downloader):
        plane.script("download", say({"error": "gone"}, 400))

        with pytest.raises(Refused):
            await downloader.fetch("config", None)

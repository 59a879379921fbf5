"""A control plane that is newer than this replica: what nobody here knows is passed over, and what is known counts.

Fields, kinds of messages, record types and conditions (Z-18, Z-38, Z-50; docs/operating.md, versions).
"""

import asyncio
from dataclasses import replace
from pathlib import Path

from pomerium_agent.config import Compiled, open_config
from pomerium_agent.databroker import Backend
from pomerium_agent.pb.pomerium import connect_pb2
from pomerium_agent.records import Payload, Record
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.zero.link import run_jobs
from tests.fakes.config_records import config, route, versioned
from tests.fakes.control_plane import PATIENCE, FakeControlPlane, say, serve_control_plane
from tests.unit.zero.test_link import linked

FIELD_9999 = b"\xfa\xf0\x04\x05later"
KIND_999 = b"\xba\x3e\x01x"
NEWER = "type.googleapis.com/pomerium.config.FromTheFuture"
NEVER = {"feature": "from-the-future", "at_least": "1.0.0"}
ALWAYS = {"feature": "from-the-future", "less_than": "1.0.0"}


def with_unknown_fields(record: Record) -> Record:
    """As a newer control plane would write it: a field more in the message, and in its first route."""
    assert record.data is not None
    return replace(record, data=Payload(record.data.type_url, record.data.value + FIELD_9999))


def talkative(plane: FakeControlPlane) -> None:
    """Every document has a key that nobody knows."""
    plane.bearers.add("bearer")
    plane.always("exchangeToken", say({"idToken": "bearer", "expiresInSeconds": "3600", "later": {"a": [1]}}))
    plane.bootstrap["later"] = {"a": [1]}
    plane.always("bundles", say({"bundles": [{"id": "config", "later": 1}], "later": None}))
    ticket = {"url": f"{plane.http_url}/storage/config", "expiresInSeconds": "3600", "later": True}
    plane.always("download", say({**ticket, "captureMetadataHeaders": []}))


async def test_what_a_newer_control_plane_says_more_is_passed_over(tmp_path: Path) -> None:
    """Z-9, Z-18, Z-38, Z-50."""
    strange = route(prefix="/strange")
    strange.MergeFromString(FIELD_9999)
    records = (
        with_unknown_fields(config("a", route(prefix="/plain"), strange)),
        versioned("later", route(prefix="/later"), conditions=[NEVER]),
        with_unknown_fields(versioned("now", route(prefix="/now"), conditions=[ALWAYS])),
        Record(type=NEWER, id="a", data=Payload(NEWER, b"\xff\xff")),
    )
    async with serve_control_plane() as plane:
        talkative(plane)
        plane.publish("config", records, etag='"1"')
        async with linked(plane, tmp_path) as at, run_jobs(at.link, Latest(at.backend)):
            await at.until_healthy("zero.resource-bundle.config")
            await at.until_healthy(Check.ZERO_CONNECT)
            fetched = len(plane.requests("bootstrap"))
            plane.push(KIND_999)
            plane.push(connect_pb2.Message(bootstrap_config_updated=connect_pb2.BootstrapConfigUpdated()))
            await plane.until(lambda: len(plane.requests("bootstrap")) > fetched)

            for record in records:  # byte for byte: whoever reads them may be newer than we are
                found = await at.backend.get(record.type, record.id)
                assert found is not None
                assert found.data == record.data
            compiled = await first_compiled(at.backend)

        assert {each.match.value for each in compiled.snapshot.routes} == {"/plain", "/strange", "/now"}
        assert [fault for fault in compiled.faults if not fault.warning] == []
        assert at.health.reports[Check.ZERO_CONNECT].error == ""


async def first_compiled(backend: Backend) -> Compiled:
    async with asyncio.timeout(PATIENCE), open_config(backend, clock=SystemClock(), health=Health()) as latest:
        async for compiled in latest.follow():
            if compiled is not None and compiled.whole:
                return compiled
    raise AssertionError("a Latest never ends")

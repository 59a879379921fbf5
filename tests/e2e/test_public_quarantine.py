"""What visitors get of a route that has a fault, and that everything else goes on."""

import pytest

from tests.e2e.visitor import answer, on_stage, route
from tests.fakes.upstream import serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

UNFINISHED = [{"interval": "1s", "http_health_check": {"path": "/"}}]  # thresholds and timeout are missing


async def test_a_faulty_route_keeps_its_place_and_its_last_good_version() -> None:
    """R-4, R-5, routes 1.2 (72, 94), 13, A16: no laxer route below catches its traffic."""
    async with serve_upstream() as upstream:
        lax = route("app.DOMAIN", response=answer("lax"))
        later = route("later.DOMAIN", id="later", to=upstream.url, prefix_rewrite="/good")
        bad = (
            route("app.DOMAIN", name="bad", prefix="/admin", to=upstream.url, health_checks=UNFINISHED),
            route("lost.DOMAIN", regex="^/(?!a)", to=upstream.url),
            route("lost.DOMAIN", response=answer("shut")),
            route("lost.DOMAIN", path="/exact", response=answer("above")),
            # What a later version will do stands aside as a whole, and says so.
            route("tools.DOMAIN", to=upstream.url, mcp={"server": {}}),
            route("door.DOMAIN", to=upstream.url, session_recording={"enabled": True}),
        )
        async with on_stage(lax, later) as stage:
            visitor = stage.visitor
            assert (await visitor.ask("app.DOMAIN", "/admin")).text == "lax"

            broken = later.replace('"/good"', '"/newer"') + "regex_rewrite_pattern: ^/x\n"
            await stage.apply(lax, broken, *bad, options=("--allow-faulty",))

            aside = await visitor.ask("app.DOMAIN", "/admin/x")
            faults = await stage.faults()
            assert len({fault["subject"] for fault in faults}) == 5
            not_yet = [fault["field"] for fault in faults if "not supported by this version yet" in fault["reason"]]
            assert sorted(not_yet) == ["mcp", "session_recording"]
            assert [(await visitor.ask(host)).status for host in ("tools.DOMAIN", "door.DOMAIN")] == [503, 503]
            about = [fault["id"] for fault in faults if '"bad"' in fault["subject"]]
            assert aside.status == 503
            assert about[0] in aside.text
            assert (await visitor.ask("app.DOMAIN", "/other")).text == "lax"
            # Its match is what is wrong, so the whole host is set aside below it, and above it nothing.
            assert await visitor.statuses("lost.DOMAIN", "/", "/abc", "/exact", "/ping") == [503, 503, 200, 200]
            # The last version that was accepted goes on.
            assert (await visitor.ask("later.DOMAIN", "/x")).said["path"] == "/goodx"

            await stage.apply(lax, later.replace('"/good"', '"/newer"'))
            assert (await visitor.ask("later.DOMAIN", "/x")).said["path"] == "/newerx"
            assert await stage.faults() == []

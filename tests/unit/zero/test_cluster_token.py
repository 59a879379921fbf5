"""Another cluster token takes the place of the one in use: tried first, never by accident, and never shown."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pomerium_agent.errors import ConfigRejected, Refused
from pomerium_agent.runtime.clock import Clock, SystemClock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.settings import Secret, TokenSource
from pomerium_agent.zero.bootstrap_file import BootstrapFile
from pomerium_agent.zero.cluster_token import LOOK_EVERY, ClusterToken, fingerprint
from pomerium_agent.zero.link import open_link
from pomerium_agent.zero.nudge import Flag
from pomerium_agent.zero.secrets import derive_secrets
from pomerium_agent.zero.token import API_MIN_TTL, Bearer, TokenCache
from tests.fakes.clock import ManualClock, settle
from tests.fakes.control_plane import PATIENCE, TOKEN, FakeControlPlane, html, say, serve_control_plane, settings_for
from tests.unit.zero.wire import open_api

NEW = Secret("another-token-of-the-tests")
REFUSED = say({"error": "no such token"}, 400)


@dataclass(slots=True, kw_only=True)
class Source:
    """A token file, the token that follows it, and what is said of both."""

    plane: FakeControlPlane
    token: ClusterToken
    file: Path
    clock: ManualClock
    health: Health
    hangup: Flag = field(default_factory=Flag)

    async def until_said(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            async for report in self.health.follow():
                if report.check == Check.ZERO_TOKEN and text in report.error + json.dumps(dict(report.attributes)):
                    return

    @property
    def tried(self) -> list[str]:
        return [json.loads(seen.body)["refreshToken"] for seen in self.plane.requests("exchangeToken")]


@asynccontextmanager
async def followed(folder: Path) -> AsyncIterator[Source]:
    file, clock, health, hangup = folder / "token", ManualClock(), Health(), Flag()
    file.write_text(TOKEN)
    source = TokenSource(name="POMERIUM_ZERO_TOKEN_FILE", file=file)
    async with serve_control_plane() as plane, open_api(plane, clock=clock) as api:
        token = ClusterToken(TOKEN, source, api, health=health, clock=clock, hangup=hangup)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(token.run())
            yield Source(plane=plane, token=token, file=file, clock=clock, health=health, hangup=hangup)
            running.cancel()


async def test_a_new_token_is_tried_and_then_used_within_seconds(tmp_path: Path) -> None:
    """Zero link 7: everything that follows from the token changes with it. Z-3, Z-4."""
    async with followed(tmp_path) as at:
        await at.clock.until_sleeping()
        at.file.write_text(NEW + "\n")

        await at.clock.advance(LOOK_EVERY)
        await at.until_said(fingerprint(NEW))

        assert at.token.current.value == NEW
        assert at.token.secrets.value.kid == derive_secrets(NEW).kid
        assert at.tried == [NEW]


async def test_it_is_read_at_once_when_told_to(tmp_path: Path) -> None:
    async with followed(tmp_path) as at:
        at.file.write_text(NEW)

        at.hangup.put_up()
        await at.until_said(fingerprint(NEW))

        assert at.token.current.value == NEW


@pytest.mark.parametrize("content", ["", "two words", " space", "\n\n"])
async def test_what_is_no_token_leaves_the_one_in_use(tmp_path: Path, content: str) -> None:
    async with followed(tmp_path) as at:
        at.file.write_text(content)

        at.hangup.put_up()
        await at.until_said("the token in use stays")

        assert at.token.current.value == TOKEN
        assert at.tried == []


async def test_a_file_that_is_gone_leaves_the_token_in_use_and_is_named(tmp_path: Path) -> None:
    async with followed(tmp_path) as at:
        at.file.unlink()

        at.hangup.put_up()
        await at.until_said(str(at.file))

        assert at.token.current.value == TOKEN


async def test_a_token_that_is_refused_harms_nobody_and_is_tried_again_only_when_told_to(tmp_path: Path) -> None:
    """Z-10, Z-66."""
    async with followed(tmp_path) as at:
        await at.clock.until_sleeping()
        at.plane.script("exchangeToken", REFUSED)
        at.file.write_text(NEW)

        at.hangup.put_up()
        await at.until_said("is refused, the one in use stays")
        for _ in range(3):
            await at.clock.until_sleeping()
            await at.clock.advance(LOOK_EVERY)

        assert at.token.current.value == TOKEN
        assert at.tried == [NEW]
        assert NEW not in at.health.reports[Check.ZERO_TOKEN].error
        at.hangup.put_up()
        await at.until_said(fingerprint(NEW) + '"')
        assert at.token.current.value == NEW


async def test_a_token_that_cannot_be_tried_waits_while_the_one_in_use_is_good(tmp_path: Path) -> None:
    """Z-65: a control plane that is away changes nothing."""
    async with followed(tmp_path) as at:
        at.plane.script("exchangeToken", html(502))
        at.file.write_text(NEW)

        at.hangup.put_up()
        await at.until_said("could not be tried yet")

        assert at.token.current.value == TOKEN


async def test_after_a_refusal_it_is_taken_up_untried_where_nobody_can_be_asked(tmp_path: Path) -> None:
    """Z-66: the one in use is worth nothing, so there is nothing to lose."""
    async with followed(tmp_path) as at:
        at.plane.script("exchangeToken", html(502))
        at.file.write_text(NEW)

        assert await at.token.replaced(TOKEN)
        assert at.token.current.value == NEW
        assert not await at.token.replaced(NEW)


async def test_the_environment_is_not_read_again_and_that_is_said(tmp_path: Path) -> None:
    health, hangup = Health(), Flag()
    with capture_logs() as logs:
        async with serve_control_plane() as plane, open_api(plane) as api, asyncio.TaskGroup() as group:
            token = ClusterToken(TOKEN, TokenSource(), api, health=health, clock=ManualClock(), hangup=hangup)
            running = group.create_task(token.run())
            hangup.put_up()
            await settle()
            assert not await token.replaced(TOKEN)
            running.cancel()

    assert any("restart it" in entry["event"] for entry in logs)


def test_the_fingerprint_is_the_beginning_of_the_hash_and_nothing_else() -> None:
    assert fingerprint("secret") == hashlib.sha256(b"secret").hexdigest()[:8]


async def test_an_exchange_that_is_under_way_when_the_token_changes_counts_for_nothing() -> None:
    """Z-12: nobody gets a bearer of the token before, nor its refusal."""
    began, go = asyncio.Event(), asyncio.Event()
    answers: list[Bearer | Refused] = [Refused("old"), Bearer(Secret("new"), timedelta(hours=1))]

    async def exchange() -> Bearer:
        answer = answers.pop(0)
        if not began.is_set():
            began.set()
            await go.wait()
        if isinstance(answer, Refused):
            raise answer
        return answer

    tokens = TokenCache(exchange, ManualClock())
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(tokens.bearer(API_MIN_TTL))
        await began.wait()
        tokens.begin_anew()
        go.set()

    assert asked.result() == "new"


async def until(health: Health, check: str, text: str = "") -> None:
    async with asyncio.timeout(PATIENCE):
        async for report in health.follow():
            if report.check == check and (text in report.error if text else report.healthy):
                return


@pytest.mark.parametrize("on_refused", ["exit", "serve"])
async def test_a_refused_link_looks_for_another_token_before_it_gives_up(tmp_path: Path, on_refused: str) -> None:
    """Z-66, Z-26, Z-6: the stream is opened anew, and the bootstrap file sealed with what the new one brings."""
    file, health = tmp_path / "token", Health()
    file.write_text(TOKEN)
    clock: Clock = SystemClock()
    async with serve_control_plane() as plane:
        settings = settings_for(
            plane, tmp_path, on_refused=on_refused, token_source=TokenSource(name="a file", file=file)
        )
        async with open_link(settings, health=health, clock=clock, instance="i") as link:
            await until(health, Check.ZERO_CONNECT)
            await until(health, Check.ZERO_BOOTSTRAP_SAVE)
            file.write_text(NEW)
            plane.bearers.clear()
            plane.script("exchangeToken", REFUSED)  # the old token; the next one is the new one's
            link.api.tokens.begin_anew()
            link.events.bootstrap_config_updated.put_up()
            async with asyncio.timeout(PATIENCE):
                async for current in link.token.current.follow():
                    if current == NEW:
                        break
            await until(health, Check.ZERO_CONNECT)
            await plane.until(lambda: plane.subscriptions)
            moved = BootstrapFile(tmp_path / "bootstrap.dat", derive_secrets(NEW).file_key)
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        found = await moved.load()
                        break
                    except ConfigRejected:
                        await asyncio.sleep(0.01)

    assert found is not None
    assert found.shared_secret == base64.b64decode(str(plane.bootstrap["sharedSecret"]))
    with pytest.raises(ConfigRejected, match="another cluster token"):
        await BootstrapFile(tmp_path / "bootstrap.dat", derive_secrets(TOKEN).file_key).load()

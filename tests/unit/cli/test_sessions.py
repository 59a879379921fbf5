"""`pomerium-agent sessions` over a real control socket: list, show and revoke, in words and as JSON."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pomerium_agent.__main__ import main
from pomerium_agent.agent.board import Board
from pomerium_agent.agent.control import serve_control
from pomerium_agent.agent.people import People
from pomerium_agent.authenticate import Site
from pomerium_agent.idp import ProviderSettings
from pomerium_agent.records import Record
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.identity import resolve
from pomerium_agent.sessions.live import Sessions
from tests.fakes import session_records as records
from tests.fakes.clock import settle
from tests.unit.sessions.stage import Stage

NOW = datetime.now(UTC)  # the control socket has the real clock
SITE = Site(providers={"idp": ProviderSettings(type="google", id="idp")})


@dataclass(frozen=True, slots=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Awaitable[Done]]


@dataclass(frozen=True, slots=True)
class Replica:
    stage: Stage
    sessions: Sessions
    run: Run


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line in this process, exit codes included."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["pomerium-agent", "sessions", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return run


@asynccontextmanager
async def replica(called: Callable[..., Done], directory: Path, *written: Record) -> AsyncIterator[Replica]:
    """A control socket over sessions in memory, and the command line that asks it, in a thread as a process would."""
    stage, path = Stage(), directory / "control.sock"
    await stage.put(*written)
    board = Board(version="1", instance="i", health=Health(), keeper_pid=1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, capture_logs():  # the replica's, not the verb's
        sock.bind(str(path))
        sock.listen()
        async with stage.sessions() as live, serve_control(sock, board):
            board.people = People(backend=stage.backend, sessions=live, site=Latest(SITE))

            async def run(*arguments: str) -> Done:
                return await asyncio.to_thread(called, *arguments, "--socket", str(path))

            yield Replica(stage, live, run)


def ada(id: str, **fields: object) -> Record:
    usual: dict[str, object] = {
        "expires": NOW + timedelta(hours=14),
        "token": "secret-access",
        "token_expires": NOW + timedelta(hours=1),
        "refresh": "secret-refresh",
        "id_token": "secret-id",
        "accessed": NOW,
        "idp_id": "idp",
        "claims": {"groups": ["eng", "ops"], "level": [3]},
    }
    return records.session(id, "ada", **{**usual, **fields})  # type: ignore[arg-type]


PEOPLE = (
    records.user("ada", "ada@example.com", name="Ada Lovelace", claims={"locale": ["en"]}),
    records.user("grace", "grace@example.com"),
    ada("a1"),
    ada("a2", expires=NOW - timedelta(hours=1)),
    records.session("g1", "grace", expires=NOW + timedelta(hours=1)),
)


async def test_sessions_are_listed_with_who_and_until_when(called: Callable[..., Done], tmp_path: Path) -> None:
    async with replica(called, tmp_path, *PEOPLE) as at:
        everybody, hers = await at.run("list"), await at.run("list", "--email", "ADA@example.com", "--json")
        nobody = await at.run("list", "--user", "bob")

    lines = everybody.stdout.splitlines()
    assert lines[0].split() == ["user", "email", "provider", "issued", "expires", "last", "access", "session"]
    assert [line.split()[-1] for line in lines[1:]] == ["a1", "a2", "g1"]
    assert "google" in lines[1]
    assert "(over)" in lines[2]
    assert everybody.returncode == 0
    found = json.loads(hers.stdout)
    assert [each["id"] for each in found["sessions"]] == ["a1", "a2"]
    assert found["sessions"][0] == {
        "id": "a1",
        "user_id": "ada",
        "email": "ada@example.com",
        "name": "Ada Lovelace",
        "idp_id": "idp",
        "provider": "google",
        "issued_at": None,
        "expires_at": (NOW + timedelta(hours=14)).isoformat(timespec="seconds"),
        "accessed_at": NOW.isoformat(timespec="seconds"),
        "expired": False,
    }
    assert nobody.stdout == "there is no such session\n"


async def test_a_long_list_comes_in_pages_and_misses_nobody(called: Callable[..., Done], tmp_path: Path) -> None:
    many = [records.session(f"s{number}", f"u{number % 3}") for number in range(25)]
    seen: list[str] = []
    async with replica(called, tmp_path, *many) as at:
        after: list[str] = []
        while True:
            page = json.loads((await at.run("list", "--limit", "10", *after, "--json")).stdout)
            seen += [each["id"] for each in page["sessions"]]
            assert page["total"] == 25
            if not page["next"]:
                break
            after = ["--after", page["next"]]
        words = await at.run("list", "--limit", "10", "--user", "u1")
        assert words.stdout.count("\n") == 1 + 8

    assert seen == sorted(f"s{number}" for number in range(25))


async def test_one_session_is_shown_with_its_claims_and_without_its_tokens(
    called: Callable[..., Done], tmp_path: Path
) -> None:
    """N-33, N-43."""
    async with replica(called, tmp_path, *PEOPLE) as at:
        words, whole, listed = await at.run("show", "a1"), await at.run("show", "a1", "--json"), await at.run("list")

    assert "ada (ada@example.com), Ada Lovelace" in words.stdout
    assert "claim      groups: eng, ops" in words.stdout
    assert "user claim locale: en" in words.stdout
    assert "about a minute before" in words.stdout
    found = json.loads(whole.stdout)
    assert found["claims"] == {"groups": ["eng", "ops"], "level": [3]}
    assert found["has_refresh_token"] is True
    assert "secret" not in words.stdout + whole.stdout + listed.stdout


async def test_a_revoked_session_is_a_strangers_at_the_next_request(
    called: Callable[..., Done], tmp_path: Path
) -> None:
    """N-38."""
    async with replica(called, tmp_path, *PEOPLE) as at:
        assert resolve(at.sessions, "a1", NOW) is not None
        first, again = await at.run("revoke", "a1", "nobody's"), await at.run("revoke", "a1", "--json")
        await settle()
        assert resolve(at.sessions, "a1", NOW) is None
        assert resolve(at.sessions, "g1", NOW) is not None

    assert first.stdout.splitlines() == [
        "revoked  a1 of ada (ada@example.com)",
        "gone     nobody's: there is no such session, or not any more",
    ]
    assert json.loads(again.stdout) == {"revoked": [], "unknown": ["a1"]}
    assert (first.returncode, again.returncode) == (0, 0)


@pytest.mark.parametrize("whom", [("--user", "ada"), ("--email", "Ada@Example.com")])
async def test_all_sessions_of_somebody_are_revoked(
    called: Callable[..., Done], tmp_path: Path, whom: tuple[str, str]
) -> None:
    async with replica(called, tmp_path, *PEOPLE) as at:
        done, again = await at.run("revoke", *whom), await at.run("revoke", *whom)
        await settle()
        assert list(at.sessions.all) == ["g1"]

    assert [line.split()[1] for line in done.stdout.splitlines()] == ["a1", "a2"]
    assert again.stdout == f"{whom[1]} has no sessions\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "nothing"), "there is no session"),
        (("revoke",), "say whom to sign out"),
        (("revoke", "a1", "--user", "ada"), "one of these only"),
        (("revoke", *map(str, range(1001))), "no more than 1000"),
    ],
)
async def test_what_cannot_be_done_ends_with_2_and_one_line(
    called: Callable[..., Done], tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    async with replica(called, tmp_path, *PEOPLE) as at:
        done = await at.run(*arguments)
        assert len(at.sessions) == 3

    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


async def test_an_outage_of_the_store_is_said_and_nothing_is_claimed(
    called: Callable[..., Done], tmp_path: Path
) -> None:
    async with replica(called, tmp_path, *PEOPLE) as at:
        at.stage.backend.cut()
        done = [await at.run("list"), await at.run("show", "a1"), await at.run("revoke", "a1")]

    assert [(each.returncode, each.stdout) for each in done] == [(2, "")] * 3
    assert all("the databroker cannot be asked" in each.stderr for each in done)


async def test_what_others_wrote_does_not_move_the_cursor(called: Callable[..., Done], tmp_path: Path) -> None:
    async with replica(
        called, tmp_path, records.user("u", "\x1b[2Jmail"), records.session("s", "u", claims={"a\x1b": ["\x1b[31mred"]})
    ) as at:
        said = (await at.run("list")).stdout + (await at.run("show", "s")).stdout

    assert "\x1b" not in said
    assert "?[31mred" in said

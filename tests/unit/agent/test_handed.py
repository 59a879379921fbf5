"""What the Envoy that runs was handed, noted for the agent after this one."""

import asyncio
import stat
from pathlib import Path

import pytest

from pomerium_agent.agent.handed import NAME, Handed, HandedNote
from pomerium_agent.runtime.latest import Latest
from tests.e2e.world import eventually


async def test_the_next_agent_reads_what_this_one_wrote(tmp_path: Path) -> None:
    note = HandedNote(tmp_path, Latest(7))
    assert await note.load() is None

    await note.write("digest")

    assert await HandedNote(tmp_path, Latest(0)).load() == Handed("digest", 7)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


async def test_another_envoy_is_noted_too(tmp_path: Path) -> None:
    """It is given the same by ADS, without a new offer."""
    pid = Latest(7)
    note = HandedNote(tmp_path, pid)
    await note.write("digest")

    async def noted() -> bool:
        return await note.load() == Handed("digest", 8)

    async with asyncio.TaskGroup() as group:
        following = group.create_task(note.follow_envoy())
        pid.set(8)
        await eventually("the other envoy is noted", noted)
        following.cancel()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"digest":"a"}', b'{"digest":"a","envoy":"b"}', b"\xff"])
async def test_what_cannot_be_read_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)

    assert await HandedNote(tmp_path, Latest(0)).load() is None


async def test_a_note_that_cannot_be_written_does_not_stand_for_what_came_before(tmp_path: Path) -> None:
    note = HandedNote(tmp_path, Latest(7))
    await note.write("before")
    (tmp_path / NAME).with_suffix(".new").mkdir()

    await note.write("after")

    assert await note.load() is None

"""Doors that an agent opens when it is in charge, and the name of a socket that goes from one agent to the next."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pomerium_agent.agent.doors import Doors, named, own_name
from pomerium_agent.runtime.latest import Latest
from tests.e2e.world import eventually


@asynccontextmanager
async def door(seen: list[str], name: str) -> AsyncIterator[None]:
    seen.append(f"{name} opens")
    await asyncio.sleep(0)
    yield
    seen.append(f"{name} closes")


async def test_doors_open_together_and_close_with_their_rooms() -> None:
    seen: list[str] = []
    doors = Doors(opened=False)
    async with doors.hang(door(seen, "first")), doors.hang(door(seen, "second")):
        await asyncio.sleep(0)
        assert seen == []
        await doors.open()
        assert sorted(seen) == ["first opens", "second opens"]
        async with doors.hang(door(seen, "late")):
            assert seen[-1] == "late opens"
        assert seen[-1] == "late closes"
    assert seen[-2:] == ["second closes", "first closes"]


async def test_a_door_that_never_opened_needs_no_closing() -> None:
    seen: list[str] = []
    doors = Doors(opened=False)
    async with doors.hang(door(seen, "first")):
        pass
    await doors.open()
    assert seen == []


class Stuck:
    """A door that does not open."""

    async def __aenter__(self) -> None:
        raise OSError("stuck")

    async def __aexit__(self, *_: object) -> None:
        pass


async def test_a_door_that_cannot_open_ends_the_room() -> None:
    doors = Doors(opened=False)

    async def room() -> None:
        async with doors.hang(Stuck()):
            await doors.open()
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as raised:
        await room()
    assert isinstance(raised.value.exceptions[0], OSError)


async def ours_again(path: Path) -> bool:
    return await asyncio.to_thread(path.samefile, own_name(path))


async def test_a_name_leads_to_us_until_another_agent_takes_it(tmp_path: Path) -> None:
    path, again = tmp_path / "ads.sock", Latest(0)
    with socket.socket(socket.AF_UNIX) as ours, socket.socket(socket.AF_UNIX) as theirs:
        ours.bind(str(own_name(path)))
        ours.listen()
        theirs.bind(str(tmp_path / "other.sock"))
        async with named(path, again):
            assert path.samefile(own_name(path))
            (tmp_path / "other.sock").replace(path)
            again.set(1)  # it came to nothing
            await eventually("the name is ours again", lambda: ours_again(path))
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        assert not path.exists()
        async with named(path, again):
            path.unlink()
            path.touch()
        assert path.exists()  # whose it is now is not ours to remove
    assert set(await asyncio.to_thread(os.listdir, tmp_path)) == {"ads.sock", own_name(path).name}

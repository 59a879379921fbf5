"""What is kept on this machine for a start without the control plane (architecture 4.4)."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.agent.last_good import HEADER, Kept, LastGood, open_kept, parse_kept, seal_kept
from pomerium_agent.config.digest import records_digest
from pomerium_agent.errors import ConfigRejected
from tests.fakes import session_records as people
from tests.fakes.config_records import config, route

KEY = bytes(range(32))
AT = datetime(2030, 6, 1, 12, tzinfo=UTC)


def kept(*paths: str) -> Kept:
    records = tuple(config(path, route(prefix=path)) for path in paths)
    return Kept(digest=records_digest(records), at=AT, records=records, callers=(people.account("robot", "u"),))


async def test_what_was_kept_comes_back_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    there = LastGood(tmp_path / "state", KEY)
    assert await there.load() is None

    await there.save(kept("/a", "/b"))
    await there.save(kept("/secret-path"))

    found = await LastGood(tmp_path / "state", KEY).load()
    assert found == kept("/secret-path")
    assert records_digest(found.records) == found.digest
    assert stat.S_IMODE(there.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(there.path.parent.stat().st_mode) == 0o700
    assert b"secret-path" not in there.path.read_bytes()


@pytest.mark.parametrize("change", ["cut", "flipped", "empty"])
async def test_a_damaged_file_is_refused(tmp_path: Path, change: str) -> None:
    there = LastGood(tmp_path, KEY)
    await there.save(kept("/a"))
    content = there.path.read_bytes()
    there.path.write_bytes(
        {"cut": content[:-1], "flipped": bytes([content[0] ^ 1]) + content[1:], "empty": b""}[change]
    )

    with pytest.raises(ConfigRejected):
        await there.load()


async def test_a_file_of_another_cluster_token_is_refused(tmp_path: Path) -> None:
    await LastGood(tmp_path, KEY).save(kept("/a"))

    with pytest.raises(ConfigRejected, match="another cluster token"):
        await LastGood(tmp_path, bytes(32)).load()


async def test_a_file_of_a_later_version_is_refused_by_its_name(tmp_path: Path) -> None:
    """However it is sealed: the version is readable without the key."""
    there = LastGood(tmp_path, KEY)
    there.path.write_bytes(HEADER + b"2\nwhatever that release seals like")

    with pytest.raises(ConfigRejected, match="version 2 of another release"):
        await there.load()


@pytest.mark.parametrize("newest", [None, b"", b"rubbish", HEADER + b"7\n"])
async def test_the_copy_before_is_used_when_the_newest_cannot_be(tmp_path: Path, newest: bytes | None) -> None:
    """W5."""
    there = LastGood(tmp_path, KEY)
    await there.save(kept("/before"))
    await there.save(kept("/newest"))
    if newest is None:
        there.path.unlink()
    else:
        there.path.write_bytes(newest)

    assert await LastGood(tmp_path, KEY).load() == kept("/before")
    assert stat.S_IMODE(there.previous.stat().st_mode) == 0o600


async def test_a_damaged_file_does_not_push_out_the_copy_before(tmp_path: Path) -> None:
    there = LastGood(tmp_path, KEY)
    await there.save(kept("/before"))
    await there.save(kept("/newest"))
    there.path.write_bytes(b"rubbish")

    await LastGood(tmp_path, KEY).save(kept("/newer"))

    there.path.unlink()
    assert await LastGood(tmp_path, KEY).load() == kept("/before")


async def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    there = LastGood(tmp_path, KEY)
    await there.save(kept("/a"))
    there.previous.mkdir()  # nothing can be put in its place

    with pytest.raises(OSError, match="directory"):
        await there.save(kept("/b"))

    assert await LastGood(tmp_path, KEY).load() == kept("/a")


@given(st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"digest":1}', b'{"digest":"","at":1e400}']))
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigRejected):
        parse_kept(text)


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda rest: HEADER + rest))
def test_bytes_from_anywhere_are_refused_in_words(content: bytes) -> None:
    with pytest.raises(ConfigRejected):
        open_kept(KEY, content)


@given(at=st.integers(0, 400), bit=st.integers(0, 7))
def test_no_bit_can_be_changed_unseen(at: int, bit: int) -> None:
    content = bytearray(seal_kept(KEY, kept("/a")))
    content[at % len(content)] ^= 1 << bit

    with pytest.raises(ConfigRejected):
        open_kept(KEY, bytes(content))


async def test_with_another_token_it_is_sealed_anew_and_the_old_key_opens_nothing(tmp_path: Path) -> None:
    """Z-4, Z-6: what is kept follows the token, and a file of another token is refused in words."""
    there = LastGood(tmp_path, KEY)
    await there.save(kept("/a"))

    there.rekey(bytes(32))
    await there.save(kept("/a"))

    assert await LastGood(tmp_path, bytes(32)).load() == kept("/a")
    with pytest.raises(ConfigRejected, match="another cluster token"):
        await LastGood(tmp_path, KEY).load()


async def test_a_copy_that_somebody_removed_is_written_anew(tmp_path: Path) -> None:
    """The manual says how to be without one; the next change makes another."""
    last_good = LastGood(tmp_path, KEY)
    await last_good.save(kept())
    last_good.path.unlink()

    await last_good.save(kept())

    assert await LastGood(tmp_path, KEY).load() is not None

"""What is kept on this machine for a start without the control plane (architecture 4.4)."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.agent.last_good import Kept, LastGood, dump_kept, parse_kept
from pomerium_agent.config.digest import records_digest
from pomerium_agent.errors import ConfigRejected
from pomerium_agent.zero.seal import seal
from tests.fakes.config_records import config, route

KEY = bytes(range(32))
AT = datetime(2030, 6, 1, 12, tzinfo=UTC)


def kept(*paths: str) -> Kept:
    records = tuple(config(path, route(prefix=path)) for path in paths)
    return Kept(digest=records_digest(records), at=AT, records=records)


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
    there = LastGood(tmp_path, KEY)
    there.path.write_bytes(seal(there._key, dump_kept(kept("/a")).replace(b'"version":1', b'"version":2')))

    with pytest.raises(ConfigRejected, match="version 2"):
        await there.load()


@given(st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"version":1}', b'{"version":1,"at":1e400}']))
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigRejected):
        parse_kept(text)

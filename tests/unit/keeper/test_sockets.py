"""The runtime directory and the addresses that the keeper listens on (architecture 7)."""

import errno
import socket
from pathlib import Path

import pytest

from pomerium_agent.errors import AgentError, Retryable, SettingsError
from pomerium_agent.keeper import sockets
from pomerium_agent.keeper.sockets import open_runtime_dir


def test_an_address_that_somebody_else_has_just_now_may_be_tried_again(tmp_path: Path) -> None:
    """Or whoever binds it while the service starts again would have stopped it for good."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = pytest.raises(Retryable, match=f"HEALTH_CHECK_ADDR: cannot listen on {address}")
        with refused, open_runtime_dir(tmp_path / "run", address):
            pass
    with open_runtime_dir(tmp_path / "run", address) as runtime:
        assert runtime.listening["health"].getsockname()[1] == int(address.rpartition(":")[2])


def test_an_address_that_is_none_of_any_machine_is_a_setting_to_correct(tmp_path: Path) -> None:
    refused = pytest.raises(SettingsError, match="HEALTH_CHECK_ADDR")
    with refused, open_runtime_dir(tmp_path / "run", "no.such.name.invalid:80"):
        pass


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, Retryable), (errno.EACCES, SettingsError)])
def test_a_full_disk_passes_and_a_directory_of_others_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[AgentError]
) -> None:
    def fail(_path: Path) -> bool:
        raise OSError(number, "no")

    monkeypatch.setattr(sockets, "_make", fail)
    with pytest.raises(kind, match="RUNTIME_DIRECTORY"), open_runtime_dir(tmp_path / "run"):
        pass

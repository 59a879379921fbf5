"""What systemd is told."""

import socket
from pathlib import Path

from pomerium_agent.keeper.children import Patience
from pomerium_agent.keeper.keeper import longest_stop
from pomerium_agent.keeper.notify import Notifier


def test_systemd_waits_for_as_long_as_a_stop_may_take(tmp_path: Path) -> None:
    """R-23: an hour of draining is not cut short by the time-out of the unit."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        within = longest_stop(Patience(notice=10.0, drain=3600.0))

        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).stopping(within)

        assert systemd.recv(100) == b"STOPPING=1"
        assert systemd.recv(100) == b"EXTEND_TIMEOUT_USEC=%d" % round(within * 1_000_000)
        assert within > 3610

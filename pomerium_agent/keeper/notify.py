"""What systemd wants to hear from a service of Type=notify, said over its datagram socket (sd_notify)."""

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Says READY, STOPPING and, when a watchdog waits for it, that we are alive. Silent outside systemd."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self.watchdog_seconds = _watchdog(environ)

    def ready(self) -> None:
        self._say("READY=1")

    def stopping(self, within: float) -> None:
        """`within`: seconds that it may take, which may be longer than the unit allows."""
        self._say("STOPPING=1")
        self._say(f"EXTEND_TIMEOUT_USEC={round(within * 1_000_000)}")

    def alive(self) -> None:
        self._say("WATCHDOG=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), address)
        except OSError:
            return  # nobody listens: nothing that we could do about it, and no reason to stop


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Seconds between two signs of life, half of what systemd tolerates; None when no watchdog waits for us."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000

"""The questions that the keeper asks Envoy's admin socket: may it end, and does it serve."""

import re
import socket
from pathlib import Path

BUDGET = 1.0  # seconds for one answer
ACTIVE = re.compile(rb"^http\.(?!admin\.)\S*downstream_rq_active: (\d+)\r?$", re.MULTILINE)


def drain_listeners(admin: Path) -> bool:
    """Ask Envoy to take leave of its clients; False when it does not answer (R-23)."""
    return _ask(admin, "POST", "/drain_listeners?graceful") is not None


def requests_in_flight(admin: Path) -> int | None:
    """How many requests Envoy is working on; None when it does not answer."""
    body = _ask(admin, "GET", "/stats?filter=downstream_rq_active$")
    return None if body is None else sum(int(count) for count in ACTIVE.findall(body))


def serves(admin: Path, epoch: int) -> bool:
    """Whether the Envoy that answers is of this epoch, and does its work."""
    body = _ask(admin, "GET", "/server_info")
    if body is None:
        return False
    import json

    try:
        said = json.loads(body)
        return bool(said["state"] == "LIVE" and said["command_line_options"]["restart_epoch"] == epoch)
    except (ValueError, TypeError, KeyError):
        return False


def _ask(admin: Path, method: str, target: str) -> bytes | None:
    # Here, because this pulls in half of the standard library, which a keeper that only waits can do without.
    import http.client

    class AdminConnection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(BUDGET)
            self.sock.connect(str(admin))

    connection = AdminConnection("envoy-admin")
    try:
        connection.request(method, target)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == 200 else None

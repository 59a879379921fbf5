"""What fits on one screen for the operator of this machine: the status, and what only the control socket may tell."""

import socket
from datetime import datetime
from typing import Any

import structlog
from cryptography import x509

from pomerium_agent.agent.board import Board
from pomerium_agent.config.snapshot import Certificate
from pomerium_agent.errors import EnvoyUnavailable, InvalidRequest
from pomerium_agent.runtime.log import configure_logging
from pomerium_agent.settings import LOG_LEVELS

log = structlog.get_logger(__name__)


async def overview(board: Board, now: datetime) -> dict[str, Any]:
    """The status with names, certificates, sessions, and what Envoy counts; parts that are not there yet are null."""
    bootstrap = board.link.bootstrap.value if board.link else None
    taken, offered = board.taken_at, board.offered
    return {
        **board.status(),
        "at": now.isoformat(),
        "host": socket.gethostname(),
        "cluster": bootstrap.cluster_id if bootstrap else None,
        "organization": bootstrap.organization_id if bootstrap else None,
        "in_force_since": taken.isoformat() if taken else None,
        "sessions": len(board.people.sessions) if board.people else None,
        "certificates": [
            _certificate(each, now) for each in (offered.snapshot.settings.certificates if offered else ())
        ],
        "requests": await _requests(board),
    }


def _certificate(certificate: Certificate, now: datetime) -> dict[str, Any]:
    """Its names and its end; never its key."""
    ends = x509.load_pem_x509_certificate(certificate.chain.encode()).not_valid_after_utc
    return {
        "names": list(certificate.names),
        "not_after": ends.isoformat(),
        "days": (ends - now).days,
        "self_signed_fallback": certificate.self_signed_fallback,
    }


async def _requests(board: Board) -> int | None:
    """How many requests Envoy has had since it began."""
    if board.admin is None:
        return None
    try:
        return await board.admin.requests()
    except EnvoyUnavailable:
        return None


async def set_log_levels(board: Board, said: dict[str, object]) -> dict[str, Any]:
    """Change what the agent logs (`agent`), and Envoy (`proxy`), until either starts anew or the settings change.

    Raises InvalidRequest, and EnvoyUnavailable.
    """
    unknown = sorted(said.keys() - {"agent", "proxy"})
    if unknown or not said:
        raise InvalidRequest("a log level is set for agent, for proxy, or for both")
    for part, level in said.items():
        if level not in LOG_LEVELS:
            raise InvalidRequest(f"{part}: the level is one of {', '.join(LOG_LEVELS)}")
    if "proxy" in said:
        if board.admin is None:
            raise EnvoyUnavailable("envoy has not been started yet")
        await board.admin.set_log_level(str(said["proxy"]))
    if "agent" in said:
        configure_logging(str(said["agent"]), service="agent")
    log.warning("log level changed by the operator", **{str(part): str(level) for part, level in said.items()})
    return dict(said)

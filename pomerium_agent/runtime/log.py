"""Logging, configured once per process: JSON lines on standard output."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import structlog

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "": logging.INFO,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
    "off": logging.CRITICAL + 10,
    "none": logging.CRITICAL + 10,
    "disabled": logging.CRITICAL + 10,
}


_encode = json.JSONEncoder(default=repr).encode
_logger = structlog.get_logger(__name__)


class _Direct(NamedTuple):
    """How lines look that are written past the chain of processors, while that chain is the one of this module."""

    renderer: object
    logger: Any
    service: str
    silent: bool


class _Configured:
    direct: _Direct | None = None


def log_info(event: str, fields: Mapping[str, object]) -> None:
    """What `logger.info(event, **fields)` writes, at a fifth of its cost: for lines that come with every request."""
    direct, processors = _Configured.direct, structlog.get_config()["processors"]
    if direct is None or not processors or processors[-1] is not direct.renderer:
        _logger.info(event, **fields)
    elif not direct.silent:
        time = datetime.now(UTC).replace(tzinfo=None).isoformat()
        head = {"time": f"{time}Z", "level": "info", "event": event, "service": direct.service}
        direct.logger.msg(_encode({**head, **fields}))


def configure_logging(level: str, *, service: str) -> None:
    """Send events of `level` and above to standard output, one JSON object a line, with `service` on each."""

    def in_order(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """What a reader looks for comes first, in the same order as in the lines of keeper and Envoy."""
        head = {name: event.pop(name, "") for name in ("time", "level", "event")}
        return {**head, "service": event.pop("service", service), **event}

    renderer = structlog.processors.JSONRenderer(sort_keys=False)
    _Configured.direct = _Direct(renderer, structlog.PrintLogger(sys.stdout), service, LEVELS[level] > logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            in_order,
            # Without the values of local variables, which may hold tokens and cookies.
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )

"""Logging, configured once per process: JSON lines on standard output."""

import logging
import sys
from typing import Any

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


def configure_logging(level: str, *, service: str) -> None:
    """Send events of `level` and above to standard output, one JSON object a line, with `service` on each."""

    def in_order(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """What a reader looks for comes first, in the same order as in the lines of keeper and Envoy."""
        head = {name: event.pop(name, "") for name in ("time", "level", "event")}
        return {**head, "service": event.pop("service", service), **event}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            in_order,
            # Without the values of local variables, which may hold tokens and cookies.
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(sort_keys=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )

"""The keeper's own log lines: the shape of runtime/log.py, on the standard library alone."""

import json
import sys
from datetime import UTC, datetime

RANKS = {"debug": 1, "info": 2, "warning": 3, "error": 4}
LOWEST = {"trace": 0, "debug": 1, "info": 2, "warn": 3, "error": 4, "fatal": 5, "panic": 5, "disabled": 6}


class Log:
    """Writes one JSON object a line to standard output; lines below the configured level are dropped."""

    def __init__(self, level: str) -> None:
        self._lowest = LOWEST[level]

    def info(self, event: str, **facts: object) -> None:
        self._write("info", event, facts)

    def warning(self, event: str, **facts: object) -> None:
        self._write("warning", event, facts)

    def error(self, event: str, **facts: object) -> None:
        self._write("error", event, facts)

    def _write(self, level: str, event: str, facts: dict[str, object]) -> None:
        if RANKS[level] < self._lowest:
            return
        time = datetime.now(UTC).replace(tzinfo=None).isoformat() + "Z"
        line = {"time": time, "level": level, "event": event, "service": "keeper", **facts}
        try:
            sys.stdout.write(json.dumps(line, default=str) + "\n")
            sys.stdout.flush()
        except OSError:
            return  # whoever read the log is gone, which is no reason to stop serving

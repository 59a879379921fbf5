"""Records in one SQLite file: durable on this machine, with nothing to install."""

from pomerium_agent.databroker.sqlite.backend import SqliteBackend, open_sqlite

__all__ = ["SqliteBackend", "open_sqlite"]

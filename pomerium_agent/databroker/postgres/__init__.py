"""Records in PostgreSQL: shared by all replicas of a cluster, and by those of the reference (databroker 11)."""

from pomerium_agent.databroker.postgres.backend import PostgresBackend, open_postgres
from pomerium_agent.databroker.postgres.connection import ConnectionString, parse_connection

__all__ = ["ConnectionString", "PostgresBackend", "open_postgres", "parse_connection"]

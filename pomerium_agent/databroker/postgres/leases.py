"""Leases as rows, by the hour of the database: the clocks of replicas may differ (databroker 8, V7; D-20)."""

from datetime import timedelta

from pomerium_agent.databroker.postgres.link import Link

TAKE = """
    insert into pomerium.leases as held (name, id, expires_at) values ($1, $2, now() + $3)
    on conflict (name) do update set id = excluded.id, expires_at = excluded.expires_at
        where held.id = excluded.id or held.expires_at < now()
    returning id
"""
RELEASE = "update pomerium.leases set expires_at = now() - interval '1 microsecond' where name = $1 and id = $2"
LEASE_SECONDS = 10.0


async def take_lease(link: Link, name: str, holder: str, ttl: timedelta) -> bool:
    """One statement: free, expired or already ours, the row becomes ours; else it stays."""
    async with link.session(LEASE_SECONDS) as connection:
        return bool(await connection.fetchval(TAKE, name, holder, ttl) == holder)


async def release_lease(link: Link, name: str, holder: str) -> None:
    """The row stays, expired, if it was ours."""
    async with link.session(LEASE_SECONDS) as connection:
        await connection.execute(RELEASE, name, holder)

"""Whether a shared databroker holds a configuration already: another replica has the lease, or it outlived us all."""

from contextlib import aclosing

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.follow import Reset, follow
from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.zero.reconcile import CACHE_ENTRY_TYPE, entry_from_record


async def notice_filled(backend: Backend, filled: Latest[bool]) -> None:
    """Set `filled` and return once the databroker has the whole of some bundle (Z-40, Z-51).

    The entry that is looked for is written last, after all records of its bundle. Raises DatabrokerUnavailable.
    """
    async with aclosing(follow(backend, CACHE_ENTRY_TYPE)) as changes:
        async for change in changes:
            records = change.records if isinstance(change, Reset) else (change.record,)
            if any(not record.deleted and entry_from_record(record) is not None for record in records):
                filled.set(True)
                return
    raise DatabrokerUnavailable("the databroker was closed")

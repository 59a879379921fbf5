"""The agent's own spans: where the configuration wants them sent, and how they are opened and closed (routes 7.7)."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pomerium_agent.config import Compiled
from pomerium_agent.config.tracing import Tracing
from pomerium_agent.runtime.collector import Collector
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.metrics import Metrics
from pomerium_agent.runtime.spans import Spans
from pomerium_agent.runtime.version import full_version
from pomerium_agent.zero import tls_context, trusted_roots

SERVICE = "pomerium-agent"


@asynccontextmanager
async def open_spans(collector: Latest[Collector | None], metrics: Metrics) -> AsyncIterator[Spans]:
    """Take spans, and send them while the block runs; on the way out what is left has a moment to be sent."""
    roots = await asyncio.to_thread(trusted_roots)
    spans = Spans(collector, tls_context(roots), roots, metrics=metrics)
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(spans.run(), name="spans")
        yield spans
        sending.cancel()


async def follow_tracing(config: Latest[Compiled | None], collector: Latest[Collector | None]) -> None:
    """Keep `collector` at what the settings say; for ever."""
    async for compiled in config.follow():
        if compiled is None:
            continue
        wanted = collector_of(compiled.snapshot.settings.tracing)
        if wanted != collector.value:
            collector.set(wanted)


def collector_of(tracing: Tracing) -> Collector | None:
    """Where our spans go; None: nowhere."""
    target = tracing.target
    if target is None:
        return None
    told = {
        "service.name": SERVICE,
        "service.version": full_version(),
        "host.name": socket.gethostname(),
        **dict(tracing.resource),
    }
    return Collector(
        url=target.url,
        http=target.http,
        headers=tuple((name, str(value)) for name, value in target.headers),
        timeout=target.timeout.total_seconds(),
        delay=tracing.schedule_delay.total_seconds(),
        batch=tracing.batch_size,
        ratio=tracing.ratio,
        value_limit=tracing.value_limit,
        resource=tuple(sorted(told.items())),
        silent=tracing.log_level in ("error", "none"),
    )

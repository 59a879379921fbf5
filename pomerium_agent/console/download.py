"""Bundles as they go out: built once for each version, conditional, compressed when asked (zero link 11.4)."""

import asyncio
from datetime import UTC
from email.utils import format_datetime

import structlog
from aiohttp import hdrs, web

from pomerium_agent.console.bundle import CAPTURED_HEADERS, Bundle, build_bundle
from pomerium_agent.console.store import Cluster, Store

log = structlog.get_logger(__name__)


class BuiltBundles:
    """The bundle of each cluster, as it was last asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._bundles: dict[str, Bundle] = {}
        self._building: dict[str, asyncio.Lock] = {}

    async def get(self, cluster: Cluster) -> Bundle:
        """The bundle of the version in force, built once however many replicas ask."""
        async with self._building.setdefault(cluster.id, asyncio.Lock()):
            known = self._bundles.get(cluster.id)
            wanted = (cluster.version, cluster.accounts_version)
            if known is None or (known.version, known.accounts_version) != wanted:
                known = self._bundles[cluster.id] = await asyncio.to_thread(self._build, cluster.id)
            return known

    def _build(self, cluster_id: str) -> Bundle:
        # The number before what it numbers: who changes an account in between has the bundle built once more.
        cluster = self._store.cluster(cluster_id)
        accounts = self._store.accounts.of(cluster_id)
        config = self._store.config(cluster_id)
        bundle = build_bundle(
            config.config,
            self._store.certificate(cluster_id),
            version=config.version,
            modified_at=max(config.created_at, cluster.accounts_changed_at or config.created_at),
            accounts=accounts,
            accounts_version=cluster.accounts_version,
            login=self._store.logins.offer(),
        )
        log.info(
            "bundle built",
            cluster=cluster_id,
            version=bundle.version,
            service_accounts=len(accounts),
            etag=bundle.etag,
            bytes=len(bundle.gzipped),
        )
        return bundle


def bundle_response(request: web.Request, bundle: Bundle) -> web.Response:
    """The answer to a conditional GET."""
    headers = {
        hdrs.ETAG: bundle.etag,
        hdrs.LAST_MODIFIED: format_datetime(bundle.modified_at.astimezone(UTC), usegmt=True),
        hdrs.CACHE_CONTROL: "private, no-cache",
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
        CAPTURED_HEADERS[0]: str(bundle.version),
        CAPTURED_HEADERS[1]: bundle.digest,
    }
    if _has(bundle.etag, request.headers.get(hdrs.IF_NONE_MATCH, "")):
        return web.Response(status=304, headers=headers)
    if not _takes_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
        return web.Response(body=bundle.content, headers=headers, content_type="application/octet-stream")
    headers[hdrs.CONTENT_ENCODING] = "gzip"
    return web.Response(body=bundle.gzipped, headers=headers, content_type="application/octet-stream")


def _has(etag: str, if_none_match: str) -> bool:
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in (etag, "*") for tag in tags)


def _takes_gzip(accept_encoding: str) -> bool:
    for part in accept_encoding.lower().split(","):
        coding, _, parameters = part.partition(";")
        if coding.strip() in ("gzip", "x-gzip"):
            quality = parameters.replace(" ", "").removeprefix("q=")
            return not (parameters and quality.rstrip("0").rstrip(".") in ("", "0"))
    return False

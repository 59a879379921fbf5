"""The cluster API (zero link 4, 11): what a replica asks over HTTP, answered from the store."""

import asyncio
from base64 import b64encode
from datetime import datetime
from xml.sax.saxutils import escape

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from yarl import URL

from pomerium_agent.console.answers import ApiError, answer_errors, json_object
from pomerium_agent.console.bearers import Bearer, Unauthenticated
from pomerium_agent.console.bundle import BUNDLE_ID, CAPTURED_HEADERS
from pomerium_agent.console.download import BuiltBundles, bundle_response
from pomerium_agent.console.endpoints import PREFIX
from pomerium_agent.console.gate import Gate
from pomerium_agent.console.importing import ImportRefused, import_config, read_hints
from pomerium_agent.console.sightings import SeenUser
from pomerium_agent.console.store import Cluster

log = structlog.get_logger(__name__)

MAX_BODY = 8 * 1024 * 1024  # a usage report of a large cluster
STATUS_SOURCES = ("download_error", "io_error", "invalid_bundle", "databroker_error", "unknown_error")


class ClusterApi:
    """The handlers. A 400 ends a replica for good (Z-10), so it is said only of a refused token or a broken call."""

    def __init__(self, gate: Gate, *, public_url: str = "") -> None:
        self._gate = gate
        self._store = gate.store
        self._signer = gate.signer
        self._clock = gate.clock
        self._public_url = public_url
        self._bundles = BuiltBundles(gate.store)

    def application(self, *before: Middleware) -> web.Application:
        """The API below `/cluster/v1`, and the download of bundles, which needs no bearer.

        What comes `before` it is asked first, whatever the path.
        """
        application = web.Application(middlewares=[*before, answer_errors], client_max_size=MAX_BODY)
        application.add_routes(
            [
                web.post(f"{PREFIX}/exchangeToken", self.exchange_token),
                web.get(f"{PREFIX}/bootstrap", self.bootstrap, allow_head=False),
                web.get(f"{PREFIX}/bundles", self.list_bundles, allow_head=False),
                web.get(f"{PREFIX}/bundles/{{bundle}}/download", self.bundle_url, allow_head=False),
                web.post(f"{PREFIX}/bundles/{{bundle}}/status", self.bundle_status),
                web.post(f"{PREFIX}/reportUsage", self.report_usage),
                web.put(f"{PREFIX}/config/import", self.import_config),
                web.get("/download/{cluster}/{bundle}", self.download),
            ]
        )
        return application

    # --- who is there -----------------------------------------------------------------------------

    async def exchange_token(self, request: web.Request) -> web.Response:
        """The cluster token for a bearer. 400 when no cluster has this token: the replica must not try again."""
        body = await json_object(request)
        token = body.get("refreshToken")
        if not isinstance(token, str) or not token:
            raise ApiError(400, "refreshToken is missing")
        opened = await asyncio.to_thread(self._store.rotations.open, token, self._clock.now())
        if opened is None:
            raise ApiError(400, "this cluster token is not valid: it was rotated, or belongs to another console")
        return web.json_response(
            {
                "idToken": self._signer.bearer(opened.cluster_id, opened.generation, self._clock.now()),
                "expiresInSeconds": str(int(self._signer.bearer_life.total_seconds())),
            },
            headers={hdrs.CACHE_CONTROL: "no-store"},
        )

    async def _cluster(self, request: web.Request) -> Cluster:
        """The cluster whose replica calls, or 401."""
        return (await self._admit(request))[0]

    async def _admit(self, request: web.Request) -> tuple[Cluster, Bearer]:
        try:
            return await self._gate.admit(request.headers.get(hdrs.AUTHORIZATION, ""))
        except Unauthenticated as error:
            raise ApiError(401, str(error), {hdrs.WWW_AUTHENTICATE: "Bearer"}) from error

    async def bootstrap(self, request: web.Request) -> web.Response:
        """Who the cluster is, and where its records live."""
        cluster = await self._cluster(request)
        secrets = await asyncio.to_thread(self._store.secrets, cluster.id)
        body = {
            "clusterId": cluster.id,
            "organizationId": cluster.organization_id,
            "pseudonymizationKey": b64encode(secrets.pseudonymization_key).decode(),
            "sharedSecret": b64encode(secrets.shared_secret).decode(),
        }
        if secrets.storage is not None:
            body["databrokerStorageConnection"] = secrets.storage
        return web.json_response(body, headers={hdrs.CACHE_CONTROL: "no-store"})

    # --- bundles ----------------------------------------------------------------------------------

    async def list_bundles(self, request: web.Request) -> web.Response:
        """The one bundle there is."""
        await self._cluster(request)
        return web.json_response({"bundles": [{"id": BUNDLE_ID}]})

    async def bundle_url(self, request: web.Request) -> web.Response:
        """A URL that opens the bundle for a while, without any further credential (Z-14)."""
        cluster, bearer = await self._admit(request)
        bundle_id = _bundle_id(request)
        parameters = self._signer.link(cluster.id, bundle_id, bearer.generation, self._clock.now())
        origin = URL(self._public_url).origin() if self._public_url else request.url.origin()
        url = origin.joinpath("download", cluster.id, bundle_id).with_query(parameters)
        return web.json_response(
            {
                "url": str(url),
                "expiresInSeconds": str(int(self._signer.link_life.total_seconds())),
                "captureMetadataHeaders": list(CAPTURED_HEADERS),
            },
            headers={hdrs.CACHE_CONTROL: "no-store"},
        )

    async def download(self, request: web.Request) -> web.Response:
        """The bundle itself: conditional, compressed when asked (zero link 11.4).

        A URL that does not open anything is answered 401, which makes every replica ask for a new one; the
        body has the form that storage services use, so its reason reaches the log (Z-42).
        """
        cluster = await asyncio.to_thread(self._store.find, request.match_info["cluster"])
        bundle_id = _bundle_id(request)
        try:
            if cluster is None or cluster.id != request.match_info["cluster"]:
                raise Unauthenticated("the signature of this URL does not match")
            self._signer.check_link(
                cluster.id,
                bundle_id,
                cluster.generations(self._clock.now()),
                expires=request.query.get("expires", ""),
                signature=request.query.get("signature", ""),
                now=self._clock.now(),
            )
        except Unauthenticated as error:
            text = f"<Error><Code>AccessDenied</Code><Message>{escape(str(error))}</Message></Error>"
            return web.Response(status=401, text=text, content_type="application/xml")
        return bundle_response(request, await self._bundles.get(cluster))

    # --- reports ----------------------------------------------------------------------------------

    async def bundle_status(self, request: web.Request) -> web.Response:
        """What became of a bundle at a replica."""
        cluster = await self._cluster(request)
        bundle_id = _bundle_id(request)
        body = await json_object(request)
        match body:
            case {"success": {"metadata": dict(metadata)}}:
                status: dict[str, object] = {"success": {"metadata": {str(k): str(v) for k, v in metadata.items()}}}
            case {"success": dict()}:
                status = {"success": {"metadata": {}}}
            case {"failure": {"message": str(message), "source": str(source)}} if source in STATUS_SOURCES:
                status = {"failure": {"message": message, "source": source}}
            case _:
                raise ApiError(
                    400, "a bundle status is either success with metadata, or failure with message and source"
                )
        await asyncio.to_thread(
            self._store.sightings.save_bundle_status, cluster.id, bundle_id, status, self._clock.now()
        )
        return web.Response(status=204)

    async def report_usage(self, request: web.Request) -> web.Response:
        """Who signed in, by pseudonym."""
        cluster = await self._cluster(request)
        body = await json_object(request)
        users = body.get("users")
        if not isinstance(users, list):
            raise ApiError(400, "users is missing")
        await asyncio.to_thread(self._store.sightings.save_usage, cluster.id, [_user(user) for user in users])
        return web.Response(status=204)

    async def import_config(self, request: web.Request) -> web.Response:
        """A whole configuration, for a cluster that nobody runs yet (zero link 17)."""
        cluster = await self._cluster(request)
        hints = read_hints(request.headers.get("X-Import-Hints", ""))
        body = await request.read()
        try:
            done = await asyncio.to_thread(import_config, self._store, cluster, body, hints, self._clock.now())
        except ImportRefused as refused:
            raise ApiError(refused.status, refused.text) from refused
        log.info("configuration imported", cluster=cluster.id, version=done.version, bytes=len(body), **hints)
        return web.json_response(done.to_json())


def _bundle_id(request: web.Request) -> str:
    bundle_id: str = request.match_info["bundle"]
    if bundle_id != BUNDLE_ID:
        raise ApiError(404, f"there is no bundle {bundle_id!r}")
    return bundle_id


def _user(user: object) -> SeenUser:
    match user:
        case {"pseudonymousId": str(pseudonym), "pseudonymousEmail": str(email), "lastSignedInAt": str(time)}:
            try:
                datetime.fromisoformat(time[:19])  # the year 1 stands for never; nanoseconds are kept as they came
            except ValueError as error:
                raise ApiError(400, "lastSignedInAt is not an RFC 3339 time") from error
            return SeenUser(pseudonymous_id=pseudonym, pseudonymous_email=email, last_signed_in_at=time)
    raise ApiError(400, "each user has pseudonymousId, pseudonymousEmail and lastSignedInAt")

"""The stream on which the control plane nudges us: kept open, turned into flags, never waited for (zero link 6)."""

import asyncio
from dataclasses import dataclass, field

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc import aio

from pomerium_agent.errors import ControlPlaneUnavailable, Refused
from pomerium_agent.pb.pomerium import connect_pb2
from pomerium_agent.runtime.backoff import Backoff, patient
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.supervisor import supervise
from pomerium_agent.settings import Endpoint, Secret
from pomerium_agent.zero.identity import Identity
from pomerium_agent.zero.nudge import ConnectionState, Flag
from pomerium_agent.zero.token import CONNECT_MIN_TTL, TokenCache
from pomerium_agent.zero.transport import (
    KEEPALIVE,
    Keepalive,
    bearer_metadata,
    describe,
    is_unauthenticated,
    open_channel,
)

log = structlog.get_logger(__name__)

TELEMETRY_REQUESTS = 8
INSTANCE_HEADER = "x-pomerium-agent-instance"

SUBSCRIBE_METHOD = "/pomerium.zero.Connect/Subscribe"

Call = aio.UnaryStreamCall[connect_pb2.SubscribeRequest, bytes]
Subscribe = aio.UnaryStreamMultiCallable[connect_pb2.SubscribeRequest, bytes]


class TelemetryRequests:
    """A short queue. What does not fit is dropped, and told once the rest is answered: a flood is one line (Z-58)."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[connect_pb2.TelemetryRequest] = asyncio.Queue(TELEMETRY_REQUESTS)
        self._dropped = 0

    def put(self, request: connect_pb2.TelemetryRequest) -> None:
        """Never waits."""
        try:
            self._queue.put_nowait(request)
        except asyncio.QueueFull:
            self._dropped += 1

    async def get(self) -> connect_pb2.TelemetryRequest:
        """The oldest, when there is one."""
        if self._dropped and self._queue.empty():
            log.error("telemetry requests dropped", dropped=self._dropped, waiting=TELEMETRY_REQUESTS)
            self._dropped = 0
        return await self._queue.get()

    @property
    def waiting(self) -> int:
        """How many there are."""
        return self._queue.qsize()


@dataclass(frozen=True, slots=True)
class Events:
    """What the stream said and nobody has acted on yet. Flags collapse; telemetry requests are a short queue."""

    config_updated: Flag = field(default_factory=Flag)
    bootstrap_config_updated: Flag = field(default_factory=Flag)
    run_health_checks: Flag = field(default_factory=Flag)
    telemetry_requests: TelemetryRequests = field(default_factory=TelemetryRequests)

    def receive(self, message: connect_pb2.Message) -> None:
        """Sort one message; never waits (Z-19), and leaves aside kinds it does not know (Z-18)."""
        match message.WhichOneof("message"):
            case "config_updated":
                self.config_updated.put_up()
            case "bootstrap_config_updated":
                self.bootstrap_config_updated.put_up()
            case "run_health_checks_request":
                self.run_health_checks.put_up()
            case "telemetry_request":
                self.telemetry_requests.put(message.telemetry_request)
            case _:
                log.debug("unknown message ignored")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectTimes:
    """How many seconds each step may take.

    `open`: until the transport stands. `quiet`: an open call that was neither answered nor refused for so long
    counts as connected, since a server may keep its headers until it has something to say (W1). `grace`: an
    answer whose end comes so soon was a refusal. `settled`: a connection that held for so long, or brought a
    message, makes the next failure a first one.
    """

    open: float = 30.0
    quiet: float = 5.0
    grace: float = 0.1
    settled: float = 5.0
    keepalive: Keepalive = KEEPALIVE


class ConnectStream:
    """Keeps Subscribe open for as long as the agent lives (Z-15, Z-16).

    A stream counts as connected only after the server answered, and the backoff starts anew only after a
    connection that held (W1). A bearer that is refused is dropped (W2).
    """

    def __init__(
        self, endpoint: Endpoint, identity: Identity, roots: bytes, tokens: TokenCache, *,
        health: Health, clock: Clock, times: ConnectTimes = ConnectTimes(),
    ) -> None:  # fmt: skip
        self._endpoint = endpoint
        self._identity = identity
        self._roots = roots
        self._tokens = tokens
        self._health = health
        self._clock = clock
        self._times = times
        self.connection = Latest(ConnectionState())
        self.events = Events()

    async def run(self, backoff: Backoff | None = None) -> None:
        """Stay connected until cancelled."""
        backoff = backoff or patient()
        await supervise("connect", lambda: self._attempt(backoff), clock=self._clock, backoff=backoff)

    async def _attempt(self, backoff: Backoff) -> None:
        """One stream, from opening to its end; always ends by raising."""
        try:
            try:
                bearer = await self._tokens.bearer(CONNECT_MIN_TTL)
            except Refused as error:  # the bootstrap loop meets the same answer and decides (zero link 4.4)
                raise ControlPlaneUnavailable(f"refused: {error}") from error
            await self._subscribe(bearer, backoff)
        except ControlPlaneUnavailable as error:
            self._health.failed(Check.ZERO_CONNECT, str(error))
            raise
        finally:
            self._set_connected(False)

    async def _subscribe(self, bearer: Secret, backoff: Backoff) -> None:
        async with open_channel(
            self._endpoint, self._identity, self._roots, keepalive=self._times.keepalive
        ) as channel:
            request = connect_pb2.SubscribeRequest(hostname=self._identity.hostname, version=self._identity.version)
            metadata = (*bearer_metadata(bearer), (INSTANCE_HEADER, self._identity.instance))
            # Messages are decoded here: the library would write one that is damaged to its own log.
            subscribe: Subscribe = channel.unary_stream(
                SUBSCRIBE_METHOD, request_serializer=connect_pb2.SubscribeRequest.SerializeToString
            )
            call = subscribe(request, metadata=metadata)
            try:
                await self._answered(channel, call)
                self._set_connected(True)
                self._health.running(Check.ZERO_CONNECT)
                log.info("connected", endpoint=self._endpoint.authority)
                await self._read(call, backoff)
            except aio.AioRpcError as error:
                if is_unauthenticated(error):
                    self._tokens.reset(bearer)
                raise ControlPlaneUnavailable(f"{self._endpoint.authority}: {describe(error, bearer)}") from None
            finally:
                call.cancel()

    async def _answered(self, channel: aio.Channel, call: Call) -> None:
        """Return once the server has answered, or has kept a standing call open for a while; raise if it refused."""
        waited = 0.0
        while True:
            try:
                async with asyncio.timeout(self._times.quiet):
                    await call.initial_metadata()
                break
            except TimeoutError:
                waited += self._times.quiet
            if channel.get_state() is grpc.ChannelConnectivity.READY:
                return
            if waited >= self._times.open:
                raise ControlPlaneUnavailable(f"{self._endpoint.authority}: no connection after {waited:g} s")
        try:  # a refusal begins with headers of its own, and its status comes right after them
            async with asyncio.timeout(self._times.grace):
                await call.code()
        except TimeoutError:
            return
        await self._next(call)

    async def _read(self, call: Call, backoff: Backoff) -> None:
        """Sort what comes until the stream ends."""
        since = self._clock.monotonic()
        try:
            while True:
                self.events.receive(await self._next(call))
                backoff.reset()
        finally:
            if self._clock.monotonic() - since >= self._times.settled:
                backoff.reset()

    async def _next(self, call: Call) -> connect_pb2.Message:
        """The next message; a clean end is an end all the same (Z-16)."""
        received = await call.read()
        if not isinstance(received, bytes):
            raise ControlPlaneUnavailable(f"{self._endpoint.authority}: the stream ended")
        try:
            return connect_pb2.Message.FromString(received)
        except DecodeError as error:
            raise ControlPlaneUnavailable(f"{self._endpoint.authority}: a message cannot be decoded") from error

    def _set_connected(self, connected: bool) -> None:
        state = self.connection.value
        if state.connected != connected:
            self.connection.set(ConnectionState(connected, state.turn + 1))

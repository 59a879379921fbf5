"""Which services of a cluster are alive, and where: kept in memory, for as long as they go on reporting (databroker 9).

A service says where it is and is asked to say so again in half of the time that it is believed (D-41).
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from datetime import timedelta
from typing import NoReturn

from pomerium_agent.databroker.service.calls import CallRefused, Status
from pomerium_agent.errors import InvalidRequest
from pomerium_agent.pb.pomerium import registry_pb2 as pb
from pomerium_agent.runtime.clock import Clock

BELIEVED_FOR = timedelta(seconds=30)
CALL_BACK_AFTER = timedelta(seconds=15)
SWEEP_EVERY = 5.0  # seconds; a watcher hears that a service is gone at most that much later
MOST_SERVICES = 10_000
LONGEST_ENDPOINT = 2048  # characters

Place = tuple[int, str]  # kind and endpoint: their order is that of every answer


class Registry:
    """The registry of one process, and its three calls."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expires: dict[Place, float] = {}
        self._changed = asyncio.Event()

    async def report(self, request: pb.RegisterRequest) -> pb.RegisterResponse:
        places = {(int(service.kind), service.endpoint) for service in request.services}
        for kind, endpoint in places:
            if kind == pb.UNDEFINED_DO_NOT_USE or not endpoint or len(endpoint) > LONGEST_ENDPOINT:
                raise InvalidRequest(f"a service has a kind, and an endpoint of 1 to {LONGEST_ENDPOINT} characters")
        self._forget_expired()
        new = places - self._expires.keys()
        if len(self._expires) + len(new) > MOST_SERVICES:
            raise CallRefused(Status.RESOURCE_EXHAUSTED, f"{MOST_SERVICES} services are known, and no more are taken")
        until = self._clock.monotonic() + BELIEVED_FOR.total_seconds()
        self._expires.update(dict.fromkeys(places, until))
        if new:
            self._wake()
        response = pb.RegisterResponse()
        response.call_back_after.FromTimedelta(CALL_BACK_AFTER)
        return response

    async def list(self, request: pb.ListRequest) -> pb.ServiceList:
        self._forget_expired()
        return self._known(request.kinds)

    async def watch(self, request: pb.ListRequest) -> AsyncGenerator[pb.ServiceList, None]:
        """What is known now, even if it is nothing, and again all of it after each change (C26)."""
        told: pb.ServiceList | None = None
        while True:
            changed, known = self._changed, await self.list(request)
            if known != told:
                told = known
                yield known
            if changed is self._changed:
                await changed.wait()

    async def sweep(self) -> NoReturn:
        """Notice for the watchers that services stopped reporting."""
        while True:
            await self._clock.sleep(SWEEP_EVERY)
            self._forget_expired()

    def _known(self, kinds: Iterable[int]) -> pb.ServiceList:
        wanted = frozenset(kinds)
        places = sorted(place for place in self._expires if not wanted or place[0] in wanted)
        # The kind may be a number that this version has no name for; protobuf keeps it.
        return pb.ServiceList(services=[pb.Service(kind=kind, endpoint=at) for kind, at in places])  # type: ignore[arg-type]

    def _forget_expired(self) -> None:
        now = self._clock.monotonic()
        gone = [place for place, expires in self._expires.items() if expires < now]
        for place in gone:
            del self._expires[place]
        if gone:
            self._wake()

    def _wake(self) -> None:
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()

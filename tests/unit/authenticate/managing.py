"""The identity manager over a store in memory, with a provider on loopback; time is moved by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from pomerium_agent.authenticate.manager.manager import Manager
from pomerium_agent.authenticate.manager.work import Work
from pomerium_agent.authenticate.site import Site
from pomerium_agent.config.login import Flow, Login
from pomerium_agent.errors import RecordNotFound
from pomerium_agent.idp import ProviderSettings
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import Cursor, Record, unpack
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.entries import SESSION, USER
from pomerium_agent.sessions.login import begin_session
from tests.fakes.clock import settle
from tests.unit.idp.scene import Scene, scene
from tests.unit.sessions.stage import CuttableBackend

HOURS = timedelta(hours=1)
STEP = 5.0


class Managing:
    """`idp` does what a test says; `site` names it as the one provider."""

    def __init__(self, at: Scene) -> None:
        self.scene = at
        self.idp = at.idp
        self.clock = at.clock
        self.backend = CuttableBackend(at.clock)
        self.health = Health()
        self.site: Latest[Site] = Latest(stateful(at.settings) if hasattr(at, "settings") else Site())
        self.manager: Manager

    async def log_in(self, lifetime: timedelta = 14 * HOURS) -> str:
        """A session as a login leaves it, with an access token and an ID token of one hour; returns its id."""
        identity = await self.scene.log_in()
        handle = await begin_session(
            self.backend, identity, idp_id=self.scene.settings.id, now=self.clock.now(), lifetime=lifetime
        )
        self.idp.nonce = ""
        return handle.id

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Manager]:
        work = Work(backend=self.backend, site=self.site, providers=self.scene.providers, clock=self.clock)
        self.manager = Manager(backend=self.backend, site=self.site, clock=self.clock, health=self.health, work=work)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.manager.run())
            await settle(100)
            yield self.manager
            task.cancel()

    async def advance(self, seconds: float, *, step: float = STEP) -> None:
        """Let time pass in steps, each only when all that was due is done, be it at a real socket."""
        while seconds > 0:
            await self.clock.advance(min(step, seconds))
            seconds -= step
            await self.idle()

    async def idle(self) -> None:
        for _ in range(3):  # what is done may make something else due
            await until(lambda: not self.manager.busy)
            await settle(60)

    async def session(self, id: str) -> session_pb2.Session | None:
        try:
            return unpack((await self.backend.get(SESSION, id)).data, session_pb2.Session)
        except RecordNotFound:
            return None

    async def there(self, id: str) -> session_pb2.Session:
        session = await self.session(id)
        assert session is not None, "the session has ended"
        return session

    async def user(self, id: str = "ada") -> user_pb2.User:
        user = unpack((await self.backend.get(USER, id)).data, user_pb2.User)
        assert user is not None
        return user

    async def tombstones(self) -> list[Record]:
        start = Cursor((await self.backend.server_info()).server_version, 0)
        return [record async for record in self.backend.changes(start, SESSION, wait=False) if record.deleted]

    @property
    def error(self) -> str:
        return self.health.reports[Check.IDENTITY_MANAGER].error


def stateful(*providers: ProviderSettings, ends_with_id_token: bool = True) -> Site:
    login = Login(flow=Flow.STATEFUL, provider=providers[0], ends_with_id_token=ends_with_id_token)
    return Site(login=login, providers={provider.id: provider for provider in providers})


@asynccontextmanager
async def managing(type: str = "oidc", id: str = "idp") -> AsyncIterator[Managing]:
    async with scene(type, id=id).open() as at:
        yield Managing(at)


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait, in real time, for what happens at a real socket."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  # it is said by a counter, and not by an event
            await asyncio.sleep(0.002)

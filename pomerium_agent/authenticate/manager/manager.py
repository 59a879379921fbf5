"""One life of the identity manager: it follows sessions and users, and has each looked at when its time has come."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from random import Random

import structlog

from pomerium_agent.authenticate.manager.facts import Facts, read_facts
from pomerium_agent.authenticate.manager.lanes import Lanes
from pomerium_agent.authenticate.manager.schedule import Due, Schedule
from pomerium_agent.authenticate.manager.standing import Standing
from pomerium_agent.authenticate.manager.tracked import ByUser, Tracked
from pomerium_agent.authenticate.manager.work import KEPT, Done, Outcome, Work, provider_for
from pomerium_agent.authenticate.site import Site
from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.follow import Reset, Updated, follow
from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.supervisor import supervise
from pomerium_agent.sessions.entries import SESSION, USER

log = structlog.get_logger(__name__)

SESSIONS, USERS, WHO = "session", "user", "who"  # kinds of what is due; `WHO` asks userinfo with one session
USERINFO_INTERVAL = 600.0  # seconds, per user (authenticate 7.1)
USERINFO_SPREAD = 0.1  # part of the interval that it may come earlier
WIDTH = 8  # sessions of one provider that are worked on at a time
SLICE = 200  # records, or things that are due, before others get their turn
STORE_LANE = ""  # for what asks no provider


class Manager:
    """Opened when this replica has the lease, and thrown away when it has it no more."""

    def __init__(self, *, backend: Backend, site: Latest[Site], clock: Clock, health: Health, work: Work) -> None:
        self._backend = backend
        self._site = site
        self._clock = clock
        self._health = health
        self._work = work
        self._random = Random()  # noqa: S311  # spreads tries over time, and keeps no secret
        self._standing = Standing(health)
        self._sessions: dict[str, Tracked] = {}
        self._by_user = ByUser()
        self.schedule = Schedule()
        self._busy: set[Due] = set()
        self._cursors: dict[str, Cursor] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def busy(self) -> int:
        """How many things are being done, or wait for their turn."""
        return len(self._busy)

    async def run(self) -> None:
        """Work until cancelled."""
        self._standing.tell()
        async with asyncio.TaskGroup() as group:
            lanes: Lanes[Due] = Lanes(group, self._do, width=WIDTH)
            for type, take in ((SESSION, self._take_sessions), (USER, self._take_users)):
                follower = self._follower(type, take)
                name = f"identity manager {type}"
                group.create_task(supervise(name, follower, clock=self._clock, backoff=Backoff(cap=5.0)))
            group.create_task(self._follow_site())
            while True:
                for number, due in enumerate(self.schedule.take(self._now()), 1):
                    self._begin(due, lanes)
                    await _turn(number)
                await self.schedule.wait(self._clock)

    # --- what there is -------------------------------------------------------------------------

    def _follower(self, type: str, take: Callable[[Reset | Updated], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """A service that goes on where it was when it failed."""

        async def run() -> None:
            after = self._cursors.get(type)
            async with aclosing(follow(self._backend, type, health=self._health, after=after)) as changes:
                async for change in changes:
                    await take(change)
                    self._cursors[type] = change.cursor

        return run

    async def _take_sessions(self, change: Reset | Updated) -> None:
        if isinstance(change, Updated):
            self._take_session(change.record)
            return
        for id in self._sessions.keys() - {record.id for record in change.records}:
            self._forget(id)
        for tracked in self._sessions.values():
            tracked.version = 0  # another data set counts anew
        for number, record in enumerate(change.records, 1):
            self._take_session(record)
            await _turn(number)

    def _take_session(self, record: Record) -> None:
        tracked = self._sessions.get(record.id)
        if tracked is not None and record.version < tracked.version:
            return  # we know more by our own write
        facts = None if record.deleted else read_facts(record)
        if facts is None:
            self._forget(record.id)
            return
        if tracked is None:
            tracked = self._sessions[record.id] = Tracked(record.id, facts, record.version, last=self._now())
            self._of_user(tracked)
        self._learn(tracked, facts, record.version)
        self._arm(tracked)

    async def _take_users(self, change: Reset | Updated) -> None:
        """Whoever was written just now need not be asked about for a while (authenticate 7.1)."""
        if isinstance(change, Updated) and not change.record.deleted and change.record.id in self._by_user:
            self._arm_user(change.record.id)

    async def _follow_site(self) -> None:
        """When other providers are configured, every session is looked at anew: some can be refreshed now."""
        before: object = None
        async with aclosing(self._site.follow()) as sites:
            async for site in sites:
                now = (site.login.refreshes, site.login.ends_with_id_token, dict(site.providers))
                if now == before:
                    continue
                before = now
                for number, tracked in enumerate(tuple(self._sessions.values()), 1):
                    if self._sessions.get(tracked.id) is tracked:
                        self._start_over(tracked)
                        self._arm(tracked)
                    await _turn(number)

    def _learn(self, tracked: Tracked, facts: Facts, version: int) -> None:
        before, tracked.facts, tracked.version = tracked.facts, facts, version
        if facts.tokens_expire_at != before.tokens_expire_at:
            self._start_over(tracked)
        if facts.user_id != before.user_id:
            self._not_of_user(before.user_id, tracked.id)
            self._of_user(tracked)

    def _forget(self, id: str) -> None:
        tracked = self._sessions.pop(id, None)
        if tracked is not None:
            self._start_over(tracked)
            self._not_of_user(tracked.facts.user_id, id)
            self.schedule.set(Due(SESSIONS, id), None)

    def _start_over(self, tracked: Tracked) -> None:
        tracked.start_over()
        if tracked.waits_for is not None:
            self._standing.goes_on(tracked.waits_for, tracked.id)
            tracked.waits_for = None

    def _of_user(self, tracked: Tracked) -> None:
        if self._by_user.add(tracked.facts.user_id, tracked.id):
            self._arm_user(tracked.facts.user_id, first=True)

    def _not_of_user(self, user_id: str, id: str) -> None:
        if self._by_user.remove(user_id, id):
            self.schedule.set(Due(USERS, user_id), None)

    # --- when ----------------------------------------------------------------------------------

    def _arm(self, tracked: Tracked) -> None:
        """Plan the next look; one that is under way plans it when it is done."""
        due = Due(SESSIONS, tracked.id)
        if due not in self._busy:
            self.schedule.set(due, tracked.next_look(self._site.value))

    def _arm_user(self, user_id: str, *, first: bool = False) -> None:
        """Those that are seen first together, as all are when this replica takes over, are spread over the interval."""
        share = self._random.random() * (1.0 if first else USERINFO_SPREAD)
        self.schedule.set(Due(USERS, user_id), self._now() + USERINFO_INTERVAL * (1 - share))

    def _now(self) -> float:
        return self._clock.now().timestamp()

    # --- what is done --------------------------------------------------------------------------

    def _begin(self, due: Due, lanes: Lanes[Due]) -> None:
        things = [due]
        if due.kind == USERS:
            self._arm_user(due.id)
            things = [Due(WHO, id) for id in self._by_user.of(due.id)]
        for thing in things:
            tracked = self._sessions.get(thing.id)
            if tracked is None or thing in self._busy:
                continue
            facts = tracked.facts
            asks = provider_for(facts, self._site.value) is not None
            if thing.kind == WHO and not (asks and facts.access_token):
                continue
            over = facts.expires_at is not None and facts.expires_at <= self._now()
            self._busy.add(thing)
            lanes.put(facts.idp_id if asks and not over else STORE_LANE, thing)

    async def _do(self, thing: Due) -> None:
        tracked = self._sessions.get(thing.id)
        done = KEPT
        try:
            if tracked is not None and thing.kind == WHO:
                done = await self._work.ask_who(thing.id)
            elif tracked is not None:
                done = await self._work.refresh(thing.id, suspect=tracked.suspect)
        except DatabrokerUnavailable as error:
            log.debug("session not looked at", session=thing.id, reason=str(error))
            done = Done(outcome=Outcome.WAITS)
        self._busy.discard(thing)
        now_tracked = self._sessions.get(thing.id)
        if now_tracked is not None:
            if now_tracked is tracked:
                self._settle(thing, tracked, done)
            else:  # it ended, and began anew
                self._arm(now_tracked)

    def _settle(self, thing: Due, tracked: Tracked, done: Done) -> None:
        if done.outcome is Outcome.GONE:
            self._forget(thing.id)
            return
        if done.facts is not None and done.version >= tracked.version:
            self._learn(tracked, done.facts, done.version)
        if thing.kind == WHO:
            tracked.suspect = tracked.suspect or done.outcome is Outcome.SUSPECT
        else:
            tracked.last = self._now()
            if done.outcome is Outcome.WAITS:
                self._wait(tracked, done.reason)
            else:
                self._start_over(tracked)
        self._arm(tracked)

    def _wait(self, tracked: Tracked, reason: str) -> None:
        seconds = tracked.put_off(self._now(), self._random)
        log.debug("session not refreshed", session=tracked.id, reason=reason, retry_in=round(seconds, 1))
        if reason:
            if tracked.waits_for not in (None, tracked.facts.idp_id):
                self._standing.goes_on(str(tracked.waits_for), tracked.id)
            tracked.waits_for = tracked.facts.idp_id
            self._standing.waits(tracked.waits_for, tracked.id, reason)


async def _turn(number: int) -> None:
    """Let others run now and then."""
    if number % SLICE == 0:
        await asyncio.sleep(0)

"""One check from bytes to bytes: gather, find out who asks, decide, respond."""

from collections.abc import Awaitable, Hashable
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from functools import cache
from time import perf_counter_ns
from typing import NamedTuple

from pomerium_agent.authorize.admit import OWN_PAGES, admit
from pomerium_agent.authorize.again import REMEMBERED as CARRIED
from pomerium_agent.authorize.again import CarriedMemory, Way, is_usual
from pomerium_agent.authorize.client_trust import judge
from pomerium_agent.authorize.cookies import COOKIE, may_remove, removal
from pomerium_agent.authorize.decide import Case, Decision, decide
from pomerium_agent.authorize.denials import Denials
from pomerium_agent.authorize.gather import Glance, Question, gather
from pomerium_agent.authorize.login import SignInUrl, denial_of, signed_sign_in
from pomerium_agent.authorize.loop import LoopDetector
from pomerium_agent.authorize.memory import REMEMBERED, Look, Memory, Remembered, key_of, looks_of
from pomerium_agent.authorize.record import EVENT, line_of, write_record
from pomerium_agent.authorize.respond import respond
from pomerium_agent.authorize.rules import NO_RULES, RouteRules, Rules
from pomerium_agent.authorize.serverless import ServerlessTokens
from pomerium_agent.authorize.who import STRANGER, Finder, Who
from pomerium_agent.config.trust import ClientTrust
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.errors import BearerRejected, DatabrokerUnavailable
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from pomerium_agent.runtime.clock import Clock, SystemClock
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.log import direct_output
from pomerium_agent.runtime.tally import Tally
from pomerium_agent.runtime.waiting import first_of
from pomerium_agent.sessions.access import AccessTracker
from pomerium_agent.sessions.assertion import Assertions
from pomerium_agent.sessions.bearer import BearerFormat, Bearers
from pomerium_agent.sessions.handle import Handle
from pomerium_agent.sessions.live import Sessions
from pomerium_agent.sessions.sources import Presented


class _Generation:
    """One generation of the rules, and what was worked out by them."""

    def __init__(self, rules: Rules, sessions: Sessions, clock: Clock, remembered: int) -> None:
        self.rules = rules
        self.finder = Finder(rules, sessions, clock)
        self.memory = Memory(remembered)
        self.carried = CarriedMemory(min(remembered, CARRIED))
        self.looks: dict[str, tuple[Look, ...] | None] = {}
        self.ways: dict[str, Way] = {}  # by route id
        self._crossed: dict[tuple[str, int], RouteRules] = {}
        self._removal_of = ("", b"")

    def route_of(self, question: Question) -> RouteRules | None:
        """What counts for a question. About a version that Envoy still has, that one and the present one do."""
        route = self.rules.routes.get(question.route_id)
        if route is None or question.checksum == str(route.checksum) or not question.checksum.isdecimal():
            return route
        asked = route.id, int(question.checksum)
        former = self.rules.former.get(asked)
        if former is None:
            return route
        if asked not in self._crossed:
            # All but the say of the present one is of the former, whose upstream gets it: headers, tokens, names.
            same = route.client_trust == former.client_trust
            self._crossed[asked] = replace(
                former,
                also=(*former.also, route.policy, *route.also),
                client_trust=former.client_trust if same else ClientTrust(),
            )
        return self._crossed[asked]

    def looks_of(self, route: RouteRules) -> tuple[Look, ...] | None:
        if route.id not in self.looks:
            self.looks[route.id] = looks_of(route)
        return self.looks[route.id]

    def remember(self, asked: "_Asked", route: RouteRules, looks: tuple[Look, ...], handle: Handle) -> None:
        """Next time, the short way leads to the answer."""
        self.ways[route.id] = Way(route, looks, self.finder.idp_of(route), may_remove(route), asked.question.checksum)
        self.carried.keep(asked.question, asked.presented, handle, self._removal(asked.question))

    def let_pass(self, asked: "_Asked", answer: bytes) -> bytes:
        """The answer, which also takes the session cookie off where that is easily done."""
        if asked.route is None or asked.question.lines or not may_remove(asked.route):
            return answer
        return answer + self._removal(asked.question)

    def _removal(self, question: Question) -> bytes:
        """What takes the session cookie off; asked for twice where an answer is to be remembered."""
        line = question.headers.get(COOKIE, "")
        if line != self._removal_of[0]:
            self._removal_of = line, removal(line, self.rules.cookie_name)
        return self._removal_of[1]


class _Asked(NamedTuple):
    """A question, and where in the present configuration it belongs."""

    question: Question
    generation: _Generation
    route: RouteRules | None
    presented: Presented


class _Slot(NamedTuple):
    """A place in the memory, and the handle that an answer must have come from to belong there."""

    key: Hashable
    handle: Handle | None


class Checker:
    """Answers checks. Everything it does not understand fails, and Envoy answers failures with 503 (A-2).

    `access` notes which sessions were used, `denials` keeps what was denied, `bearers` reads the tokens of others:
    without it, routes that expect those let nobody in who brings one. `serverless` has Google's tokens. For
    `wait_for_rules` seconds a question waits for the first rules: an agent that has just begun knows none yet, and its
    Envoy may serve all the while.
    """

    def __init__(
        self,
        rules: Latest[Rules],
        sessions: Sessions,
        clock: Clock,
        *,
        bearers: Bearers | None = None,
        serverless: ServerlessTokens | None = None,
        access: AccessTracker | None = None,
        denials: Denials | None = None,
        sign_in_url: SignInUrl = signed_sign_in,
        remembered: int = REMEMBERED,
        wait_for_rules: float = 0.0,
        tally: Tally | None = None,
    ) -> None:
        self._rules = rules
        self._sessions = sessions
        self._clock = clock
        self._bearers = bearers
        self._serverless = serverless
        self._access = access
        self.denials = Denials() if denials is None else denials
        self._sign_in_url = sign_in_url
        self._loops = LoopDetector()
        self._remembered = remembered
        self._wait_for_rules = wait_for_rules
        self._tally = Tally() if tally is None else tally
        self._assertions: Assertions | None = None
        self._generation = _Generation(rules.value, sessions, clock, remembered)

    def check(self, message: bytes) -> bytes | Awaitable[bytes]:
        """Answer a serialized CheckRequest with a serialized CheckResponse: at once, unless records must be fetched.

        Raises, or its awaitable does, when there is no answer: DecodeError, DatabrokerUnavailable (A-8),
        ProviderUnavailable. The server fails that call then.
        """
        began = perf_counter_ns()
        try:
            answer = self._answer(message)
        except Exception:  # counted here, and dealt with at the edge, which is the server
            self._tally.failed += 1
            raise
        if isinstance(answer, bytes):
            self._tally.took(perf_counter_ns() - began)
            return answer
        return self._timed(answer, began)

    async def _timed(self, answer: Awaitable[bytes], began: int) -> bytes:
        try:
            found = await answer
        except Exception:  # likewise
            self._tally.failed += 1
            raise
        self._tally.took(perf_counter_ns() - began)
        return found

    def _answer(self, message: bytes) -> bytes | Awaitable[bytes]:
        request = CheckRequest.FromString(message)
        generation = self._current()
        answer = self._again(request, generation)
        if answer is not None:
            return answer
        question = gather(request)
        if question.internal:
            return self._internal(question, generation)
        if generation.rules is NO_RULES and self._wait_for_rules:
            return self._once_ruled(message)
        route = generation.route_of(question)
        if route is not None and route.serverless_audience and self._awaits(route.serverless_audience):
            return self._after_token(question, generation, route)
        return self._on_route(question, generation, route)

    async def _once_ruled(self, message: bytes) -> bytes:
        await first_of(self._ruled(), self._clock.sleep(self._wait_for_rules))
        if self._rules.value is NO_RULES:
            raise DatabrokerUnavailable("there is no configuration to decide by yet")
        answer = self._answer(message)
        return answer if isinstance(answer, bytes) else await answer

    async def _ruled(self) -> None:
        async with aclosing(self._rules.follow()) as generations:
            async for rules in generations:
                if rules is not NO_RULES:
                    return

    def _awaits(self, audience: str) -> bool:
        return self._serverless is not None and self._serverless.awaited(audience)

    async def _after_token(self, question: Question, generation: _Generation, route: RouteRules) -> bytes:
        """Only the first requests after a start or a change get here."""
        if self._serverless is not None:
            await self._serverless.wait(route.serverless_audience)
        answer = self._on_route(question, generation, route)
        return answer if isinstance(answer, bytes) else await answer

    def _on_route(
        self, question: Question, generation: _Generation, route: RouteRules | None
    ) -> bytes | Awaitable[bytes]:
        asked = _Asked(question, generation, route, generation.finder.presented(question))
        if route is None:
            return self._fresh(asked, Who(asked.presented))
        if route.bearer is not None and asked.presented.bearer:
            return self._by_bearer(asked)
        idp_id = generation.finder.idp_id(question, route)
        slot = self._slot(asked, idp_id)
        if slot is not None:
            now = self._clock.now()
            found = generation.memory.find(slot.key, now.timestamp())
            if found is not None:
                return self._repeat(asked, found, now)
        return self._by_handle(asked, idp_id, slot)

    def _again(self, request: CheckRequest, generation: _Generation) -> bytes | None:
        """What is remembered, by the short way. What it depends on is looked at as on the long one."""
        glance = Glance(request)
        way = generation.ways.get(glance.route_id)
        if way is None or glance.checksum != way.checksum or not is_usual(glance):
            return None
        carried = generation.carried.find(glance)
        if carried is None or not generation.finder.counts(carried.handle, way.idp_id):
            return None
        key = way.key(glance, carried, self._sessions.version_of(carried.handle.id))
        if key is None:
            return None
        now = self._clock.now()
        found = generation.memory.find(key, now.timestamp())
        if found is None:
            return None
        output = direct_output()
        if output is None or found.line is None:
            return self._repeat(_Asked(gather(request), generation, way.route, carried.presented), found, now)
        self._note(found.who, now)
        found.counted.count += 1
        self._tally.remembered += 1
        if not output.silent:
            output.info_line(EVENT, found.line.fields(glance))
        return found.answer + carried.removal if way.removes_cookie else found.answer

    def _current(self) -> _Generation:
        rules = self._rules.value
        if self._generation.rules is not rules:
            self._generation = _Generation(rules, self._sessions, self._clock, self._remembered)
        return self._generation

    def _internal(self, question: Question, generation: _Generation) -> bytes | Awaitable[bytes]:
        """Our own pages: most of them ask nobody, and work while the store does not."""
        path = question.path
        if path and path not in OWN_PAGES:
            return self._fresh(_Asked(question, generation, None, STRANGER.presented), STRANGER)
        asked = _Asked(question, generation, None, generation.finder.presented(question))
        return self._by_handle(asked, generation.finder.idp_id(question, None), None)

    def _by_handle(self, asked: _Asked, idp_id: str, slot: _Slot | None) -> bytes | Awaitable[bytes]:
        found = asked.generation.finder.find(asked.presented, idp_id)
        if isinstance(found, Handle):
            return self._by_handle_later(asked, idp_id)
        return self._fresh(asked, found, slot)

    async def _by_handle_later(self, asked: _Asked, idp_id: str) -> bytes:
        return self._fresh(asked, await asked.generation.finder.wait(asked.presented, idp_id))

    def _by_bearer(self, asked: _Asked) -> bytes | Awaitable[bytes]:
        """A bearer that is read here counts alone: whatever is wrong with it, no cookie helps (A-9, A-10)."""
        rule = asked.route.bearer if asked.route is not None else None
        if rule is not None and rule.format is BearerFormat.JWT and asked.presented.cookie:
            return self._fresh(asked, Who(asked.presented, refused=400))
        if rule is None or self._bearers is None:
            return self._fresh(asked, Who(asked.presented, refused=403))
        return self._by_bearer_later(asked)

    async def _by_bearer_later(self, asked: _Asked) -> bytes:
        if asked.route is None or asked.route.bearer is None or self._bearers is None:
            return self._fresh(asked, Who(asked.presented, refused=403))
        rule = asked.route.bearer
        if rule.format is not BearerFormat.JWT and not rule.idp_id:  # then the route's own provider issued it
            rule = replace(rule, idp_id=asked.generation.finder.idp_id(asked.question, asked.route))
        try:
            resolved = await self._bearers.find(asked.presented.bearer, rule)
        except BearerRejected:
            return self._fresh(asked, Who(asked.presented, refused=403))
        return self._fresh(asked, Who(asked.presented, resolved))

    def _slot(self, asked: _Asked, idp_id: str) -> _Slot | None:
        """Where the answer may be remembered; only what the first handle, or no handle at all, leads to is."""
        if asked.route is None or asked.presented.in_query:
            return None
        if asked.route is not asked.generation.rules.routes.get(asked.route.id):  # of a version that is about to go
            return None
        looks = asked.generation.looks_of(asked.route)
        if looks is None:
            return None
        handle = asked.generation.finder.first(asked.presented, idp_id)
        if handle is None and asked.presented.candidates:
            return None
        version = self._sessions.version_of(handle.id) if handle is not None else 0
        if handle is not None:
            asked.generation.remember(asked, asked.route, looks, handle)
        key = key_of(asked.route, looks, asked.question, handle, version)
        return _Slot(key, handle) if key is not None else None

    def _repeat(self, asked: _Asked, found: Remembered, now: datetime) -> bytes:
        case = Case(question=asked.question, route=asked.route, who=found.who, now=now)
        self._note(found.who, now)
        found.counted.count += 1
        self._tally.remembered += 1
        fields = asked.generation.rules.log_fields
        write_record(case, found.decision, fields, found.removed_groups)
        if found.line is None:
            found.line = line_of(case, found.decision, fields, found.removed_groups)
        return asked.generation.let_pass(asked, found.answer)

    def _fresh(self, asked: _Asked, who: Who, slot: _Slot | None = None) -> bytes:
        """Decide, and tell everybody who has to know."""
        rules, now = asked.generation.rules, self._clock.now()
        judged = judge(asked.route.client_trust if asked.route is not None else None, asked.question.chain, now)
        case = Case(question=asked.question, route=asked.route, who=who, certificate_valid=judged.valid, now=now)
        decision = decide(case)
        self._note(who, case.now)
        counted = self._tally.cell(decision.kind.value, decision.reasons)
        counted.count += 1
        if not decision.allowed:
            return self._deny(case, decision, rules)
        admission = admit(case, rules, self._assertions_of(rules), self._serverless_token(case.route))
        write_record(case, decision, rules.log_fields, admission.removed_groups)
        if slot is not None and who.handle == slot.handle:
            until = min(admission.until, judged.until)
            asked.generation.memory.keep(
                slot.key, Remembered(admission.answer, until, who, decision, admission.removed_groups, counted=counted)
            )
        return asked.generation.let_pass(asked, admission.answer)

    def _deny(self, case: Case, decision: Decision, rules: Rules) -> bytes:
        denial = denial_of(case, decision, rules, self._sign_in_url, self._loops)
        write_record(case, decision, rules.log_fields)
        self.denials.add(case, decision)
        return respond(case, decision, denial, rules)

    def _note(self, who: Who, now: datetime) -> None:
        if self._access is not None and who.tracked and who.resolved is not None:
            self._access.note(who.resolved.session_id, service_account=who.resolved.service_account, at=now)

    def _serverless_token(self, route: RouteRules | None) -> str:
        if route is None or not route.serverless_audience or self._serverless is None:
            return ""
        return self._serverless.token(route.serverless_audience)

    def _assertions_of(self, rules: Rules) -> Assertions | None:
        """Kept from one generation to the next, as long as the key stays."""
        if rules.signer is None:
            self._assertions = None
        elif self._assertions is None or self._assertions.signer.kid != rules.signer.kid:
            self._assertions = Assertions(rules.signer)
        return self._assertions


def check(message: bytes) -> bytes:
    """Answer as long as there are no rules: our own pages that are for everybody pass, and nothing else."""
    answer = _closed().check(message)
    if not isinstance(answer, bytes):
        raise TypeError("without rules there is nothing to wait for")
    return answer


@cache
def _closed() -> Checker:
    clock = SystemClock()
    return Checker(Latest(NO_RULES), Sessions(MemoryBackend(clock)), clock)

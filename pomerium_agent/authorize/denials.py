"""What was denied lately: enough of each to decide it again and see why, and no tokens."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime

from pomerium_agent.authorize.decide import Case, Decision
from pomerium_agent.authorize.record import redacted_headers, redacted_query
from pomerium_agent.policy import Kind
from pomerium_agent.policy.facts import Facts

KEPT = 1000
MAX_HEADER_VALUE = 256  # characters of one that are kept
MAX_HEADERS = 64
MAX_PATH = 4096
MAX_CHAIN = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """One request that did not pass. `facts` are what its policy saw, shortened, and without credentials."""

    request_id: str
    at: datetime
    route_id: str
    route_checksum: int
    kind: Kind
    status: int
    reasons: tuple[str, ...]
    session_id: str
    facts: Facts
    chain: str = ""  # of the client's certificates, as Envoy tells of it; left out when it is long


class Denials:
    """A bounded memory, by request id; the oldest go first. It lives as long as the process.

    Those who only had to sign in have a share of their own, so that many strangers do not push out one refusal.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._limit = kept
        self._kept: OrderedDict[str, Denied] = OrderedDict()
        self._logins: OrderedDict[str, Denied] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept) + len(self._logins)

    def add(self, case: Case, decision: Decision) -> None:
        """Keep what is needed to look into this one later. Without a request id, nobody could ask."""
        question = case.question
        if not question.request_id or len(question.request_id) > MAX_HEADER_VALUE:
            return
        kept = self._logins if decision.kind is Kind.LOGIN else self._kept
        kept[question.request_id] = Denied(
            request_id=question.request_id,
            at=case.now,
            route_id=question.route_id,
            route_checksum=case.route.checksum if case.route is not None else 0,
            kind=decision.kind,
            status=decision.status,
            reasons=decision.reasons,
            session_id=case.who.resolved.session_id if case.who.resolved is not None else "",
            facts=_kept_facts(case),
            chain=question.chain if len(question.chain) <= MAX_CHAIN else "",
        )
        kept.move_to_end(question.request_id)
        if len(kept) > self._limit:
            kept.popitem(last=False)

    def find(self, request_id: str) -> Denied | None:
        """The denial of that request, if it is not too long ago."""
        return self._kept.get(request_id) or self._logins.get(request_id)

    def latest(self, count: int) -> tuple[Denied, ...]:
        """The last ones, newest first."""
        kept = (*reversed(self._logins.values()), *reversed(self._kept.values()))
        return tuple(sorted(kept, key=lambda denied: denied.at, reverse=True)[:count])


def _kept_facts(case: Case) -> Facts:
    facts = case.facts()
    request = facts.request
    headers = dict(list(redacted_headers(request.headers).items())[:MAX_HEADERS])
    return replace(
        facts,
        request=replace(
            request,
            path=request.path[:MAX_PATH],
            raw_path=request.raw_path[:MAX_PATH],
            query=redacted_query(request.query, request.raw_path)[:MAX_PATH],
            headers={name: value[:MAX_HEADER_VALUE] for name, value in headers.items()},
        ),
    )

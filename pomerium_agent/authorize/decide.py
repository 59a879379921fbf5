"""Yes or no: the ordered rules of authorization, pure and total. Silence means no."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from pomerium_agent.authorize.certificate import leaf_of
from pomerium_agent.authorize.gather import Question
from pomerium_agent.authorize.rules import RouteRules
from pomerium_agent.authorize.who import STRANGER, Who
from pomerium_agent.config.kubernetes import TOKEN_MISSING, names_somebody
from pomerium_agent.policy import Kind, Result, RoutePolicy, Verdict, judge_all
from pomerium_agent.policy.facts import STRANGER as NOBODY
from pomerium_agent.policy.facts import Facts as PolicyFacts
from pomerium_agent.policy.facts import Request
from pomerium_agent.policy.results import NOTHING, ROUTE_NOT_FOUND, UNAUTHENTICATED

# Internal paths that need a session (authenticate.md 2.2); every other internal path is open to all.
NEEDS_SESSION = frozenset(
    {
        "/.pomerium/jwt",
        "/.pomerium/user",
        "/.pomerium/webauthn",
        "/.pomerium/routes",
        "/.pomerium/api/v1/routes",
        "/.pomerium/mcp/authorize",
        "/.pomerium/mcp/connect",
        "/.pomerium/mcp/routes",
    }
)
POMERIUM_ROUTE = "pomerium-route"
BAD_CREDENTIALS = "invalid-credentials"
NO_IMPERSONATION = "kubernetes-user-missing"

CERTIFICATE_TEXT = "a valid client certificate is required to access this page"
DEVICE_TEXT = (
    "your device fails to meet the requirements necessary to access this page, "
    "please contact your administrator for assistance"
)
NO_VERDICT = Verdict(NOTHING, NOTHING)
MESSAGES = {400: "Bad Request", 403: "Forbidden", 404: "Not Found", 450: DEVICE_TEXT, 495: CERTIFICATE_TEXT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything that one decision depends on."""

    question: Question
    route: RouteRules | None = None  # None: an internal path, or a route that nobody knows
    who: Who = STRANGER
    certificate_valid: bool = False
    now: datetime

    def facts(self) -> PolicyFacts:
        """What policies may look at."""
        question, resolved = self.question, self.who.resolved
        return PolicyFacts(
            Request(
                method=question.method,
                scheme=question.scheme,
                host=question.host,
                path=question.path,
                raw_path=question.raw_path,
                query=question.query,
                headers=question.headers,
                ip=question.ip,
                certificate=leaf_of(question.chain),
                certificate_valid=self.certificate_valid,
            ),
            resolved.identity if resolved is not None else NOBODY,
            now=self.now,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do with one request, and why. `message` is the text that a denied visitor may see."""

    kind: Kind
    reasons: tuple[str, ...] = ()
    status: int = 200
    message: str = ""
    verdict: Verdict = NO_VERDICT

    @property
    def allowed(self) -> bool:
        return self.kind is Kind.ALLOWED


Rule = Callable[[Case], Decision | None]


def _denied(status: int, reason: str) -> Decision:
    verdict = Verdict(NOTHING, Result(True, frozenset({reason})))
    return Decision(kind=Kind.DENIED, reasons=(reason,), status=status, message=MESSAGES[status], verdict=verdict)


ALLOWED_INTERNAL = Decision(
    kind=Kind.ALLOWED,
    reasons=(POMERIUM_ROUTE,),
    verdict=Verdict(Result(True, frozenset({POMERIUM_ROUTE})), NOTHING),
)
LOGIN = Decision(
    kind=Kind.LOGIN,
    reasons=(UNAUTHENTICATED,),
    status=302,
    message="Login",
    verdict=Verdict(Result(False, frozenset({UNAUTHENTICATED})), NOTHING),
)
NOT_FOUND = _denied(404, ROUTE_NOT_FOUND)
DENIED = _denied(403, "no-rule-answered")
UNREADABLE = _denied(400, "path-unreadable")
REFUSED = {400: _denied(400, BAD_CREDENTIALS), 403: _denied(403, BAD_CREDENTIALS)}


def bad_credentials(case: Case) -> Decision | None:
    """Credentials that cannot be taken for anything are answered before policy (authorize 3, A-9, A-10)."""
    return REFUSED[case.who.refused] if case.who.refused else None


def internal_route(case: Case) -> Decision | None:
    """The agent's own pages pass without policy (A-28), except those that need to know who asks."""
    if not case.question.internal:
        return None
    path = case.question.path
    if (not path or path in NEEDS_SESSION) and case.who.resolved is None:
        return LOGIN
    return ALLOWED_INTERNAL


def no_such_route(case: Case) -> Decision | None:
    """What our configuration does not know is not there (A-1)."""
    return NOT_FOUND if case.route is None else None


def reads_path(policies: Iterable[RoutePolicy]) -> bool:
    """Whether any of them looks at the path."""
    return any("path" in policy.reads for policy in policies)


def unreadable_path(case: Case) -> Decision | None:
    """A deny for `/admin` says nothing of `/admin/%zz`, which an upstream may well take for a page of it."""
    question, route = case.question, case.route
    if route is None or not question.raw_path or question.path:
        return None
    return UNREADABLE if reads_path(route.policies) else None


def policy_says(case: Case) -> Decision | None:
    """The order of authorize 7, exactly (A-12)."""
    if case.route is None:
        return None
    verdict, found = judge_all(case.route.policies, case.facts())
    if found.kind is Kind.ALLOWED and case.route.kubernetes:
        if not case.route.kubernetes_token:
            return _denied(403, TOKEN_MISSING)
        if not names_somebody(case.who.resolved.email if case.who.resolved is not None else ""):
            return _denied(403, NO_IMPERSONATION)
    message = "Login" if found.kind is Kind.LOGIN else MESSAGES.get(found.status, "")
    return Decision(kind=found.kind, reasons=found.reasons, status=found.status, message=message, verdict=verdict)


RULES: tuple[Rule, ...] = (bad_credentials, internal_route, no_such_route, unreadable_path, policy_says)


def decide(case: Case) -> Decision:
    """The first rule with an answer wins; when none has one, the answer is no."""
    answers = (rule(case) for rule in RULES)
    return next((answer for answer in answers if answer is not None), DENIED)

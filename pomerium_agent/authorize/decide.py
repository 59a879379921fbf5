"""Yes or no: the ordered rules of authorization, pure and total. Silence means no."""

from collections.abc import Callable
from dataclasses import dataclass

from pomerium_agent.authorize.gather import Facts

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do with one request, and why. `message` is the text that a denied visitor may see."""

    allowed: bool
    reason: str
    status: int = 200
    message: str = ""


Rule = Callable[[Facts], Decision | None]

ALLOWED_INTERNAL = Decision(allowed=True, reason="pomerium-route")
NO_SESSION = Decision(allowed=False, reason="user-unauthenticated", status=403, message="Forbidden")
DENIED = Decision(allowed=False, reason="no-rule-answered", status=403, message="Forbidden")


def internal_route(facts: Facts) -> Decision | None:
    """The agent's own pages pass without policy (routes.md 8.4), except those that need to know who asks."""
    if not facts.internal:
        return None
    if not facts.path or facts.path in NEEDS_SESSION:
        return NO_SESSION
    return ALLOWED_INTERNAL


RULES: tuple[Rule, ...] = (internal_route,)


def decide(facts: Facts) -> Decision:
    """The first rule with an answer wins; when none has one, the answer is no."""
    answers = (rule(facts) for rule in RULES)
    return next((answer for answer in answers if answer is not None), DENIED)

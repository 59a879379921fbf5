"""The smallest change of identity that would let a request in, found among the words of the policies themselves."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from pomerium_agent.policy.compile import Policy
from pomerium_agent.policy.facts import Facts, Identity
from pomerium_agent.policy.matchers import same
from pomerium_agent.policy.results import Kind, outcome
from pomerium_agent.policy.route import RoutePolicy, evaluate

MOST = 2_000  # candidates that are tried one by one
MOST_IN_PAIRS = 60  # and two by two, which takes half as many pairs as their square
SOMEBODY = "somebody"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that would be otherwise: `kind` is sign-in, or one of `EASE`."""

    kind: str
    name: str = ""  # of a claim
    value: object = None

    def to_json(self) -> dict[str, object]:
        return {"kind": self.kind, "name": self.name, "value": self.value, "text": str(self)}

    def __str__(self) -> str:
        return {
            "sign-in": "sign in",
            "join": f"be in the group {self.value}",
            "leave": f"not be in the group {self.value}",
            "claim": f"have the claim {self.name} with {self.value}",
            "only-claim": f"have the claim {self.name} with nothing but {self.value}",
            "no-claim": f"not have the claim {self.name} with {self.value}",
            "domain": f"have an e-mail address in {self.value}",
            "email": f"have the e-mail address {self.value}",
            "user": f"be the user {self.value}",
        }[self.kind]

    def applied(self, to: Identity) -> Identity:
        """The identity with this change."""
        groups = to.groups or ()
        values = to.claims.get(self.name, ())
        match self.kind:
            case "join":
                return replace(to, groups=(*groups, str(self.value)))
            case "leave":
                return replace(to, groups=tuple(group for group in groups if group != self.value))
            case "claim":
                return replace(to, claims={**to.claims, self.name: (*values, self.value)})
            case "only-claim":
                return replace(to, claims={**to.claims, self.name: (self.value,)})
            case "no-claim":
                left = tuple(value for value in values if not same(value, self.value))
                return replace(to, claims={**to.claims, self.name: left})
            case "domain":
                return replace(to, email=f"{to.email.partition('@')[0] or SOMEBODY}@{self.value}")
            case "email":
                return replace(to, email=str(self.value))
            case "user":
                return replace(to, user_id=str(self.value))
            case _:  # sign-in
                return replace(to, present=True, session_id=SOMEBODY, user_id=SOMEBODY)


# Of equally small changes the one that is easiest to grant comes first.
EASE = ("join", "leave", "claim", "only-claim", "no-claim", "domain", "email", "user")


def smallest_change(route: RoutePolicy, facts: Facts) -> tuple[Change, ...] | None:
    """At most two changes; a stranger's signing in comes before them and is not counted. None when none helps."""
    first: tuple[Change, ...] = () if facts.identity.present else (Change("sign-in"),)
    base = facts.identity if facts.identity.present else first[0].applied(facts.identity)

    def helps(changes: Iterable[Change]) -> bool:
        identity = base
        for change in changes:
            identity = change.applied(identity)
        verdict = evaluate(route, replace(facts, identity=identity))
        return outcome(verdict).kind is Kind.ALLOWED

    if first and helps(()):
        return first
    candidates = sorted(dict.fromkeys(_candidates(route)), key=lambda each: EASE.index(each.kind))
    for change in candidates[:MOST]:
        if helps((change,)):
            return (*first, change)
    for pair in combinations(candidates[:MOST_IN_PAIRS], 2):
        if helps(pair):
            return (*first, *pair)
    return None


def _candidates(route: RoutePolicy) -> Iterator[Change]:
    for script in route.scripts:
        if not isinstance(script.policy, Policy):
            continue
        for rule in script.policy.rules:
            for block in rule.blocks:
                for criterion in block.criteria:
                    yield from changes_of(criterion.key, criterion.data)


def changes_of(key: str, data: object) -> Iterator[Change]:
    """Every change of identity that the words of one criterion suggest."""
    name, _, claim = key.partition("/")
    for operator, value in _literals(data, "has" if name in ("groups", "claim") else "is"):
        if name == "groups" and isinstance(value, str):
            yield Change("join", value=value)
            yield Change("leave", value=value)
        elif name == "claim" and claim and isinstance(value, (str, int, float)):
            yield Change("only-claim" if operator == "is" else "claim", claim, value)
            yield Change("no-claim", claim, value)
        elif name in ("user", "email", "domain") and isinstance(value, str):
            yield from _of_text(name, operator, value)


def _of_text(name: str, operator: str, value: str) -> Iterator[Change]:
    if operator in ("is", "in"):
        yield Change(name, value=value)
    elif operator == "ends_with" and name == "email":
        domain = value.rpartition("@")[2]
        if value.rpartition("@")[1] and not value.startswith("@"):
            yield Change("email", value=value)
        elif domain:
            yield Change("domain", value=domain.removeprefix("."))
    elif operator in ("starts_with", "ends_with", "contains"):
        yield Change(name, value=value)


def _literals(data: object, default: str) -> Iterator[tuple[str, object]]:
    if not isinstance(data, dict):
        yield default, data
        return
    for operator, value in data.items():
        for each in value if isinstance(value, list) else [value]:
            yield operator, each

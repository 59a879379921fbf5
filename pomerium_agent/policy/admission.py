"""Whether somebody gets in by who they are alone; and the people that policies speak of. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from itertools import islice, product

from pomerium_agent.policy.change import SOMEBODY, Change, changes_of
from pomerium_agent.policy.compile import Policy, PreparedBlock, Sure, any_sure
from pomerium_agent.policy.compiling import Criterion, Needs
from pomerium_agent.policy.facts import STRANGER, Facts, Identity, Request
from pomerium_agent.policy.route import RoutePolicy

MOST = 4_000  # people whom one policy is asked about
FEWEST = 100
MOST_CHECKS = 2_000_000  # criteria that are looked at for that, which takes a second or two
MOST_OF_A_BLOCK = 200  # ways to be let in by one list of criteria that all have to hold
SIGNED_IN = Identity(present=True, session_id=SOMEBODY, user_id=SOMEBODY, groups=())
# For the kinds of change that make somebody; the others take something away.
_MAKES = ("join", "claim", "only-claim", "domain", "email", "user")
_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)


class Admission(IntEnum):
    """More is more. `SOMETIMES` depends on the request: its path, its time, where it comes from."""

    NEVER = 0
    SOMETIMES = 1
    ALWAYS = 2


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody a policy speaks of: a stranger, or whoever is signed in and has all of these."""

    stranger: bool = False
    traits: tuple[Change, ...] = ()

    @property
    def identity(self) -> Identity:
        if self.stranger:
            return STRANGER
        identity = SIGNED_IN
        for trait in self.traits:
            identity = trait.applied(identity)
        return identity

    def __str__(self) -> str:
        if self.stranger:
            return "anybody, without signing in"
        if not self.traits:
            return "everybody who signs in"
        return " and ".join(_WORDS[trait.kind].format(name=trait.name, value=trait.value) for trait in self.traits)


ANYBODY, EVERYBODY = Person(stranger=True), Person()
_WORDS = {
    "join": "members of the group {value}",
    "claim": "holders of the claim {name} with {value}",
    "only-claim": "holders of the claim {name} with {value}",
    "domain": "people with an e-mail address in {value}",
    "email": "{value}",
    "user": "the user {value}",
}


def admission(route: RoutePolicy, identity: Identity) -> Admission | None:
    """How far who they are takes them. None when the route has policies in Rego, which cannot be asked like that."""
    if route.closed:
        return Admission.NEVER
    policies = [script.policy for script in route.scripts]
    ours = [policy for policy in policies if isinstance(policy, Policy)]
    if len(ours) < len(policies):
        return None
    facts = Facts(Request(), identity, now=_MOMENT)
    allow = any_sure(_block(block, facts, closing=False) for policy in ours for block in policy.allow)
    deny = any_sure(_block(block, facts, closing=True) for policy in ours for block in policy.deny)
    if allow is True and deny is False:
        return Admission.ALWAYS
    return Admission.NEVER if allow is False or deny is True else Admission.SOMETIMES


def _block(block: PreparedBlock, facts: Facts, *, closing: bool) -> Sure:
    """The value by Kleene's logic, when nothing is known of the request."""
    if block.inverted and not facts.identity.present and any(_personal(each) for each in block.criteria):
        return closing  # nobody knows what a stranger is not; they have to sign in (policy 3.3)
    values = {_criterion(each, facts, inverted=block.inverted) for each in block.criteria}
    deciding = not block.every  # one such value decides the block, whatever the others are
    if deciding in values:
        return deciding
    return None if None in values else not deciding


def _criterion(criterion: Criterion, facts: Facts, *, inverted: bool) -> Sure:
    if criterion.reads and not _personal(criterion):
        return None
    return criterion.check(facts).value is not inverted


def _personal(criterion: Criterion) -> bool:
    """Whether an identity is all it asks for. (Devices, and names that SSH compares, are of the request here.)"""
    return criterion.needs is Needs.IDENTITY and criterion.reads <= {"identity"}


def people_of(*routes: RoutePolicy) -> tuple[tuple[Person, ...], bool]:
    """Everybody the policies of these routes speak of, each once; and whether there are more than could be asked about.

    Those whom only some of the routes speak of come first: with them, something has changed.
    """
    spoken = [_spoken_of(route) for route in routes]
    counts = Counter(person for people, _ in spoken for person in people)
    ordered = sorted(counts, key=lambda person: counts[person] == len(routes))
    criteria = sum(len(block.criteria) for route in routes for block in _blocks(route))
    room = min(MOST, max(FEWEST, MOST_CHECKS // max(criteria, 1)))
    found = tuple(dict.fromkeys((ANYBODY, EVERYBODY, *ordered)))
    return found[:room], len(found) > room or any(more for _, more in spoken)


def _blocks(route: RoutePolicy) -> list[PreparedBlock]:
    policies = [script.policy for script in route.scripts if isinstance(script.policy, Policy)]
    return [block for policy in policies for block in (*policy.allow, *policy.deny)]


def _spoken_of(route: RoutePolicy) -> tuple[dict[Person, None], bool]:
    policies = [script.policy for script in route.scripts if isinstance(script.policy, Policy)]
    allowed = dict.fromkeys(each for policy in policies for block in policy.allow for each in _of_block(block))
    denied = dict.fromkeys(each for policy in policies for block in policy.deny for each in _of_block(block))
    # Whom a rule turns away is only of interest if another would let them in.
    both = ((*traits, *more) for more in denied for traits in ((), *allowed) if not set(more) & set(traits))
    found = dict.fromkeys(Person(traits=traits) for traits in allowed)
    found.update(dict.fromkeys(Person(traits=traits) for traits in islice(both, MOST) if _possible(traits)))
    return found, len(denied) * (len(allowed) + 1) > MOST


def _possible(traits: tuple[Change, ...]) -> bool:
    """Nobody has two e-mail addresses, or is two users; an address in a domain is one."""
    kinds = [trait.kind for trait in traits]
    return all(kinds.count(kind) <= 1 for kind in ("email", "domain", "user")) and not {"email", "domain"} <= set(kinds)


def _of_block(block: PreparedBlock) -> Iterator[tuple[Change, ...]]:
    each_way = [_makes(criterion) for criterion in block.criteria]
    if not block.every:
        for ways in each_way:
            for way in ways:
                yield (way,)
        return
    wanted = [ways for ways in each_way if ways]
    if wanted:
        yield from islice((traits for traits in product(*wanted) if _possible(traits)), MOST_OF_A_BLOCK)


def _makes(criterion: Criterion) -> tuple[Change, ...]:
    return tuple(dict.fromkeys(_positive(changes_of(criterion.key, criterion.data))))


def _positive(changes: Iterable[Change]) -> Iterator[Change]:
    return (change for change in changes if change.kind in _MAKES)

"""Documents to policies: prepared once, then evaluated in microseconds (policy 3.1, 3.2, P-3, P-4)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pomerium_agent.policy.compiling import Check, Compiling, Criterion, Needs, Place
from pomerium_agent.policy.complaints import Complaint, did_you_mean, shown
from pomerium_agent.policy.criteria import CRITERIA
from pomerium_agent.policy.dialect import Dialect
from pomerium_agent.policy.document import Action, Block, Document, Operator, Rule, serious
from pomerium_agent.policy.facts import Facts
from pomerium_agent.policy.results import Result, any_of, merged

_NOTHING: frozenset[str] = frozenset()
Sure = bool | None  # true, false, or unknown of a stranger


@dataclass(frozen=True, slots=True)
class PreparedBlock:
    """Criteria under one operator."""

    operator: Operator
    criteria: tuple[Criterion, ...]
    checks: tuple[Check, ...]
    inverted: bool  # `not` and `nor` flip each value and keep its reasons
    every: bool  # all of them, or any of them

    def evaluate(self, facts: Facts) -> Result:
        """No criterion is skipped, since the reasons of all of them count."""
        return self.combine([check(facts) for check in self.checks])

    def combine(self, results: Sequence[Result]) -> Result:
        """The table of policy 3.1."""
        inverted = self.inverted
        if self.every:
            false = [each for each in results if each.value is inverted]
            return merged(False, false) if false else merged(True, results)
        true = [each for each in results if each.value is not inverted]
        return merged(True, true) if true else merged(False, results)

    def certain(self, facts: Facts) -> Sure:
        """The value by Kleene's logic, when nothing is known of who asks (D1)."""
        values = {self._certain(criterion, facts) for criterion in self.criteria}
        deciding = not self.every  # one such value decides the block, whatever the others are
        if deciding in values:
            return deciding
        return None if None in values else not deciding

    def _certain(self, criterion: Criterion, facts: Facts) -> Sure:
        if criterion.needs is Needs.IDENTITY:
            return None
        return criterion.check(facts).value is not self.inverted


@dataclass(frozen=True, slots=True)
class PreparedRule:
    action: Action
    blocks: tuple[PreparedBlock, ...]
    line: int


class Answer(NamedTuple):
    """What one policy says."""

    allow: Result
    deny: Result


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy, ready to be asked. `reads` names the attributes of a request that its answer depends on."""

    rules: tuple[PreparedRule, ...]
    allow: tuple[PreparedBlock, ...]
    deny: tuple[PreparedBlock, ...]
    reads: frozenset[str]

    def evaluate(self, facts: Facts) -> Answer:
        """Pure and total."""
        return Answer(_any_block(self.allow, facts), _any_block(self.deny, facts))

    def certain(self, facts: Facts) -> tuple[Sure, Sure]:
        """Whether it allows, and whether it denies, for all that can be known of a stranger (D1)."""
        return _certain(self.allow, facts), _certain(self.deny, facts)

    @property
    def personal(self) -> bool:
        """Whether it asks who is there."""
        return "identity" in self.reads


def _any_block(blocks: tuple[PreparedBlock, ...], facts: Facts) -> Result:
    if len(blocks) == 1:
        return blocks[0].evaluate(facts)
    return any_of([block.evaluate(facts) for block in blocks])


def _certain(blocks: tuple[PreparedBlock, ...], facts: Facts) -> Sure:
    return any_sure([block.certain(facts) for block in blocks])


def any_sure(values: Iterable[Sure]) -> Sure:
    """Kleene's or."""
    found = set(values)
    return True if True in found else None if None in found else False


def prepared_policy(rules: Iterable[PreparedRule]) -> Policy:
    """A policy of rules, which may come from several texts."""
    kept = tuple(rules)
    allow = tuple([block for rule in kept if rule.action is Action.ALLOW for block in rule.blocks])
    deny = tuple([block for rule in kept if rule.action is Action.DENY for block in rule.blocks])
    reads = _NOTHING.union(*[each.reads for block in (*allow, *deny) for each in block.criteria])
    return Policy(kept, allow, deny, reads)


class Compiled(NamedTuple):
    """What became of a text. Without a policy the whole route is closed (P-27), for one of two reasons (P-25)."""

    policy: Policy | None
    complaints: tuple[Complaint, ...] = ()
    unsupported: bool = False


def compile_policy(document: Document, *, dialect: Dialect = Dialect.SAFE) -> Compiled:
    """Prepare every criterion of a document, or say all that is wrong with them. Never raises."""
    ask = Compiling(dialect=dialect, source=document.source)
    rules = tuple(_rule(rule, ask) for rule in document.rules)
    complaints = tuple(ask.complaints)
    if serious(complaints):
        return Compiled(None, complaints, ask.unsupported)
    return Compiled(prepared_policy(rules), complaints)


def _rule(rule: Rule, ask: Compiling) -> PreparedRule:
    blocks = tuple(_block(rule, block, ask) for block in rule.blocks if block.terms)  # an empty block is as none
    return PreparedRule(rule.action, blocks, rule.line)


def _block(rule: Rule, block: Block, ask: Compiling) -> PreparedBlock:
    inverted = block.operator in (Operator.NOT, Operator.NOR)
    ask.closing = (rule.action is Action.DENY) is not inverted
    criteria: list[Criterion] = []
    for term in block.terms:
        prepare = CRITERIA.get(term.name)
        if prepare is None:
            remedy = did_you_mean(term.name, CRITERIA, otherwise=f"use one of {', '.join(CRITERIA)}")
            ask.refuse(Place(term.line, term.path), f"there is no criterion {shown(term.name)}", remedy)
            continue
        criterion = prepare(term, ask)
        if criterion is not None:
            criteria.append(criterion)
    return PreparedBlock(
        operator=block.operator,
        criteria=tuple(criteria),
        checks=tuple(criterion.check for criterion in criteria),
        inverted=inverted,
        every=block.operator in (Operator.AND, Operator.NOT),
    )

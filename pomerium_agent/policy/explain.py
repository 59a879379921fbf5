"""Why a request is let in or not: every policy, rule and criterion with what it read, and what would change it."""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pomerium_agent.policy.change import Change, smallest_change
from pomerium_agent.policy.compile import Policy, PreparedBlock, PreparedRule
from pomerium_agent.policy.facts import Certificate, Facts
from pomerium_agent.policy.results import Kind, Outcome, Result, Trace, any_of, outcome
from pomerium_agent.policy.route import RoutePolicy, Script, evaluate


@dataclass(frozen=True, slots=True)
class ExplainedCriterion:
    """One criterion: `saw` is what it read, as JSON has it."""

    key: str
    data: object
    line: int
    path: str
    saw: object
    result: Result

    def to_json(self) -> dict[str, Any]:
        told = {"criterion": self.key, "data": self.data, "line": self.line, "path": self.path, "saw": self.saw}
        return told | _told(self.result)


@dataclass(frozen=True, slots=True)
class ExplainedBlock:
    operator: str
    result: Result
    criteria: tuple[ExplainedCriterion, ...]

    def to_json(self) -> dict[str, Any]:
        told = {"operator": self.operator, **_told(self.result)}
        return told | {"criteria": [each.to_json() for each in self.criteria]}


@dataclass(frozen=True, slots=True)
class ExplainedRule:
    action: str
    line: int
    result: Result
    blocks: tuple[ExplainedBlock, ...]

    def to_json(self) -> dict[str, Any]:
        told = {"action": self.action, "line": self.line, **_told(self.result)}
        return told | {"blocks": [each.to_json() for each in self.blocks]}


@dataclass(frozen=True, slots=True)
class ExplainedPolicy:
    """One script of the route; one in Rego has no rules to show."""

    trace: Trace
    language: str
    rules: tuple[ExplainedRule, ...]

    def to_json(self) -> dict[str, Any]:
        trace = self.trace
        return {
            "id": trace.id,
            "language": self.language,
            "explanation": trace.explanation,
            "remediation": trace.remediation,
            "allow": _told(trace.allow),
            "deny": _told(trace.deny),
            "rules": [each.to_json() for each in self.rules],
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """`change` is the smallest change of identity that would be let in.

    It is empty when the request is let in already, and None when no identity would be.
    """

    outcome: Outcome
    allow: Result
    deny: Result
    closed: str
    unproven: bool
    policies: tuple[ExplainedPolicy, ...]
    change: tuple[Change, ...] | None

    def to_json(self) -> dict[str, Any]:
        """As `explain --json` shows it; who calls adds the route."""
        return {
            "decision": self.outcome.decision,
            "status": self.outcome.status,
            "reasons": list(self.outcome.reasons),
            "allow": self.allow.value,
            "deny": self.deny.value,
            "allow_reasons": sorted(self.allow.reasons),
            "deny_reasons": sorted(self.deny.reasons),
            "closed": self.closed,
            "unproven": self.unproven,
            "policies": [each.to_json() for each in self.policies],
            "change": None if self.change is None else [each.to_json() for each in self.change],
        }


def explain(route: RoutePolicy, facts: Facts) -> Explanation:
    """Decide once more, and keep all that was looked at."""
    verdict = evaluate(route, facts)
    found = outcome(verdict)
    policies = tuple(
        _policy(script, trace, facts) for script, trace in zip(route.scripts, verdict.traces, strict=False)
    )
    change: tuple[Change, ...] | None = ()
    if found.kind is not Kind.ALLOWED:
        change = None if route.closed else smallest_change(route, facts)
    return Explanation(found, verdict.allow, verdict.deny, route.closed, verdict.unproven, policies, change)


def _policy(script: Script, trace: Trace, facts: Facts) -> ExplainedPolicy:
    if not isinstance(script.policy, Policy):
        return ExplainedPolicy(trace, "rego", ())
    return ExplainedPolicy(trace, "ppl", tuple(_rule(rule, facts) for rule in script.policy.rules))


def _rule(rule: PreparedRule, facts: Facts) -> ExplainedRule:
    blocks = tuple(_block(block, facts) for block in rule.blocks)
    return ExplainedRule(rule.action.value, rule.line, any_of([each.result for each in blocks]), blocks)


def _block(block: PreparedBlock, facts: Facts) -> ExplainedBlock:
    criteria = tuple(
        ExplainedCriterion(each.key, each.data, each.line, each.path, seen(each.look(facts)), each.check(facts))
        for each in block.criteria
    )
    return ExplainedBlock(block.operator.value, block.combine([each.result for each in criteria]), criteria)


def _told(result: Result) -> dict[str, Any]:
    told: dict[str, Any] = {"value": result.value, "reasons": sorted(result.reasons)}
    return told | {"data": dict(result.data)} if result.data else told


def seen(value: object) -> object:
    """A value that a criterion read, as JSON has it."""
    if isinstance(value, (IPv4Address, IPv6Address)):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Certificate):
        return seen(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): seen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [seen(item) for item in value]
    return value

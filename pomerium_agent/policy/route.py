"""All policies of one route as one: the base policy and each sub-policy, combined (policy 3.2, 10, 11)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pomerium_agent.policy.compile import Answer, Compiled, Policy, any_sure, compile_policy, prepared_policy
from pomerium_agent.policy.complaints import Complaint
from pomerium_agent.policy.dialect import Dialect
from pomerium_agent.policy.document import parse_policy
from pomerium_agent.policy.facts import Facts
from pomerium_agent.policy.legacy import RouteRules, SubPolicy, fields_key, legacy_document
from pomerium_agent.policy.rego import Prepared, RegoPolicy, compile_rego
from pomerium_agent.policy.results import (
    NOTHING,
    POLICY_INVALID,
    POLICY_UNSUPPORTED,
    Kind,
    Outcome,
    Result,
    Trace,
    Verdict,
    any_policy,
    outcome,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One policy of a route; the base policy has no id."""

    policy: Policy | RegoPolicy
    id: str = ""
    explanation: str = ""
    remediation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
    """Who may use a route. `closed` is the reason why nobody may, whatever its policies say (P-27)."""

    scripts: tuple[Script, ...] = ()
    closed: str = ""
    dialect: Dialect = Dialect.SAFE
    reads: frozenset[str] = frozenset()
    personal: bool = False  # it asks who is there


class PolicyCache:
    """What was prepared for the configuration before this one, by content: equal texts are prepared once.

    Make one for each configuration with the last one's, and what is no longer used is forgotten.
    """

    def __init__(self, before: "PolicyCache | None" = None) -> None:
        self._before = before._now if before else {}
        self._now: dict[object, Compiled | Prepared] = {}

    def policy(self, text: str | bytes, dialect: Dialect) -> Compiled:
        """A text of PPL, prepared. Its complaints name no source."""
        key = ("ppl", text, dialect)
        found = self._now.get(key) or self._before.get(key)
        if not isinstance(found, Compiled):
            document, complaints = parse_policy(text, source="")
            found = Compiled(None, complaints) if document is None else compile_policy(document, dialect=dialect)
        self._now[key] = found
        return found

    def rego(self, script: str) -> Prepared:
        """A script of Rego, prepared."""
        key = ("rego", script)
        found = self._now.get(key) or self._before.get(key)
        if not isinstance(found, Prepared):
            found = compile_rego(script, source="")
        self._now[key] = found
        return found

    def base(self, rules: RouteRules, dialect: Dialect) -> Compiled:
        """The allow fields of a route, prepared."""
        key = ("fields", fields_key(rules), dialect)
        found = self._now.get(key) or self._before.get(key)
        if not isinstance(found, Compiled):
            found = _compile_fields(rules, dialect)
        self._now[key] = found
        return found


def _compile_fields(rules: RouteRules, dialect: Dialect) -> Compiled:
    try:
        return compile_policy(legacy_document(rules, ""), dialect=dialect)
    except (ValueError, RecursionError) as error:
        remedy = "write claims as texts, numbers or booleans"
        return Compiled(None, (Complaint(0, "allowed_idp_claims", str(error), remedy),))


def build_route_policy(
    rules: RouteRules,
    *,
    source: str,
    dialect: Dialect = Dialect.SAFE,
    cache: PolicyCache | None = None,
) -> tuple[RoutePolicy, tuple[Complaint, ...]]:
    """Prepare a route's policies. Never raises: with a complaint that is no warning, the route is closed (P-27)."""
    building = _Building(source, dialect, cache or PolicyCache())
    scripts = (building.base(rules), *(each for sub in rules.sub_policies for each in building.sub_policy(sub)))
    complaints = tuple(building.complaints)
    if building.closed:
        return RoutePolicy(closed=building.closed, dialect=dialect), complaints
    reads = scripts[0].policy.reads.union(*[script.policy.reads for script in scripts])
    personal = any(script.policy.personal for script in scripts)
    return RoutePolicy(scripts=scripts, dialect=dialect, reads=reads, personal=personal), complaints


def judge_all(policies: Iterable[RoutePolicy], facts: Facts) -> tuple[Verdict, Outcome]:
    """What the first of them says that does not allow; else what the last one says. There has to be one."""
    for policy in policies:
        verdict = evaluate(policy, facts)
        found = outcome(verdict)
        if found.kind is not Kind.ALLOWED:
            break
    return verdict, found


@dataclass(slots=True)
class _Building:
    source: str
    dialect: Dialect
    cache: PolicyCache
    closed: str = ""
    complaints: list[Complaint] = field(default_factory=list)

    def base(self, rules: RouteRules) -> Script:
        fields = self.take(self.cache.base(rules, self.dialect), "")
        embedded = [self.take(self.cache.policy(text, self.dialect), "policy") for text in rules.policies if text]
        if not embedded:
            return Script(policy=fields)
        return Script(policy=prepared_policy(rule for policy in (fields, *embedded) for rule in policy.rules))

    def sub_policy(self, sub: SubPolicy) -> list[Script]:
        name = f"policy {sub.id}" if sub.id else "policy"
        found: list[Policy | RegoPolicy] = []
        scripts = [script for script in sub.rego if script.strip()]
        if sub.source_ppl.strip():
            compiled = self.cache.policy(sub.source_ppl, self.dialect)
            found.append(self.take(compiled, name, rego=bool(scripts)))
            if scripts and not any("merge_with" in script for script in scripts):
                reason = "its Rego was not made from its PPL; other replicas may decide by the Rego"
                self.complaints.append(Complaint(0, name, reason, "make both say the same", self.source, warning=True))
        else:
            found.extend(each for script in scripts for each in self.take_rego(self.cache.rego(script), name))
        return [
            Script(policy=policy, id=sub.id, explanation=sub.explanation, remediation=sub.remediation)
            for policy in found
        ]

    def take(self, compiled: Compiled, name: str, *, rego: bool = False) -> Policy:
        """What was compiled, or an empty policy after the route was closed.

        PPL that comes with Rego and is beyond us is not wrong, only newer than we are (policy 11, R6).
        """
        self.tell(compiled.complaints, name)
        if compiled.policy is None:
            self.close(POLICY_UNSUPPORTED if compiled.unsupported or rego else POLICY_INVALID)
        return compiled.policy or prepared_policy(())

    def take_rego(self, prepared: Prepared, name: str) -> list[RegoPolicy]:
        self.tell(prepared.complaints, name)
        if prepared.policy is None:
            self.close(POLICY_UNSUPPORTED)
            return []
        return [prepared.policy]

    def close(self, reason: str) -> None:
        self.closed = self.closed or reason

    def tell(self, complaints: Sequence[Complaint], name: str) -> None:
        for each in complaints:
            path = ": ".join(part for part in (name, each.path) if part)
            self.complaints.append(replace(each, file=self.source, path=path))


def evaluate(route: RoutePolicy, facts: Facts) -> Verdict:
    """What all policies of a route say together; pure, total, and no without a clear yes (P-4, P-7, P-25)."""
    if route.closed:
        return Verdict(NOTHING, Result(True, frozenset({route.closed})))
    return verdict(route, facts, [script.policy.evaluate(facts) for script in route.scripts])


def verdict(route: RoutePolicy, facts: Facts, answers: Sequence[Answer]) -> Verdict:
    """The answers of a route's scripts, in their order, as one. Guarded against strangers (D1)."""
    traces = tuple(
        [
            Trace(script.id, script.explanation, script.remediation, answer.allow, answer.deny)
            for script, answer in zip(route.scripts, answers, strict=True)
        ]
    )
    if len(answers) == 1:
        allow, deny = answers[0]
    else:
        allow, deny = any_policy([each.allow for each in answers]), any_policy([each.deny for each in answers])
    found = Verdict(allow, deny, traces)
    if allow.value and route.personal and route.dialect.guard_strangers and not facts.identity.present:
        return found._replace(unproven=outcome(found).kind is Kind.ALLOWED and not _certain(route, facts))
    return found


def _certain(route: RoutePolicy, facts: Facts) -> bool:
    """Whether a stranger is let in by what is known of the request alone."""
    answers = [script.policy.certain(facts) for script in route.scripts]
    return any_sure(allow for allow, _ in answers) is True and any_sure(deny for _, deny in answers) is False

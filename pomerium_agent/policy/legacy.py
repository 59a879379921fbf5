"""The allow fields of a route, as the rule they stand for (policy 10, P-23)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pomerium_agent.policy.complaints import printable
from pomerium_agent.policy.document import Action, Block, Document, Operator, Rule, Term
from pomerium_agent.policy.yaml_marks import mark


def _none() -> Mapping[str, object]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SubPolicy:
    """A policy that a route refers to. `rego` is evaluated only where there is no `source_ppl` (policy 11, R1)."""

    id: str = ""
    explanation: str = ""
    remediation: str = ""
    source_ppl: str = ""
    rego: tuple[str, ...] = ()
    allowed_users: tuple[str, ...] = ()
    allowed_domains: tuple[str, ...] = ()
    allowed_idp_claims: Mapping[str, object] = field(default_factory=_none)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRules:
    """All of a route's configuration that decides who gets in. `policies` are embedded texts, YAML or JSON."""

    public: bool = False  # allow_public_unauthenticated_access
    cors: bool = False  # cors_allow_preflight
    any_user: bool = False  # allow_any_authenticated_user
    allowed_users: tuple[str, ...] = ()
    allowed_domains: tuple[str, ...] = ()
    allowed_idp_claims: Mapping[str, object] = field(default_factory=_none)
    policies: tuple[str | bytes, ...] = ()
    sub_policies: tuple[SubPolicy, ...] = ()
    default_deny: bool = False  # a client CA is configured, and enforcement is not `policy` (P-20)


def fields_key(rules: RouteRules) -> object:
    """Equal for rules whose fields mean the same."""
    all_holders: Sequence[RouteRules | SubPolicy] = (rules, *rules.sub_policies)
    holders = [
        (each.allowed_domains, each.allowed_users, repr(each.allowed_idp_claims) if each.allowed_idp_claims else "")
        for each in all_holders
        if each.allowed_domains or each.allowed_users or each.allowed_idp_claims
    ]
    return rules.public, rules.cors, rules.any_user, rules.default_deny, tuple(holders)


def legacy_document(rules: RouteRules, source: str) -> Document:
    """One rule that allows whom any of the fields names, and what denies untrusted certificates."""
    terms = tuple(_terms(rules))
    found = [Rule(Action.ALLOW, (Block(Operator.OR, terms),), 0, "")] if terms else []
    if rules.default_deny:
        deny = (Block(Operator.OR, (_term("invalid_client_certificate", "", True, "default deny"),)),)
        found.append(Rule(Action.DENY, deny, 0, ""))
    return Document(tuple(found), source)


def _terms(rules: RouteRules) -> Iterator[Term]:
    holders: Sequence[RouteRules | SubPolicy] = (rules, *rules.sub_policies)
    if rules.public:
        yield _term("accept", "", True, "allow_public_unauthenticated_access")
    if rules.cors:
        yield _term("cors_preflight", "", True, "cors_allow_preflight")
    if rules.any_user:
        yield _term("authenticated_user", "", True, "allow_any_authenticated_user")
    for i, domain in _unique(domain for holder in holders for domain in holder.allowed_domains):
        yield _term("domain", "", {"is": domain}, f"allowed_domains[{i}]")
    for holder in holders:
        for key, values in sorted(_flat(holder.allowed_idp_claims, "").items()):
            for i, value in enumerate(values):
                yield _term("claim", key, {"has": value}, f"allowed_idp_claims.{printable(key)}[{i}]")
    for i, user in _unique(user for holder in holders for user in holder.allowed_users):
        yield _term("user", "", {"is": user}, f"allowed_users[{i}]")
        yield _term("email", "", {"is": user}, f"allowed_users[{i}]")


def _unique(words: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Each once, in order; a word that is named twice decides nothing more."""
    return iter(enumerate(dict.fromkeys(words)))


def _term(name: str, sub: str, data: object, path: str) -> Term:
    return Term(name, sub, mark(data), 0, path)


def _flat(claims: Mapping[str, object], prefix: str) -> dict[str, tuple[object, ...]]:
    """Claims as a session keeps them: nested keys joined with dots, every value a list (policy 4.2)."""
    found: dict[str, tuple[object, ...]] = {}
    for name, value in claims.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{key}.")
        else:
            found[key] = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return found

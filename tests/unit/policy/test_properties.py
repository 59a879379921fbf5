"""Laws that hold for every policy and every request."""

import json
from collections.abc import Mapping
from itertools import product
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pomerium_agent.policy import (
    Dialect,
    Kind,
    Result,
    RoutePolicy,
    RouteRules,
    SubPolicy,
    build_route_policy,
    compile_policy,
    evaluate,
    explain,
    outcome,
    parse_policy,
)
from pomerium_agent.policy.criteria import CRITERIA
from pomerium_agent.policy.everybody import admits_everybody
from pomerium_agent.policy.rego import compile_rego
from tests.fakes.people import PEOPLE, facts_of

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DIALECTS = st.sampled_from([Dialect.SAFE, Dialect.REFERENCE])
WHO = st.sampled_from(sorted(PEOPLE))

words = st.sampled_from(
    ["alice@example.com", "bob@other.org", "example.com", "uA", "eng", "g-eng", "GET", "/", "10.0.0.0/8"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
    | st.text(max_size=5)
)
keys = st.sampled_from(["is", "not", "in", "not_in", "has", "exclude", "contains", "starts_with", "type", "approved"])
data = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=3), inner, max_size=3)
)
names = st.sampled_from(sorted(CRITERIA)) | st.just("claim/groups") | st.text(max_size=6)
anything = st.dictionaries(names, data, min_size=0, max_size=2)
blocks = st.dictionaries(
    st.sampled_from(["and", "or", "not", "nor"]) | st.text(max_size=3), st.lists(anything, max_size=3) | data
)
documents = (
    st.lists(st.dictionaries(st.sampled_from(["allow", "deny"]) | st.text(max_size=3), blocks | data, max_size=2))
    | data
)

# Criteria that are valid everywhere, of every kind.
REQUEST = (
    {"accept": 1},
    {"reject": 1},
    {"http_method": "GET"},
    {"http_path": {"not": "/"}},
    {"source_ip": "192.0.2.10"},
)
PERSONAL: tuple[Mapping[str, Any], ...] = (
    {"authenticated_user": 1},
    {"email": {"not": "bob@other.org"}},
    {"email": {"ends_with": "@example.com"}},
    {"domain": "example.com"},
    {"user": {"not_in": ["uB"]}},
    {"claim/groups": {"exclude": "ops"}},
    {"groups": {"exclude": "g-eng"}},
    {"device": {"approved": False}},
    {"device": {"type": "any"}},
    {"device": {}},
    {"ssh_username_matches_email": 1},
)
valid_blocks = st.dictionaries(
    st.sampled_from(["and", "or", "not", "nor"]),
    st.lists(st.sampled_from([*REQUEST, *PERSONAL]), max_size=3),
    max_size=2,
)
valid_rules = st.lists(
    st.tuples(st.sampled_from(["allow", "deny"]), valid_blocks).map(lambda pair: dict([pair])), max_size=4
)


def route(*documents: object, dialect: Dialect = Dialect.SAFE) -> RoutePolicy:
    texts = tuple(SubPolicy(source_ppl=json.dumps(each)) for each in documents)
    return build_route_policy(RouteRules(sub_policies=texts), source="p", dialect=dialect)[0]


@SLOW
@given(st.text() | st.binary() | st.text(alphabet="{}[]:-,*&!|>'\"?@`%#\n \tallowandor1.") | documents, DIALECTS)
def test_no_document_makes_the_parser_raise(text: object, dialect: Dialect) -> None:
    """P-27."""
    document, complaints = parse_policy(text, source="p")

    assert (document is None) == bool(complaints)
    if document is not None:
        policy, said, _ = compile_policy(document, dialect=dialect)
        assert (policy is None) == any(not each.warning for each in said)


@SLOW
@given(st.sampled_from(sorted(CRITERIA)), data, DIALECTS, WHO, st.sampled_from(["and", "or", "not", "nor"]))
def test_every_criterion_takes_or_refuses_any_data_and_always_answers(
    name: str, value: object, dialect: Dialect, who: str, operator: str
) -> None:
    """P-28."""
    document, _ = parse_policy({"allow": {operator: [{name: value}]}}, source="p")
    assert document is not None
    policy, _, _ = compile_policy(document, dialect=dialect)

    if policy is not None:
        answer = policy.evaluate(facts_of(who, {"certificate": "valid"}))
        assert isinstance(answer.allow, Result)
        assert isinstance(answer.allow.value, bool)


@SLOW
@given(st.lists(documents, max_size=2), WHO, DIALECTS)
def test_a_decision_is_always_made_and_can_be_explained(several: list[object], who: str, dialect: Dialect) -> None:
    """A policy that is wrong never lets anybody in (P-27)."""
    built = route(*several, dialect=dialect)
    facts = facts_of(who, {})

    found = outcome(evaluate(built, facts))

    assert explain(built, facts).outcome == found
    if built.closed:
        assert (found.kind, found.status) == (Kind.DENIED, 403)
    assert json.dumps(explain(built, facts).to_json())


@SLOW
@given(valid_rules, WHO, DIALECTS)
def test_deny_always_wins(rules: list[Any], who: str, dialect: Dialect) -> None:
    """P-6."""
    verdict = evaluate(route(rules, dialect=dialect), facts_of(who, {}))

    if outcome(verdict).kind is Kind.ALLOWED:
        assert verdict.allow.value
        assert not verdict.deny.value


@SLOW
@given(valid_rules, WHO, st.randoms(use_true_random=False))
def test_the_order_of_rules_and_criteria_never_matters(rules: list[Any], who: str, random: Any) -> None:
    """Policy 2."""
    shuffled = json.loads(json.dumps(rules))
    random.shuffle(shuffled)
    for rule in shuffled:
        for block in next(iter(rule.values())).values():
            random.shuffle(block)
    facts = facts_of(who, {})

    assert evaluate(route(rules), facts)[:2] == evaluate(route(shuffled), facts)[:2]


@SLOW
@given(valid_rules, valid_rules, WHO)
def test_two_policies_decide_as_their_rules_together(one: list[Any], two: list[Any], who: str) -> None:
    """P-4: only the data may differ, of which the later wins."""
    facts = facts_of(who, {})

    apart, together = evaluate(route(one, two), facts), evaluate(route([*one, *two]), facts)

    assert (apart.allow[:2], apart.deny[:2]) == (together.allow[:2], together.deny[:2])


@SLOW
@given(documents)
def test_json_and_yaml_say_the_same(document: object) -> None:
    """P-2."""
    as_json, _ = parse_policy(json.dumps(document), source="p")
    as_value, _ = parse_policy(document, source="p")
    flow = yaml.safe_dump(document, default_flow_style=True, default_style='"', width=10_000, sort_keys=False)
    as_yaml, _ = parse_policy(flow.replace('!!null "null"', "null"), source="p")

    assert as_json == as_value or isinstance(document, str)
    if as_json is not None and as_yaml is not None:
        assert as_json.canonical() == as_yaml.canonical()


OPERATORS = {
    "and": lambda values: all(values),
    "or": lambda values: any(values),
    "not": lambda values: not any(values),
    "nor": lambda values: not all(values),
}


def decided(rules: list[Any], action: str, personal: Mapping[str, bool]) -> bool:
    """By Boolean logic alone, with any answer whatever for what is asked of a person (policy 3.1)."""
    facts = facts_of("anon", {})

    def value(criterion: Mapping[str, Any]) -> bool:
        key = json.dumps(criterion)
        if key in personal:
            return personal[key]
        document, _ = parse_policy({"allow": {"and": [criterion]}}, source="p")
        assert document is not None
        policy = compile_policy(document).policy
        assert policy is not None
        return policy.evaluate(facts).allow.value

    return any(
        OPERATORS[operator]([value(each) for each in block])
        for rule in rules
        for operator, block in rule.get(action, {}).items()
        if block
    )


@SLOW
@given(valid_rules)
def test_a_stranger_is_let_in_only_if_everybody_would_be(rules: list[Any]) -> None:
    """D1: whatever the answers to what is asked of a person, the request alone decides."""
    verdict = evaluate(route(rules), facts_of("anon", {}))
    if outcome(verdict).kind is not Kind.ALLOWED:
        return

    asked = sorted(
        {json.dumps(each) for rule in rules for body in rule.values() for block in body.values() for each in block}
    )
    personal = [each for each in asked if json.loads(each) in PERSONAL]
    for answers in product((False, True), repeat=len(personal)):
        answer = dict(zip(personal, answers, strict=True))
        assert decided(rules, "allow", answer)
        assert not decided(rules, "deny", answer)


@SLOW
@given(valid_rules, WHO, DIALECTS)
@example([{"allow": {"and": [{"accept": 1}], "not": [{"domain": "example.com"}]}}], "anon", Dialect.SAFE)
@example([{"allow": {"or": [{"accept": 1}], "nor": [{"device": {"type": "any"}}]}}], "A", Dialect.SAFE)
def test_a_route_that_admits_everybody_turns_nobody_away(rules: list[Any], who: str, dialect: Dialect) -> None:
    """Such a route is never asked about, so a login or an enrolment would be lost as well."""
    built = route(rules, dialect=dialect)

    if admits_everybody(built):
        assert outcome(evaluate(built, facts_of(who, {}))).kind is Kind.ALLOWED


@SLOW
@given(valid_rules, WHO)
def test_the_guard_only_ever_turns_an_allow_into_a_login(rules: list[Any], who: str) -> None:
    """D1: no other outcome changes."""
    facts = facts_of(who, {})

    safe, reference = (
        outcome(evaluate(route(rules, dialect=dialect), facts)) for dialect in (Dialect.SAFE, Dialect.REFERENCE)
    )

    if safe != reference:
        assert (reference.kind, safe.kind) == (Kind.ALLOWED, Kind.LOGIN)
        assert not facts.identity.present


@SLOW
@given(st.text() | st.text(alphabet='allowdenyif:={}[]()"input.http&&\n _', max_size=60))
def test_no_script_makes_the_rego_reader_raise(script: str) -> None:
    """P-26."""
    prepared = compile_rego(script, source="p")

    assert prepared.policy is not None or prepared.complaints

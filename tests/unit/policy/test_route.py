"""All policies of a route together: what closes it, what is kept, and what it costs."""

import pytest

from pomerium_agent.policy import (
    Dialect,
    Kind,
    PolicyCache,
    Result,
    RoutePolicy,
    RouteRules,
    SubPolicy,
    Verdict,
    build_route_policy,
    evaluate,
    outcome,
)
from pomerium_agent.policy.results import any_policy
from tests.fakes.people import facts_of

ALICE = "allow: {and: [{email: alice@example.com}]}"


def built(rules: RouteRules, dialect: Dialect = Dialect.SAFE) -> RoutePolicy:
    return build_route_policy(rules, source="route wiki", dialect=dialect)[0]


def subs(*policies: SubPolicy) -> RouteRules:
    return RouteRules(public=True, sub_policies=policies)


@pytest.mark.parametrize("dialect", [Dialect.SAFE, Dialect.REFERENCE])
@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (RouteRules(public=True, policies=("deny: {or: [{emial: a}]}",)), "policy-invalid"),
        (RouteRules(public=True, policies=("deny: [",)), "policy-invalid"),
        (RouteRules(public=True, policies=(b"\xff",)), "policy-invalid"),
        (RouteRules(public=True, allowed_idp_claims={"x": float("nan")}), "policy-invalid"),
        (subs(SubPolicy(source_ppl="deny: {or: [{source_ip: x}]}")), "policy-invalid"),
        (subs(SubPolicy(source_ppl="deny: {or: [{record: {}}]}")), "policy-unsupported"),
        (subs(SubPolicy(source_ppl="deny: {or: [{newer: 1}]}", rego=("deny := true",))), "policy-unsupported"),
        (subs(SubPolicy(rego=("deny if http.send({})",))), "policy-unsupported"),
        (subs(SubPolicy(rego=("deny if {",))), "policy-unsupported"),
    ],
    ids=repr,
)
def test_a_policy_that_cannot_be_used_closes_its_whole_route(rules: RouteRules, reason: str, dialect: Dialect) -> None:
    """P-25, P-27, D4: also a public one, since the lost rule may have been a deny."""
    route, complaints = build_route_policy(rules, source="route wiki", dialect=dialect)

    found = evaluate(route, facts_of("A", {}))

    assert found == Verdict(Result(False), Result(True, frozenset({reason})))
    assert (outcome(found).kind, outcome(found).status) == (Kind.DENIED, 403)
    assert complaints
    assert all(each.file == "route wiki" for each in complaints)


def test_every_policy_of_a_route_complains() -> None:
    route, complaints = build_route_policy(
        RouteRules(policies=("deny: {or: [{emial: a}]}",), sub_policies=(SubPolicy(id="p2", source_ppl="allow: 1"),)),
        source="route wiki",
    )

    assert route.closed
    assert [each.path for each in complaints] == ["policy: deny.or[0].emial", "policy p2: allow"]


def test_ppl_is_evaluated_and_its_rego_is_not() -> None:
    """P-25: R1, with a word about Rego that was not made from it (policy 11.2)."""
    sub = SubPolicy(id="p1", source_ppl=ALICE, rego=("allow if http.send({})",))

    route, complaints = build_route_policy(RouteRules(sub_policies=(sub,)), source="route wiki")

    assert outcome(evaluate(route, facts_of("A", {}))).kind is Kind.ALLOWED
    assert outcome(evaluate(route, facts_of("B", {}))).kind is Kind.DENIED
    assert [(each.path, each.warning) for each in complaints] == [("policy p1", True)]


def test_each_script_leaves_a_trace() -> None:
    """Policy 11: the base policy has no id."""
    sub = SubPolicy(id="p1", explanation="only Alice", remediation="ask her", source_ppl=ALICE)
    route = built(RouteRules(sub_policies=(sub, SubPolicy(id="p2", allowed_users=("uB",)))))

    found = evaluate(route, facts_of("B", {}))

    assert [(trace.id, trace.explanation, trace.allow.value) for trace in found.traces] == [
        ("", "", True),
        ("p1", "only Alice", False),
    ]


def test_data_of_a_later_policy_wins() -> None:
    """Policy 3.2."""
    first, second = Result(False, frozenset({"a"}), {"k": 2, "x": 1}), Result(False, frozenset({"b"}), {"k": 1})

    assert any_policy([first, second]) == Result(False, frozenset({"a", "b"}), {"k": 1, "x": 1})


def test_nested_claims_are_flattened_and_values_stay_what_they_are() -> None:
    """P-23, policy 10."""
    facts = facts_of("A", {})

    assert evaluate(built(RouteRules(allowed_idp_claims={"dept": {"name": "eng"}})), facts).allow.value is True
    assert evaluate(built(RouteRules(allowed_idp_claims={"level": [3]})), facts).allow.value is True
    assert evaluate(built(RouteRules(allowed_idp_claims={"level": ["3"]})), facts).allow.value is False


def test_the_guard_leaves_public_routes_public() -> None:
    """D1: what the request alone decides needs no login."""
    text = "[{allow: {or: [{accept: 1}, {email: {not: x@y.z}}]}}, {deny: {and: [{http_method: PUT}]}}]"

    found = evaluate(built(RouteRules(policies=(text,))), facts_of("anon", {}))

    assert (found.unproven, outcome(found).kind) == (False, Kind.ALLOWED)


def test_a_route_reads_what_its_policies_read() -> None:
    route = built(RouteRules(cors=True, policies=("allow: {and: [{day_of_week: '*'}]}",), allowed_users=("a",)))

    assert route.reads == {"method", "headers", "time", "identity"}
    assert route.personal


def test_equal_texts_are_prepared_once_and_unused_ones_are_forgotten() -> None:
    cache = PolicyCache()
    rules = RouteRules(sub_policies=(SubPolicy(id="p", source_ppl=ALICE),))
    first, again = (build_route_policy(rules, source=str(i), cache=cache)[0] for i in range(2))

    following = PolicyCache(cache)
    kept, _ = build_route_policy(rules, source="3", cache=following)
    other, _ = build_route_policy(rules, source="4", cache=PolicyCache(PolicyCache(following)))

    assert first.scripts[1].policy is again.scripts[1].policy is kept.scripts[1].policy
    assert other.scripts[1].policy is not kept.scripts[1].policy


def test_a_remembered_policy_complains_to_each_route() -> None:
    cache = PolicyCache()
    rules = RouteRules(policies=("allow: {and: [{emial: a}]}",))

    told = [build_route_policy(rules, source=f"route {i}", cache=cache)[1] for i in range(2)]

    assert [complaints[0].file for complaints in told] == ["route 0", "route 1"]


def test_dialects_do_not_share_what_they_prepared() -> None:
    cache = PolicyCache()
    rules = RouteRules(policies=("allow: {and: [{email: {}}]}",))

    strict, _ = build_route_policy(rules, source="r", cache=cache)
    loose, _ = build_route_policy(rules, source="r", dialect=Dialect.REFERENCE, cache=cache)

    assert (strict.closed, loose.closed) == ("policy-invalid", "")


CRITERIA = [
    {"http_method": "GET"},
    {"http_path": {"starts_with": "/"}},
    {"source_ip": ["10.0.0.0/8", "192.0.2.0/24"]},
    {"email": {"ends_with": "@example.com"}},
    {"domain": "example.com"},
    {"claim/groups": "ops"},
    {"user": "uA"},
    {"authenticated_user": True},
    {"claim/level": 3},
    {"email": {"in": ["alice@example.com"]}},
]

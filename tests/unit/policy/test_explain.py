"""Why, and what would help."""

import json

import pytest

from pomerium_agent.policy import RoutePolicy, RouteRules, SubPolicy, build_route_policy, explain
from tests.fakes.people import facts_of

WIKI = """\
- allow:
    and:
      - http_method: GET
      - groups: g-eng
- deny:
    or:
      - source_ip: 10.0.0.0/8
"""


def route(*policies: str, public: bool = False) -> RoutePolicy:
    found, _ = build_route_policy(
        RouteRules(
            sub_policies=tuple(SubPolicy(id=f"p{i}", source_ppl=text) for i, text in enumerate(policies)),
            public=public,
        ),
        source="r",
    )
    return found


def helps(found: RoutePolicy, who: str) -> list[str] | None:
    change = explain(found, facts_of(who, {})).change
    return None if change is None else [str(each) for each in change]


def test_an_explanation_names_each_criterion_with_what_it_saw() -> None:
    found = explain(route(WIKI), facts_of("A", {})).to_json()

    assert json.loads(json.dumps(found)) == {
        "decision": "deny",
        "status": 403,
        "reasons": ["groups-unauthorized"],
        "allow": False,
        "deny": False,
        "allow_reasons": ["groups-unauthorized"],
        "deny_reasons": ["source-ip-unauthorized"],
        "closed": "",
        "unproven": False,
        "policies": [
            {
                "id": "",
                "language": "ppl",
                "explanation": "",
                "remediation": "",
                "allow": {"value": False, "reasons": []},
                "deny": {"value": False, "reasons": []},
                "rules": [],
            },
            {
                "id": "p0",
                "language": "ppl",
                "explanation": "",
                "remediation": "",
                "allow": {"value": False, "reasons": ["groups-unauthorized"]},
                "deny": {"value": False, "reasons": ["source-ip-unauthorized"]},
                "rules": [
                    {
                        "action": "allow",
                        "line": 1,
                        "value": False,
                        "reasons": ["groups-unauthorized"],
                        "blocks": [
                            {
                                "operator": "and",
                                "value": False,
                                "reasons": ["groups-unauthorized"],
                                "criteria": [
                                    {
                                        "criterion": "http_method",
                                        "data": "GET",
                                        "line": 3,
                                        "path": "[0].allow.and[0].http_method",
                                        "saw": "GET",
                                        "value": True,
                                        "reasons": ["http-method-ok"],
                                    },
                                    {
                                        "criterion": "groups",
                                        "data": "g-eng",
                                        "line": 4,
                                        "path": "[0].allow.and[1].groups",
                                        "saw": None,
                                        "value": False,
                                        "reasons": ["groups-unauthorized"],
                                    },
                                ],
                            }
                        ],
                    },
                    {
                        "action": "deny",
                        "line": 5,
                        "value": False,
                        "reasons": ["source-ip-unauthorized"],
                        "blocks": [
                            {
                                "operator": "or",
                                "value": False,
                                "reasons": ["source-ip-unauthorized"],
                                "criteria": [
                                    {
                                        "criterion": "source_ip",
                                        "data": "10.0.0.0/8",
                                        "line": 7,
                                        "path": "[1].deny.or[0].source_ip",
                                        "saw": "192.0.2.10",
                                        "value": False,
                                        "reasons": ["source-ip-unauthorized"],
                                    }
                                ],
                            }
                        ],
                    },
                ],
            },
        ],
        "change": [{"kind": "join", "name": "", "value": "g-eng", "text": "be in the group g-eng"}],
    }


@pytest.mark.parametrize(
    ("policy", "who", "change"),
    [
        ("allow: {and: [{groups: g-eng}]}", "C", []),
        ("allow: {and: [{groups: g-x}]}", "C", ["be in the group g-x"]),
        (
            "allow: {and: [{groups: g-x}, {claim/team: blue}]}",
            "C",
            ["be in the group g-x", "have the claim team with blue"],
        ),
        ("allow: {and: [{groups: g-x}, {groups: g-y}, {groups: g-z}]}", "C", None),
        ("allow: {or: [{email: x@y.z}, {groups: g-x}]}", "C", ["be in the group g-x"]),
        ("allow: {and: [{authenticated_user: 1}, {groups: {exclude: g-eng}}]}", "C", ["not be in the group g-eng"]),
        ("[{allow: {and: [{accept: 1}]}}, {deny: {or: [{groups: g-eng}]}}]", "C", ["not be in the group g-eng"]),
        (
            "[{allow: {and: [{accept: 1}]}}, {deny: {or: [{claim/groups: ops}]}}]",
            "A",
            ["not have the claim groups with ops"],
        ),
        ("allow: {and: [{claim/groups: {is: ops}}]}", "A", ["have the claim groups with nothing but ops"]),
        ("allow: {and: [{domain: y.z}]}", "B", ["have an e-mail address in y.z"]),
        ("allow: {and: [{email: {ends_with: '@y.z'}}]}", "B", ["have an e-mail address in y.z"]),
        ("allow: {and: [{email: {in: [a@y.z, b@y.z]}}]}", "B", ["have the e-mail address a@y.z"]),
        ("allow: {and: [{user: {starts_with: adm}}]}", "B", ["be the user adm"]),
        ("allow: {and: [{authenticated_user: 1}]}", "anon", ["sign in"]),
        ("allow: {and: [{groups: g-x}]}", "anon", ["sign in", "be in the group g-x"]),
        ("allow: {and: [{http_method: PUT}]}", "A", None),
        ("[]", "A", None),
        ("allow: {and: [{device: {approved: true}}]}", "A", None),
    ],
)
def test_the_smallest_change_is_found_in_the_policys_own_words(policy: str, who: str, change: list[str] | None) -> None:
    assert helps(route(policy), who) == change


def test_several_policies_may_each_let_in() -> None:
    assert helps(route("allow: {and: [{email: x@y.z}]}", "allow: {and: [{groups: g-x}]}"), "B") == [
        "be in the group g-x"
    ]


def test_a_closed_route_is_explained_as_such() -> None:
    found = explain(route("allow: {and: [{emial: x}]}", public=True), facts_of("A", {}))

    assert (found.closed, found.change, found.policies) == ("policy-invalid", None, ())
    assert found.to_json()["decision"] == "deny"


def test_a_strangers_login_is_explained() -> None:
    found = explain(route("allow: {and: [{email: {not: x@y.z}}]}"), facts_of("anon", {}))

    assert (found.outcome.decision, found.unproven, [str(each) for each in found.change or ()]) == (
        "login",
        True,
        ["sign in"],
    )


def test_everything_that_criteria_read_can_be_shown_as_json() -> None:
    policy = (
        "allow: {or: [{client_certificate: {}}, {invalid_client_certificate: 1}, {cors_preflight: 1}, {mcp_tool: x},"
        " {device: {type: any}}, {day_of_week: mon}, {ssh_username_matches_email: 1}, {ssh_username_matches_claim: x},"
        " {groups: x}, {claim/level: 3}, {accept: 1}, {ssh_username: x}]}"
    )

    assert json.dumps(explain(route(policy), facts_of("V", {"certificate": "valid"})).to_json())


def test_a_large_policy_is_searched_in_bounded_time() -> None:
    many = [{"allow": {"and": [{"groups": f"g{i}"}, {"claim/c": f"v{i}"}, {"user": f"u{i}"}]}} for i in range(100)]

    assert helps(route(json.dumps(many)), "A") is None

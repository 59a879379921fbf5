"""Rego: what is evaluated, and that everything else denies."""

import builtins
from collections.abc import Mapping, Sequence

import pytest

from pomerium_agent.policy import Kind, RouteRules, SubPolicy, build_route_policy, evaluate, outcome
from pomerium_agent.policy.facts import Facts, Request
from pomerium_agent.policy.rego import RegoPolicy, canonical, compile_rego
from tests.fakes.people import facts_of

V1 = "package pomerium.policy\nimport rego.v1\n"
SESSION = 'get_databroker_record("type.googleapis.com/session.Session", input.session.id)'
USER = 'get_databroker_record("type.googleapis.com/user.User", input.session.user_id)'
DIRECTORY = 'get_databroker_record("pomerium.io/DirectoryUser", input.session.user_id)'


def policy(script: str) -> RegoPolicy:
    prepared = compile_rego(script, source="p")
    assert prepared.policy is not None, prepared.complaints
    return prepared.policy


def refusal(script: str) -> str:
    prepared = compile_rego(script, source="p")
    assert prepared.policy is None
    return prepared.complaints[0].reason


EMAIL = (
    V1
    + f"""
default allow := [false, set()]
allow := [true, {{"email-ok"}}] if email == "alice@example.com"
else := [false, {{"email-unauthorized"}}] if session.id
else := [false, {{"user-unauthenticated"}}] if true

default deny := false

session := s if {{ s := {SESSION}; s != null }} else := {{}} if true
user := u if {{ u := {USER}; u != null }} else := {{}} if true
email := object.get(user, "email", "") if true
"""
)


@pytest.mark.parametrize(
    ("who", "value", "reason"),
    [("A", True, "email-ok"), ("B", False, "email-unauthorized"), ("anon", False, "user-unauthenticated")],
)
def test_a_script_in_the_shape_that_is_generated_decides(who: str, value: bool, reason: str) -> None:
    """Policy 11.1."""
    answer = policy(EMAIL).evaluate(facts_of(who, {}))

    assert (answer.allow.value, answer.allow.reasons) == (value, frozenset({reason}))
    assert answer.deny.value is False


@pytest.mark.parametrize(
    ("result", "value", "reasons", "data"),
    [
        ("true", True, [], {}),
        ("false", False, [], {}),
        ("[true]", True, [], {}),
        ('[true, {"a", "b"}]', True, ["a", "b"], {}),
        ('[true, ["a"], {"k": "v"}]', True, ["a"], {"k": "v"}),
        ('[true, "a"]', True, [], {}),
        ('[false, {"a"}]', False, ["a"], {}),
        ("{true}", False, [], {}),
        ('"yes"', False, [], {}),
        ("[1]", False, [], {}),
        ("[]", False, [], {}),
        ("null", False, [], {}),
    ],
)
def test_a_result_has_one_of_a_few_forms(
    result: str, value: bool, reasons: Sequence[str], data: Mapping[str, str]
) -> None:
    """Policy 11.1."""
    answer = policy(f"{V1}allow := {result}").evaluate(facts_of("A", {}))

    assert answer.allow == (value, frozenset(reasons), data)


@pytest.mark.parametrize(
    "script",
    [
        'allow { input.http.method == "GET" }',
        'package pomerium.policy\nallow = true { input.http.path == "/" }',
        V1 + 'allow if { some m in ["GET", "HEAD"]; m == input.http.method }',
        V1 + 'allow if input.http.headers["X-Team"] == "a"',
        V1 + 'allow if startswith(input.http.ip, "192.0.2.")',
        V1 + 'allow if input.http.hostname == "a.example.com"\n# data.secret is only mentioned',
        V1 + f'allow if {{ d := {DIRECTORY}; "g-eng" in d.group_ids }}',
        V1 + f'allow if {{ s := {SESSION}; count(s.claims) == 0 }} else := true if {{ input.session.id == "sC" }}',
        V1 + 'f(x) := y if { y := upper(x) }\nallow if f("a") == "A"',
    ],
)
def test_the_small_part_of_the_language_is_evaluated(script: str) -> None:
    who = facts_of("C", {})
    request = Request(headers={"x-team": "a"}, host="a.example.com:443", ip=who.request.ip)

    assert policy(script).evaluate(Facts(request, who.identity, now=who.now)).allow.value is True


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ('deny if net.cidr_contains("10.0.0.0/8", input.http.ip)', "net.cidr_contains"),
        ('deny if http.send({"url": "http://x"})', "http"),
        ("deny if no_such_function(1)", "no_such_function"),
        ("deny if no_such_variable", "no_such_variable"),
        ("deny if not no_such_variable", "no_such_variable"),
        ("deny if data.signing_key", "data"),
        ("deny if input.http.body", "input.http.body"),
        ("deny if input.http.client_certificate.leaf", "input.http.client_certificate.leaf"),
        ("deny if input.mcp.tool_call.name", "input.mcp.tool_call.name"),
        ('deny if input["http"].method == "GET"', "input."),
        ("deny if { x := input; x.http }", "input."),
        ("deny if walk(input.http.headers)", "walk"),
        ("deny if time.now_ns() > 0", "time"),
        ('deny if regex.match("a", "a")', "regex.match"),
        ('deny if get_databroker_record("x.example/Other", "id")', "get_databroker_record"),
        ("deny if get_databroker_record(input.session.id, input.session.id)", "get_databroker_record"),
        ('deny if deny with input as {"a": 1}', "with"),
        ("import data.x\ndeny := true", "may be imported"),
        ("import input.http as http\ndeny := true", "may be imported"),
        ("package other\ndeny := true", "must be pomerium.policy"),
        ("deny if deny", "uses itself"),
        ("f(x) := g(x)\ng(x) := f(x)\ndeny if f(1)", "uses itself"),
        ("startswith(a, b) := true\ndeny := true", "is taken"),
        ("get_databroker_record(a, b) := {}\ndeny := true", "is taken"),
        ("input := 1", "begins no rule"),
        ("deny if { input := 1 }", "cannot be a variable"),
        ("deny if { object := {} }", "cannot be a variable"),
        ("deny if (", "not closed"),
        ("deny if )", "do not match"),
        ("deny if " + "[" * 100 + "]" * 100, "too deep"),
        ("deny := true # " + "x" * 70_000, "longer than"),
        ("deny if \x00", "not understood"),
        ('deny if "unclosed', "not understood"),
        ("deny if { x = 1 }", "x is not evaluated"),
    ],
)
def test_what_is_beyond_the_limits_is_refused_by_name(script: str, what: str) -> None:
    """P-25, P-26: the engine would call it undefined, and the deny would never fire."""
    assert what in refusal(script)
    assert what in refusal(V1 + script) or script.startswith(("import", "package"))


@pytest.mark.parametrize("script", ["", "deny if {}", "deny if { 1 }}", "deny if := 2", "allow := [", "deny if {\n\n"])
def test_what_cannot_be_read_is_refused_or_allows_nobody(script: str) -> None:
    prepared = compile_rego(V1 + script, source="p")

    if prepared.policy is not None:
        assert prepared.policy.evaluate(facts_of("A", {})).allow.value is False


def test_a_deny_without_a_value_denies() -> None:
    """P-26: it may be an error that the engine calls undefined."""
    script = V1 + 'allow := true\ndeny if input.http.method == "DELETE"'
    prepared = compile_rego(script, source="p")
    assert prepared.policy is not None

    answer = prepared.policy.evaluate(facts_of("A", {}))

    assert (answer.deny.value, answer.deny.reasons) == (True, frozenset({"policy-unsupported"}))
    assert [each.remedy for each in prepared.complaints] == ["add: default deny := false"]


def test_an_error_while_deciding_denies() -> None:
    script = V1 + "default deny := false\nallow := 1 if input.http.path\nallow := 2 if input.http.path\n"

    answer = policy(script).evaluate(facts_of("A", {}))

    assert (answer.allow.value, answer.deny.value) == (False, True)


def test_the_default_of_a_missing_record_is_not_taken() -> None:
    """OPA calls `object.get(null, …)` undefined: a directory that is not there excludes nobody (P-15)."""
    script = V1 + f'allow if {{ d := {DIRECTORY}; not "g-x" in object.get(d, "group_ids", []) }}'

    assert policy(script).evaluate(facts_of("C", {})).allow.value is True
    assert (
        policy(script.replace("not ", "count(").replace('"g-x" in ', "").replace("[]) }", "[])) == 0 }"))
        .evaluate(facts_of("A", {}))
        .allow.value
        is False
    )


def test_a_stranger_is_let_in_only_by_a_script_that_does_not_look_at_people() -> None:
    """D1."""
    public = RouteRules(sub_policies=(SubPolicy(rego=(V1 + 'allow if input.http.method == "GET"',)),))
    loose = RouteRules(sub_policies=(SubPolicy(rego=(V1 + 'allow if input.session.id == ""',)),))
    stranger = facts_of("anon", {})

    outcomes = [outcome(evaluate(build_route_policy(each, source="r")[0], stranger)).kind for each in (public, loose)]

    assert outcomes == [Kind.ALLOWED, Kind.LOGIN]


def test_a_script_says_what_it_reads() -> None:
    assert policy(V1 + 'allow if { input.http.path == "/"; input.session.id }').reads == {"path", "identity"}
    assert policy(EMAIL).personal


@pytest.mark.parametrize("who", ["A", "C", "V", "W", "svc", "anon"])
def test_records_are_shown_as_the_reference_has_them(who: str) -> None:
    """Policy 11.1: snake case, nothing empty, and the credential's odd shape."""
    device = (
        V1
        + f'allow if {{ s := {SESSION}; c := s.device_credentials[_]; c.type_id == "any"; '
        + 'd := get_databroker_record("type.googleapis.com/pomerium.device.Credential", c.Credential.Id); '
        + 'e := get_databroker_record("type.googleapis.com/pomerium.device.Enrollment", d.enrollment_id); '
        + "e.approved_by }"
    )
    account = 'get_databroker_record("type.googleapis.com/user.ServiceAccount", input.session.id)'

    assert policy(device).evaluate(facts_of(who, {})).allow.value is (who == "W")
    assert policy(V1 + f'allow if {account}.user_id == "svc-ci"').evaluate(facts_of(who, {})).allow.value is (
        who == "svc"
    )


def test_without_the_engine_such_a_policy_closes_its_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """R6."""
    really = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "regopy":
            raise ImportError(name)
        return really(name, *rest)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(builtins, "__import__", without)

    assert refusal(V1 + "allow := true") == "Rego cannot be evaluated without regopy"


def test_a_header_is_named_as_go_names_it() -> None:
    assert canonical("x-forwarded-for") == "X-Forwarded-For"

"""Policy text to documents: the grammar, and complaints that can be acted upon."""

import json
import re

import pytest

from pomerium_agent.policy import Complaint, compile_policy, parse_policy

WRONG = """\
# who may see the wiki
- allow:
    and:
      - emial: ada@example.com
      - email: {startswith: ada}
    xor: []
- permit:
    and: []
- allow:
    or:
      - domain
      - {domain: a.example, email: b@c.d}
"""


def said(text: object) -> list[tuple[int, str]]:
    return [(each.line, each.path) for each in parse_policy(text, source="wiki.yaml")[1]]


def test_every_mistake_of_form_is_named_at_once_with_its_line() -> None:
    """P-1."""
    assert said(WRONG) == [
        (6, "[0].allow.xor"),
        (7, "[1].permit"),
        (11, "[2].allow.or[0]"),
        (12, "[2].allow.or[1]"),
    ]


def test_every_criterion_that_cannot_be_prepared_is_named_at_once() -> None:
    """P-13, policy 9."""
    document, _ = parse_policy(WRONG.split("    xor")[0], source="wiki.yaml")
    assert document is not None

    policy, complaints, _ = compile_policy(document)

    assert policy is None
    assert [str(each) for each in complaints] == [
        'wiki.yaml:4: [0].allow.and[0].emial: there is no criterion "emial"; did you mean email?',
        'wiki.yaml:5: [0].allow.and[1].email.startswith: there is no operator "startswith" here; '
        "did you mean starts_with?",
    ]


@pytest.mark.parametrize("empty", ["{}", "[]", "[{}]", "allow: {}", "allow: {and: []}", "allow: {action: allow}"])
def test_an_empty_policy_is_valid_and_allows_nobody(empty: str) -> None:
    """P-7, policy 2."""
    document, complaints = parse_policy(empty, source="p")

    assert complaints == ()
    assert document is not None
    policy = compile_policy(document).policy
    assert policy is not None
    assert (policy.allow, policy.deny) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "null",
        "true",
        "allow",
        "7",
        "[null]",
        "[[]]",
        "allow: null",
        "allow: true",
        "Allow: {}",
        "allow: {and: null}",
        "allow: {and: [null]}",
        "allow: {and: [{}]}",
        "allow: {AND: []}",
        "{} {}",
        '[{"allow": {}}] trailing',
        '{"allow": {}, "allow": {}}',
        "allow: {and: [{user: a, user: b}]}",
        "allow: {and: [{1: a}]}",
        "allow: {and: [{claim/x: .nan}]}",
        "allow: {and: [{claim/x: 1e999}]}",
        b"allow: {and: [{user: \xff}]}",
        {"allow": {"and": [{"user": float("nan")}]}},
        {1: {}},
        {"allow": {"and": [{"user": object()}]}},
        None,
        3,
    ],
    ids=lambda value: re.sub(r" at 0x[0-9a-f]+", "", repr(value)),
)
def test_what_is_no_policy_is_refused(text: object) -> None:
    """P-1, policy 2 and 2.1."""
    document, complaints = parse_policy(text, source="p")

    assert document is None
    assert complaints
    assert all(each.reason and each.remedy for each in complaints)


def test_a_criterion_is_split_at_its_first_slash() -> None:
    """P-1."""
    document, _ = parse_policy("allow: {and: [{claim/x.io/role: admin}, {accept/what/ever: 1}]}", source="p")

    assert document is not None
    (block,) = document.rules[0].blocks
    assert [(term.name, term.sub) for term in block.terms] == [("claim", "x.io/role"), ("accept", "what/ever")]


def test_the_canonical_form_has_one_action_each_and_operators_in_order() -> None:
    document, _ = parse_policy(
        "{deny: {nor: [], and: [{accept: 1}]}, allow: {action: x, not: [{user: a}], or: [{user: b}]}}", source="p"
    )

    assert document is not None
    assert [json.dumps(rule) for rule in document.canonical()] == [
        '{"deny": {"and": [{"accept": 1}], "nor": []}}',
        '{"allow": {"or": [{"user": "b"}], "not": [{"user": "a"}]}}',
    ]


def test_a_decoded_value_reads_as_its_text() -> None:
    value = {"allow": {"and": [{"email": {"in": ["a@b.c"]}}, {"claim/level": 3}]}}

    decoded, _ = parse_policy(value, source="p")
    text, _ = parse_policy(json.dumps(value), source="p")

    assert decoded is not None
    assert decoded == text


def test_json_that_yaml_cannot_read_is_read() -> None:
    """A pair of surrogates, as JSON escapes what lies beyond the first plane."""
    document, complaints = parse_policy('{"allow":\t{"and": [{"user": "\\ud83d\\ude00"}]}}', source="p")

    assert complaints == ()
    assert document is not None
    assert document.canonical() == [{"allow": {"and": [{"user": "\N{GRINNING FACE}"}]}}]


def test_a_mistake_in_json_has_its_line() -> None:
    assert said('{\n  "allow": {\n    "and": [\n      {"user": 1, "email": 2}\n    ]\n  }\n}') == [(4, "allow.and[0]")]


def test_a_policy_that_is_too_long_is_refused() -> None:
    assert [each.reason for each in parse_policy("[" + " " * 5_000_000 + "]", source="p")[1]] == [
        "the policy is longer than 4194304 characters"
    ]


def test_a_million_mistakes_make_a_message_that_can_be_read() -> None:
    assert len(said("[" + "1," * 100_000 + "]")) == 200


def test_a_message_holds_no_control_characters() -> None:
    (complaint,) = parse_policy('{"a\\u001b[31m\\n": {}}', source="p")[1]

    assert str(complaint).isprintable()


def test_a_complaint_reads_like_a_compilers() -> None:
    complaint = Complaint(3, "allow.and[0].email", "this is wrong", "do that", "wiki.yaml")

    assert str(complaint) == "wiki.yaml:3: allow.and[0].email: this is wrong; do that"
    assert complaint.to_json()["line"] == 3

"""Every row of the example tables (P-30, policy 14, 14.1, 14.2), by both dialects."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    outcome,
    parse_policy,
)
from tests.fakes.people import FP, facts_of

EXAMPLES = yaml.safe_load((Path(__file__).parent / "examples.yaml").read_text())
ROWS, ROUTES, REFUSED = EXAMPLES["rows"], EXAMPLES["routes"], EXAMPLES["refused"]
GUARD_ALONE = replace(Dialect.REFERENCE, guard_strangers=True)  # D1 without D3
OUTCOMES = {
    "allow": (Kind.ALLOWED, 200),
    "login": (Kind.LOGIN, 302),
    "device": (Kind.ENROLL, 302),
    "403": (Kind.DENIED, 403),
    "450": (Kind.DENIED, 450),
    "495": (Kind.CERTIFICATE, 495),
    "mcp-error": (Kind.DENIED, 403),  # authorize makes a JSON-RPC answer of it
}
Row = Mapping[str, Any]


def route_of(row: Row, dialect: Dialect) -> RoutePolicy:
    rules = RouteRules(policies=(row["policy"].replace("FP", FP),))
    route, complaints = build_route_policy(rules, source="example", dialect=dialect)
    assert route.closed or not [each for each in complaints if not each.warning]
    return route


def check(row: Row, route: RoutePolicy, expected: str) -> None:
    verdict = evaluate(route, facts_of(row["who"], row["request"]))

    for name, result in (("allow", verdict.allow), ("deny", verdict.deny)):
        if row[name] is not None:
            assert result[:2] == Result(row[name][0], frozenset(row[name][1]))[:2], name
    found = outcome(verdict)
    assert (found.kind, found.status) == OUTCOMES[expected]


def test_every_row_is_here() -> None:
    """P-30."""
    assert [row["n"] for row in ROWS] == list(range(1, 111))
    assert [row["n"] for row in ROUTES + EXAMPLES["internal"]] == [f"L{n}" for n in range(1, 23)]
    assert len(REFUSED) == 17


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["n"]))
def test_the_reference_dialect_decides_as_the_reference(row: Row) -> None:
    """P-3, P-5, P-6, P-7, P-29."""
    check(row, route_of(row, Dialect.REFERENCE), row["outcome"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["n"]))
def test_the_guard_changes_only_what_it_should(row: Row) -> None:
    """D1: rows 22, 23, 25, 45, 90 and 91 become a login, and no other outcome changes (P-30)."""
    check(row, route_of(row, GUARD_ALONE), row.get("safe", row["outcome"]))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["n"]))
def test_the_safe_dialect_refuses_or_decides_with_the_guard(row: Row) -> None:
    """D1 and D3."""
    route = route_of(row, Dialect.SAFE)
    if row.get("strict") == "refused":
        assert route.closed == "policy-invalid"
        return

    check(row, route, row.get("safe", row["outcome"]))


@pytest.mark.parametrize("dialect", [Dialect.SAFE, Dialect.REFERENCE], ids=["safe", "reference"])
@pytest.mark.parametrize("row", ROUTES, ids=lambda row: str(row["n"]))
def test_fields_and_several_policies_combine(row: Row, dialect: Dialect) -> None:
    """P-4, P-20, P-23, P-25; policy 14.1."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row["fields"].items()
    }
    subs = tuple(SubPolicy(**each | {"rego": tuple(each.get("rego", ()))}) for each in fields.pop("sub_policies", ()))
    route, _ = build_route_policy(RouteRules(**fields, sub_policies=subs), source="example", dialect=dialect)

    check(row, route, row["outcome"])


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: str(row["policy"]))
def test_a_document_that_must_fail_fails_where_it_should(row: Row) -> None:
    """P-1, P-13, P-27; policy 14.2."""
    document, complaints = parse_policy(row["policy"], source="example")

    if row["level"] == "grammar":
        assert document is None
    else:
        assert document is not None
        policy, complaints, _ = compile_policy(document)
        assert policy is None
    assert all(each.line == 1 and each.path and each.remedy for each in complaints if not each.warning)
    assert [each for each in complaints if not each.warning]

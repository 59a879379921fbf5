"""Reading filters (databroker 6, D-21)."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.databroker.filters import (
    EQUALS,
    MAX_DEPTH,
    UNSUPPORTED,
    And,
    Equals,
    Expression,
    Not,
    Or,
    as_text,
    parse_filter,
)
from pomerium_agent.errors import InvalidRequest, Unsupported


def eq(path: str, value: str) -> Equals:
    return Equals(tuple(path.split(".")), value)


@pytest.mark.parametrize(
    ("filter", "expression"),
    [
        (None, None),
        ({}, None),
        ({"id": "a"}, eq("id", "a")),
        ({"b": "2", "a": "1"}, And((eq("a", "1"), eq("b", "2")))),
        ({"a": {"b": {"c": 1}}}, eq("a.b.c", "1")),
        ({"a": ["1", "2"]}, Or((eq("a", "1"), eq("a", "2")))),
        ({"a": ["1"]}, eq("a", "1")),
        ({"a": []}, Or(())),
        ({"a": [{"b": 1}, {"c": 2}]}, Or((eq("a.b", "1"), eq("a.c", "2")))),
        ({"$or": [{"id": "x"}, {"$index": "x"}]}, Or((eq("id", "x"), eq("$index", "x")))),
        ({"$and": [{"a": 1}, {"b": 2}]}, And((eq("a", "1"), eq("b", "2")))),
        ({"a": {"$or": ["1", {"b": "2"}]}}, Or((eq("a", "1"), eq("a.b", "2")))),
        ({"$not": {"a": 1}}, Not(eq("a", "1"))),
        ({"$not": [{"a": 1}, {"b": 2}]}, Not(Or((eq("a", "1"), eq("b", "2"))))),
        ({"$or": []}, Or(())),
        ({"a": {"$eq": ["1", "2"]}}, Or((eq("a", "1"), eq("a", "2")))),
    ],
)
def test_a_filter_reads_as_its_expression(filter: Mapping[str, object] | None, expression: Expression | None) -> None:
    """D-21: sorted keys, a list is one of its items, an object goes deeper."""
    assert parse_filter(filter) == expression


@pytest.mark.parametrize("operator", sorted(EQUALS))
def test_every_word_for_equals_means_equals(operator: str) -> None:
    """D-21."""
    assert parse_filter({"a": {operator: "x"}}) == eq("a", "x")


@pytest.mark.parametrize("operator", sorted(UNSUPPORTED))
def test_an_operator_that_no_backend_looks_up_is_named(operator: str) -> None:
    """D-4."""
    with pytest.raises(Unsupported) as refusal:
        parse_filter({"a": {operator: "x"}})

    assert operator in str(refusal.value)
    assert "'a'" in str(refusal.value)


@pytest.mark.parametrize(
    ("filter", "reason"),
    [
        ({"$or": "a"}, r"\$or at the top needs a list"),
        ({"a": {"$and": {}}}, r"\$and at 'a' needs a list"),
        ({"$and": []}, "compares nothing"),
        ({"a": {}}, "'a' holds an empty object"),
        ({"$eq": "a"}, "field name is expected"),
        ({"a": b"bytes"}, "kind bytes"),
    ],
)
def test_a_filter_that_cannot_be_read_says_where_and_why(filter: Mapping[str, object], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        parse_filter(filter)


def test_a_filter_nested_without_end_is_refused() -> None:
    for wrap in (lambda inner: {"a": inner}, lambda inner: [inner], lambda inner: {"$not": inner}):
        filter: object = "x"
        for _ in range(MAX_DEPTH * 20):
            filter = wrap(filter)

        with pytest.raises(InvalidRequest, match="nested deeper"):
            parse_filter({"top": filter})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        ("Text", "Text"),
        (1, "1"),
        (1.0, "1"),
        (1.5, "1.5"),
        (-2.25, "-2.25"),
        (0.0, "0"),
        (-0.0, "-0"),
        (10.0, "10"),
        (999999.0, "999999"),
        (1e6, "1e+06"),
        (1234567.0, "1.234567e+06"),
        (123456.7, "123456.7"),
        (1e21, "1e+21"),
        (1e100, "1e+100"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (1.25e-7, "1.25e-07"),
        (float("nan"), "NaN"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
    ],
)
def test_values_are_compared_as_go_writes_them(value: object, text: str) -> None:
    """Databroker 6: booleans, null, and numbers in Go's shortest form."""
    assert as_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_as_text_reads_back_as_the_same_number(value: float) -> None:
    assert float(as_text(value)) == value

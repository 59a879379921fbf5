"""Claims: flattened, laid over each other, written into headers."""

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.sessions.claims import claim_headers, flatten, overlay, session_first, text


def test_nested_keys_are_joined_and_scalars_become_lists() -> None:
    """Policy 4.2."""
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "g": ["x", {"y": 1}], "e": {}}) == {
        "a.b": (1,),
        "a.c.d": (None,),
        "g": ("x", {"y": 1}),
    }


def test_flattening_does_not_mind_the_depth() -> None:
    deep: dict[str, Any] = {"leaf": 1}
    for _ in range(5000):
        deep = {"a": deep}

    assert list(flatten(deep).values()) == [(1,)]


def test_policies_see_the_users_claims_over_the_sessions_and_headers_the_other_way_round() -> None:
    """P-11, A-24."""
    session, user = {"a": ("s1", "s2"), "b": ("s",)}, {"a": ("u",), "c": ("u",)}

    assert dict(overlay(session, user)) == {"a": ("u",), "b": ("s",), "c": ("u",)}
    assert session_first("a", session, user) == ("s1", "s2")
    assert session_first("c", session, user) == ("u",)
    assert session_first("d", session, user) is None


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("x,y", "x,y"),
        (True, "true"),
        (False, "false"),
        (None, ""),
        (1754071824, "1754071824"),
        (1754071824.0, "1754071824"),
        (10**20, "1" + "0" * 20),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (("a", 1, ("b",)), "a,1,b"),
        ({"b": (1,), "a": MappingProxyType({"c": None})}, '{"a":{"c":null},"b":[1]}'),
        ((), ""),
    ],
)
def test_values_are_written_plainly(value: Any, written: str) -> None:
    """[D] of authorize 12: integers never as 1.754071824e+09."""
    assert text(value) == written


def test_a_header_whose_claim_is_absent_is_empty_so_that_a_forged_one_is_overwritten() -> None:
    """A-19."""
    payload = {"email": "u@x", "groups": ["a", "b"], "exp": 1754071824, "evil": "a\r\nx: y\0"}
    headers = {"X-E": "email", "X-G": "groups", "X-Exp": "exp", "X-None": "missing", "X-Evil": "evil"}

    assert claim_headers(payload, headers) == {
        "X-E": "u@x",
        "X-G": "a,b",
        "X-Exp": "1754071824",
        "X-None": "",
        "X-Evil": "a  x: y ",
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_every_value_can_be_written(value: Any) -> None:
    assert isinstance(text(value), str)

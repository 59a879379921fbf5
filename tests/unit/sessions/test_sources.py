"""Where handles and bearers are looked for, and in which order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.sessions.sources import Presented, Source, find_handles

Headers = list[tuple[str, str]]


def found(headers: Headers, query: str = "") -> Presented:
    return find_handles(headers, query, cookie_name="_pomerium")


def named(presented: Presented) -> list[tuple[str, str]]:
    return [(candidate.source.name, str(candidate.token)) for candidate in presented.candidates]


def test_every_source_is_found_in_the_order_of_the_specification() -> None:
    """A-5, N-28, authorize 4.1."""
    presented = found(
        [("authorization", "Bearer Pomerium-c"), ("x-pomerium-authorization", "b"), ("cookie", "_pomerium=a")],
        "x=1&pomerium_session=d",
    )

    assert named(presented) == [("COOKIE", "a"), ("HEADER", "b"), ("BEARER", "c"), ("QUERY", "d")]
    assert [source.name for source in Source] == ["COOKIE", "HEADER", "AUTHORIZATION", "BEARER", "QUERY"]


@pytest.mark.parametrize(
    ("value", "candidates", "in_headers", "bearer"),
    [
        ("Pomerium x", [("AUTHORIZATION", "x")], True, ""),
        ("pomerium x", [], False, ""),
        ("Pomerium ", [], False, ""),
        ("Bearer Pomerium-x", [("BEARER", "x")], True, "Pomerium-x"),
        ("bearer Pomerium-x", [], False, "Pomerium-x"),
        ("Bearer pomerium-x", [], False, "pomerium-x"),
        ("bEaReR  x", [], False, "x"),
        ("Bearer", [], False, ""),
        ("Basic x", [], False, ""),
    ],
)
def test_the_forms_of_authorization(
    value: str, candidates: list[tuple[str, str]], in_headers: bool, bearer: str
) -> None:
    """Authorize 4.1: our prefixes mind the case; 4.2: `Bearer ` does not."""
    presented = found([("authorization", value)])

    assert named(presented) == candidates
    assert (presented.in_headers, str(presented.bearer)) == (in_headers, bearer)


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (["_pomerium=x"], "x"),
        (["a=b; _pomerium=x; c=d"], "x"),
        (["a=b", "_pomerium=x"], "x"),
        (["_pomerium=x; _pomerium=y"], "x"),
        (["_pomerium=x", "_pomerium=y"], "x"),
        (['_pomerium="x"'], "x"),
        (["_pomerium=x==; b"], "x=="),
        (["a=b,c", "_pomerium=x"], "x"),
        (["my_pomerium=x"], None),
        (["_pomerium2=x"], None),
        (["_pomerium"], None),
        (["_pomerium=; _pomerium=y"], None),
        ([";;;="], None),
    ],
)
def test_the_first_cookie_of_the_name_counts_over_unjoined_lines(lines: list[str], value: str | None) -> None:
    """A-4: joined with commas, the third and the eighth would be lost."""
    presented = found([("cookie", line) for line in lines])

    assert [token for _, token in named(presented)] == ([] if value is None else [value])


def test_an_empty_cookie_is_a_cookie_and_no_candidate() -> None:
    """Authorize 3, step 3 asks whether the cookie is there."""
    presented = found([("cookie", "_pomerium=")])

    assert presented.cookie
    assert presented.candidates == ()


@pytest.mark.parametrize(
    ("query", "value", "present"),
    [
        ("pomerium_session=x", "x", True),
        ("a=1&pomerium_session=x&pomerium_session=y", "x", True),
        ("%70omerium_session=x%2Ey", "x.y", True),
        ("pomerium_session", None, True),
        ("pomerium_session=", None, True),
        ("pomerium_session=%zz", None, False),
        ("pomerium_session=%2", None, False),
        ("pomerium_session=x;y", None, False),
        ("xpomerium_session=x", None, False),
        ("", None, False),
    ],
)
def test_the_parameter_of_the_query(query: str, value: str | None, present: bool) -> None:
    presented = found([], query)

    assert [token for _, token in named(presented)] == ([] if value is None else [value])
    assert presented.in_query is present


def test_a_handle_in_headers_is_noticed_even_if_it_is_no_handle() -> None:
    """Authorize 9: be it invalid, there is no browser to redirect. A cookie is not meant."""
    assert found([("x-pomerium-authorization", "garbage")]).in_headers
    assert not found([("cookie", "_pomerium=garbage")]).in_headers


def test_tokens_do_not_show_themselves() -> None:
    presented = found([("cookie", "_pomerium=tell-nobody"), ("authorization", "Bearer tell-nobody")])

    assert "tell-nobody" not in repr(presented)


@given(
    st.lists(st.tuples(st.sampled_from(["cookie", "authorization", "x-pomerium-authorization"]), st.text())), st.text()
)
def test_nothing_makes_it_raise(headers: Headers, query: str) -> None:
    found(headers, query)
    found([("cookie", f"_pomerium{query}")], f"pomerium_session={query}")

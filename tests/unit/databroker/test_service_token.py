"""The token between services: made as Pomerium makes it, and believed only when it is exactly that (databroker 2)."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.databroker.service.token import InvalidToken, check_token, make_token, sign

KEY = bytes(range(32))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EXPIRES = 2_000_000_000
VECTOR = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjIwMDAwMDAwMDB9.U2sGEIvK0qKl_oMd0FOgDlOJIGsHijptujB6ZKz-zrc"


def token(claims: Any, *, header: Any = None, key: bytes = KEY, digest: str = "sha256") -> str:
    """A token as somebody else would make it."""

    def part(value: Any) -> str:
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(text).rstrip(b"=").decode()

    signed = f"{part({'alg': 'HS256', 'typ': 'JWT'} if header is None else header)}.{part(claims)}"
    return f"{signed}.{part(hmac.digest(key, signed.encode(), digest))}"


def test_the_vector_of_the_specification_is_made_and_believed() -> None:
    """D-2."""
    assert sign(KEY, EXPIRES) == VECTOR
    check_token(KEY, VECTOR, NOW)


def test_a_token_is_good_for_an_hour_and_not_a_second_longer() -> None:
    """D-2, D-3: without leeway."""
    made = make_token(KEY, NOW)

    check_token(KEY, made, NOW + timedelta(hours=1))
    with pytest.raises(InvalidToken, match="expired"):
        check_token(KEY, made, NOW + timedelta(hours=1, seconds=1))


@pytest.mark.parametrize(("name", "digest"), [("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")])
def test_the_three_sizes_of_hmac_are_known(name: str, digest: str) -> None:
    """D-2."""
    check_token(KEY, token({"exp": EXPIRES}, header={"alg": name}, digest=digest), NOW)


@pytest.mark.parametrize(
    "wrong",
    [
        token({"exp": EXPIRES}, key=bytes(32)),
        token({"exp": EXPIRES, "sub": "ada"}),
        token({}),
        token({"exp": str(EXPIRES)}),
        token({"exp": True}),
        token({"exp": None}),
        token(b'{"exp": NaN}'),
        token(b'{"exp": Infinity}'),
        token({"exp": -(10**400)}),
        token([EXPIRES]),
        token(b"{"),
        token({"exp": EXPIRES}, header={"alg": "none"}),
        token({"exp": EXPIRES}, header={"alg": ["HS256"]}),
        token({"exp": EXPIRES}, header={"alg": "HS256", "crit": ["b64"], "b64": False}),
        token({"exp": EXPIRES}, header={"alg": "HS512"}),
        token({"exp": EXPIRES}, header=[]),
        token(b"[" * 3000),
        VECTOR.rpartition(".")[0] + ".",
        VECTOR.rpartition(".")[0],
        VECTOR + "=",
        VECTOR + "." + VECTOR,
        VECTOR[:-1],
        VECTOR.replace("_", "/"),
        " " + VECTOR,
        "",
        "..",
        "é.é.é",
        "a" * 5000,
    ],
)
def test_anything_else_is_not_believed_and_not_quoted(wrong: str) -> None:
    """D-2."""
    with pytest.raises(InvalidToken) as refused:
        check_token(KEY, wrong, NOW)

    assert not wrong or len(wrong) < 3 or wrong not in str(refused.value)


@given(st.text(max_size=200) | st.text("abcXYZ019-_.", max_size=50).map(lambda text: f"{text}.{VECTOR}"))
def test_no_text_of_a_stranger_is_a_token(text: str) -> None:
    with pytest.raises(InvalidToken):
        check_token(KEY, text, NOW)

"""The session handle: what is accepted, what is not, and what a stranger can do to the one who reads it."""

import base64
import hmac
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey

from pomerium_agent.sessions.handle import MAX_TOKEN, Handle, HandleReader, parse_handle, sign_handle

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
HANDLE = Handle(
    id="s1",
    user_id="u1",
    idp_id="idp",
    databroker_server_version=2**64 - 1,
    databroker_record_version=7,
    issuer="authenticate.example.com",
    audience=("a", "b"),
    issued_at=1_900_000_000,
)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims: Any, header: Any = None, key: bytes = KEY, digest: str = "sha256") -> str:
    text = f"{b64(json.dumps(header or {'alg': 'HS256'}).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{text}.{b64(hmac.digest(key, text.encode(), digest))}"


def test_what_was_signed_is_read_again() -> None:
    """A-5."""
    assert parse_handle(sign_handle(HANDLE, KEY), [KEY]) == HANDLE


def test_an_independent_library_reads_what_we_sign_and_we_read_what_it_signs() -> None:
    """A-5, authenticate 3.8."""
    key = OctKey.import_key(KEY)

    ours = jwt.decode(sign_handle(HANDLE, KEY), key, algorithms=["HS256"])
    theirs = jwt.encode({"alg": "HS256", "typ": "JWT"}, ours.claims, key)

    assert ours.header == {"alg": "HS256", "typ": "JWT"}
    assert ours.claims == {
        "jti": "s1",
        "sub": "u1",
        "idp_id": "idp",
        "databroker_server_version": 2**64 - 1,
        "databroker_record_version": 7,
        "iss": "authenticate.example.com",
        "aud": ["a", "b"],
        "iat": 1_900_000_000,
    }
    assert parse_handle(theirs, [KEY]) == HANDLE


def test_the_same_handle_gives_the_same_text_and_empty_fields_are_left_out() -> None:
    token = sign_handle(Handle(id="s1"), KEY)

    assert token == sign_handle(Handle(id="s1"), KEY)
    assert base64.urlsafe_b64decode(token.split(".")[1] + "==") == b'{"jti":"s1"}'


def test_a_handle_without_a_name_and_a_key_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="must name a session"):
        sign_handle(Handle(id=""), KEY)
    with pytest.raises(ValueError, match="must have 32"):
        sign_handle(HANDLE, KEY[:31])


@pytest.mark.parametrize(
    ("claims", "user_id"),
    [
        ({"sub": "s"}, "s"),
        ({"sub": "s", "oid": "o"}, "o"),
        ({"oid": "o"}, "o"),
        ({"sub": "s", "oid": ""}, "s"),
        ({}, ""),
    ],
)
def test_oid_overrides_sub(claims: dict[str, str], user_id: str) -> None:
    """Authorize 4.1."""
    handle = parse_handle(signed({"jti": "s1", **claims}), [KEY])

    assert handle is not None
    assert handle.user_id == user_id


def test_a_service_accounts_token_is_a_handle_whatever_its_times_say() -> None:
    """N-27: `exp` and `nbf` are not looked at; the record decides."""
    token = signed({"jti": "sa", "sub": "u", "iat": 1.5, "nbf": 9**12, "exp": 1})

    assert parse_handle(token, [KEY]) == Handle(id="sa", user_id="u", issued_at=1)


def test_any_of_several_keys_will_do() -> None:
    token = sign_handle(HANDLE, KEY)

    assert parse_handle(token, [OTHER, KEY]) == parse_handle(token, [KEY, OTHER]) == HANDLE
    assert parse_handle(token, [OTHER]) is None
    assert parse_handle(token, []) is None


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "hs256"},
        {"alg": "HS384"},
        {"alg": "HS512"},
        {"alg": "RS256"},
        {"alg": ["HS256"]},
        {"typ": "JWT"},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        ["HS256"],
        "HS256",
    ],
)
def test_every_other_algorithm_is_rejected_even_under_a_good_signature(header: Any) -> None:
    """A-5."""
    assert parse_handle(signed({"jti": "s1"}, header), [KEY]) is None


@pytest.mark.parametrize("digest", ["sha1", "sha384", "sha512"])
def test_a_signature_by_another_hash_is_wrong(digest: str) -> None:
    """A-5."""
    assert parse_handle(signed({"jti": "s1"}, {"alg": "HS256"}, digest=digest), [KEY]) is None


def test_no_part_of_a_token_can_be_changed() -> None:
    token = sign_handle(HANDLE, KEY)

    for place in range(len(token) - 1):  # the last character has bits that say nothing
        changed = "A" if token[place] != "A" else "B"
        assert parse_handle(token[:place] + changed + token[place + 1 :], [KEY]) is None


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"jti": ""},
        {"jti": 7},
        {"jti": None},
        {"jti": "\ud800"},
        {"jti": "s", "sub": 1},
        {"jti": "s", "oid": ["x"]},
        {"jti": "s", "idp_id": {"a": 1}},
        {"jti": "s", "databroker_record_version": "7"},
        {"jti": "s", "databroker_record_version": -1},
        {"jti": "s", "databroker_record_version": 1.5},
        {"jti": "s", "databroker_record_version": True},
        {"jti": "s", "databroker_server_version": 2**64},
        ["s"],
        "s",
        None,
    ],
)
def test_claims_of_the_wrong_kind_make_no_handle(claims: Any) -> None:
    assert parse_handle(signed(claims), [KEY]) is None


@pytest.mark.parametrize("claims", [{"iss": 1}, {"aud": 5}, {"aud": [1]}, {"iat": "x"}, {"iat": 1e300}, {"iat": True}])
def test_what_only_informs_may_be_wrong(claims: dict[str, Any]) -> None:
    """Authorize 4.1: `iss`, `aud` and `iat` are not checked."""
    assert parse_handle(signed({"jti": "s", **claims}), [KEY]) == Handle(id="s")


def test_one_audience_may_be_written_alone() -> None:
    handle = parse_handle(signed({"jti": "s", "aud": "a"}), [KEY])

    assert handle is not None
    assert handle.audience == ("a",)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c.d",
        "é.b.c",
        "\x00",
        "a" * MAX_TOKEN,
        "." * 70_000,
        "[" * 70_000,
        "=" * 65_536,
    ],
)
def test_malformed_tokens_are_no_handles(token: str) -> None:
    """A-5."""
    assert parse_handle(token, [KEY]) is None


def test_a_payload_that_nests_without_end_is_no_handle() -> None:
    header, payload = b'{"alg":"HS256"}', b"[" * 5000
    text = f"{b64(header)}.{b64(payload)}"

    assert parse_handle(f"{text}.{b64(hmac.digest(KEY, text.encode(), 'sha256'))}", [KEY]) is None


@given(st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_\-=.]{0,200}", fullmatch=True))
def test_no_text_makes_the_reader_raise(text: str) -> None:
    reader = HandleReader([KEY])

    assert parse_handle(text, [KEY]) is None
    assert reader.read(text) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
NAMES = st.sampled_from(["jti", "sub", "oid", "idp_id", "databroker_record_version", "iat", "aud", "iss"])


@given(st.dictionaries(NAMES, JSON), st.dictionaries(st.sampled_from(["alg", "typ", "crit"]), JSON))
def test_no_signed_payload_makes_the_reader_raise(claims: dict[str, Any], header: dict[str, Any]) -> None:
    handle = parse_handle(signed(claims, {"alg": "HS256", **header}), [KEY])

    if handle is not None:
        assert parse_handle(sign_handle(handle, KEY), [KEY]) == handle


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_signed_bytes_make_the_reader_raise(header: bytes, payload: bytes) -> None:
    text = f"{b64(header)}.{b64(payload)}"

    assert parse_handle(f"{text}.{b64(hmac.digest(KEY, text.encode(), 'sha256'))}", [KEY]) is None


@pytest.mark.parametrize("character", ["a", ".", "=", "[", "\\", "é", "-"])
def test_a_token_of_64_kib_costs_no_time(character: str) -> None:
    """Bounded time: it is not even hashed."""
    reader, token = HandleReader([KEY]), character * 65_536

    began = time.process_time()
    for _ in range(200):
        reader.read(token)

    assert time.process_time() - began < 5  # milliseconds, unless something grows with the square of the length


def test_the_reader_remembers_good_tokens_up_to_its_bound_and_no_bad_ones() -> None:
    reader = HandleReader([KEY], remembered=2)
    tokens = [sign_handle(Handle(id=f"s{number}"), KEY) for number in range(3)]

    for token in tokens:
        reader.read(token)
        reader.read(token + "A")
    first, again = reader.read(tokens[2]), reader.read(tokens[2])

    assert len(reader) == 2
    assert first is again
    assert reader.read(tokens[0]) == Handle(id="s0")


def test_the_reader_does_not_keep_the_token() -> None:
    reader = HandleReader([KEY])
    token = sign_handle(HANDLE, KEY)

    reader.read(token)

    assert token not in repr(vars(reader))

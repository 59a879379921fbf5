"""The assertion: what upstreams are told, and that others can verify it."""

import base64
import uuid
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from pomerium_agent.records import Record
from pomerium_agent.sessions.assertion import PLAIN, Assertion, Assertions, AssertionSettings
from pomerium_agent.sessions.identity import Resolved, resolve
from pomerium_agent.sessions.jwk import public_jwk
from pomerium_agent.sessions.signer import Signer, derive_signing_key, read_signer
from tests.fakes import session_records as people
from tests.fakes.session_records import NOW
from tests.unit.sessions.stage import Stage

SECRET = bytes(range(32))
DERIVED = Signer(derive_signing_key(SECRET))
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
HOST = "app.example.com"


async def resolved(*records: Record) -> Resolved | None:
    stage = Stage()
    await stage.put(*records)
    async with stage.sessions() as sessions:
        return resolve(sessions, "s", NOW)


async def assertion(*records: Record, settings: AssertionSettings = PLAIN) -> Assertion:
    return Assertions(DERIVED).make(await resolved(*records), HOST, settings, NOW)


def independent_key(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> ECKey | RSAKey:
    """What another library makes of the JWK that we publish."""
    jwk: dict[str, str | list[str]] = {**public_jwk(key)}
    return ECKey.import_key(jwk) if isinstance(key, ec.EllipticCurvePrivateKey) else RSAKey.import_key(jwk)


def test_the_default_key_is_derived_bit_by_bit() -> None:
    """A-22, N-1: the test vector of authorize 13, which is V-7."""
    d = derive_signing_key(SECRET).private_numbers().private_value

    assert f"{d:064x}" == "c43bdade52f1252bb20436d5fd9abbb8e6befe69f9386216a3f70cf90835dcac"
    assert DERIVED.kid == "dfdc30ede8204880a26e86348232fede98474153abe3975b99290fa48522c81b"
    assert (DERIVED.jwk["x"], DERIVED.jwk["y"]) == (
        "1uOUuU7VQuyIQZJTQQ85nB_uP8iBgYYDyiS8sUpYnH8",
        "GDkhzIWUOKSwHp2tisJy6FYSUc9tngjTFwNlBADz8JY",
    )


@pytest.mark.parametrize(("key", "alg"), [(ec.generate_private_key(ec.SECP256R1()), "ES256"), (RSA, "RS256")])
async def test_an_independent_library_verifies_it_from_the_public_key(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, alg: str
) -> None:
    """A-21, N-44."""
    made = Assertions(Signer(key)).make(await resolved(people.session("s", "u")), HOST, PLAIN, NOW)
    jwk = public_jwk(key)
    token = jwt.decode(made.jwt, independent_key(key), algorithms=[alg])

    assert token.header == {"alg": alg, "kid": jwk["kid"], "typ": "JWT"}
    assert token.claims == dict(made.payload)
    required = {name: value for name, value in jwk.items() if name in ("kty", "crv", "x", "y", "n", "e")}
    assert len(jwk["kid"]) == 64
    assert set(jwk) == {*required, "use", "kid", "alg"}


def test_the_key_id_is_the_hex_of_the_thumbprint() -> None:
    """A-21, RFC 7638."""
    for key in (derive_signing_key(SECRET), RSA):
        independent = independent_key(key).thumbprint()
        assert base64.urlsafe_b64decode(independent + "=").hex() == public_jwk(key)["kid"]


@pytest.mark.parametrize(
    "format", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8], ids=["traditional", "PKCS 8"]
)
def test_keys_are_read_in_every_usual_form(format: PrivateFormat) -> None:
    for key in (RSA, derive_signing_key(SECRET)):
        assert read_signer(key.private_bytes(Encoding.PEM, format, NoEncryption())).kid == public_jwk(key)["kid"]


def test_a_key_that_cannot_sign_is_named_and_not_shown() -> None:
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    with pytest.raises(ValueError, match="neither EC nor RSA"):
        read_signer(other)
    with pytest.raises(ValueError, match="not a PEM private key"):
        read_signer(b"secret")
    with pytest.raises(ValueError, match="ES256 needs P-256"):
        Signer(ec.generate_private_key(ec.SECP384R1()))
    assert repr(DERIVED) == f"Signer(kid={DERIVED.kid!r})"


async def test_the_claims_are_those_of_the_table() -> None:
    """A-21, A-24, A-25: authorize 13."""
    made = await assertion(
        people.session("s", "u", claims={"name": ["Session", "Name"], "dept": ["a", 1], "groups": ["ignored"]}),
        people.user("u", "u@x", claims={"name": ["User"], "dept": ["b"], "site": ["Berlin"]}),
        people.directory_user("u", email="d@x", group_ids=["g1", "g2", "g3"]),
        people.directory_group("g1", "One"),
        people.directory_group("g3", "Three"),
        settings=AssertionSettings(claims=("dept", "site", "absent", "email", "groups")),
    )
    payload = dict(made.payload)

    assert uuid.UUID(payload.pop("jti")).version == 4
    assert payload == {
        "iss": HOST,
        "aud": HOST,
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 300,
        "sub": "u",
        "user": "u",
        "email": "d@x",
        "groups": ["g1", "g2", "g3", "One", "Three"],
        "sid": "s",
        "name": "Session,Name",
        "dept": "a,1",
        "site": "Berlin",
    }
    assert all(type(payload[name]) is int for name in ("iat", "exp"))


async def test_the_issuer_may_be_a_uri() -> None:
    made = await assertion(people.session("s", "u"), settings=AssertionSettings(issuer_uri=True))

    assert (made.payload["iss"], made.payload["aud"]) == (f"https://{HOST}/", HOST)


@pytest.mark.parametrize(
    ("directory", "keep", "groups", "removed"),
    [
        (["g1", "g2"], {"g2", "x"}, ["g2", "Two"], 1),
        (["g1", "g2"], {"Two"}, [], 2),
        (["g1", "g2"], set(), ["g1", "g2", "Two"], 0),
        ([], {"g2"}, ["from", "session"], 0),
        (None, {"g2"}, ["from", "session"], 0),
    ],
)
async def test_the_filter_keeps_directory_ids_and_the_names_follow(
    directory: list[str] | None, keep: set[str], groups: list[str], removed: int
) -> None:
    """A-25: groups of the session are never filtered."""
    records = [people.session("s", "u", claims={"groups": ["from", "session"]}), people.directory_group("g2", "Two")]
    if directory is not None:
        records.append(people.directory_user("u", group_ids=directory))
    made = await assertion(*records, settings=AssertionSettings(groups_filter=frozenset(keep)))

    assert made.payload["groups"] == groups
    assert made.removed_groups == removed


async def test_a_stranger_has_every_claim_and_none_of_them_says_anything() -> None:
    """A-19."""
    payload = (await assertion()).payload

    assert {name: payload[name] for name in ("sub", "user", "email", "groups", "sid", "name")} == {
        "sub": "",
        "user": "",
        "email": "",
        "groups": [],
        "sid": "",
        "name": "",
    }


async def test_under_impersonation_only_sid_is_the_originals() -> None:
    """A-11."""
    payload = (await assertion(people.session("s", "admin", as_session="t"), people.session("t", "u"))).payload

    assert (payload["sid"], payload["sub"]) == ("s", "u")


async def test_an_assertion_is_used_again_for_half_of_its_life() -> None:
    assertions = Assertions(DERIVED)
    who = await resolved(people.session("s", "u"))

    first = assertions.make(who, HOST, PLAIN, NOW)

    assert assertions.make(who, HOST, PLAIN, NOW + timedelta(seconds=149)) is first
    later = assertions.make(who, HOST, PLAIN, NOW + timedelta(seconds=150))
    assert later.payload["iat"] == first.payload["iat"] + 150
    assert later.payload["jti"] != first.payload["jti"]
    assert assertions.make(who, HOST, PLAIN, NOW).payload["iat"] == first.payload["iat"]  # the clock went back


async def test_an_assertion_is_not_used_again_for_another_host_route_or_version_of_the_session() -> None:
    stage = Stage()
    assertions = Assertions(DERIVED)
    await stage.put(people.session("s", "u"))

    async with stage.sessions() as sessions:
        first = assertions.make(resolve(sessions, "s", NOW), HOST, PLAIN, NOW)
        other_host = assertions.make(resolve(sessions, "s", NOW), "other", PLAIN, NOW)
        other_settings = assertions.make(resolve(sessions, "s", NOW), HOST, AssertionSettings(claims=("x",)), NOW)
        await stage.put(people.user("u", "u@x"))
        changed = assertions.make(resolve(sessions, "s", NOW), HOST, PLAIN, NOW)

    assert len({first.jwt, other_host.jwt, other_settings.jwt, changed.jwt}) == 4
    assert changed.payload["email"] == "u@x"


async def test_the_reference_signs_each_time_and_so_can_we() -> None:
    """Authorize 13, caching: none."""
    assertions = Assertions(DERIVED, reused=timedelta(0))

    assert assertions.make(None, HOST, PLAIN, NOW).jwt != assertions.make(None, HOST, PLAIN, NOW).jwt
    assert len(assertions) == 0
    with pytest.raises(ValueError, match="lives 300 s"):
        Assertions(DERIVED, reused=timedelta(minutes=5))


async def test_what_is_remembered_is_bounded() -> None:
    assertions = Assertions(DERIVED, remembered=3)
    for number in range(10):
        assertions.make(None, f"host-{number}", PLAIN, NOW)

    assert len(assertions) == 3

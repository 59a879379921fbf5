"""Which client certificates are good (A-18, authorize 11), and that no client can make the verdict fail or wait."""

import ipaddress
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from pomerium_agent.authorize import client_trust
from pomerium_agent.authorize.certificate import MAX_CERTIFICATES, MAX_CHAIN, identity_of, leaf_of, presented
from pomerium_agent.authorize.client_trust import judge
from pomerium_agent.config.trust import ClientTrust, NamePattern, NameType
from tests.fakes.client_certificates import (
    AUTHORITY,
    CLIENT,
    SERVER,
    Signed,
    chain_of,
    encoded,
    named,
    new_key,
    principal,
    root,
)

NOW = datetime.now(UTC).replace(microsecond=0)
ROOT = root("root")
OTHER = root("other")
LEAF = ROOT.sign("leaf", (CLIENT, False))
MIDDLE = ROOT.authority("middle")
LOW = MIDDLE.authority("low")
BELOW = MIDDLE.sign("below")
DEEP = LOW.sign("deep")
NAMED = ROOT.sign(
    "named",
    named(
        x509.DNSName("dev.example.com"),
        x509.RFC822Name("dev@example.com"),
        x509.UniformResourceIdentifier("spiffe://example.com/dev"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.7")),
        principal("dev@corp.example"),
    ),
)


def trust(*authorities: Signed, **more: object) -> ClientTrust:
    return ClientTrust(ca="".join(each.pem for each in authorities or (ROOT,)), **more)  # type: ignore[arg-type]


def good(trusted: ClientTrust | None, *chain: Signed, at: datetime = NOW) -> bool:
    return judge(trusted, chain_of(*chain), at).valid


@pytest.mark.parametrize(
    ("trusted", "chain", "expected"),
    [
        (None, (), True),
        (None, (OTHER,), True),
        (trust(), (), False),
        (trust(), (LEAF,), True),
        (trust(OTHER, ROOT), (LEAF,), True),
        (trust(OTHER), (LEAF,), False),
        (trust(OTHER), (LEAF, ROOT), False),
        (ClientTrust(), (LEAF,), False),
        (trust(), (ROOT.sign("x"),), True),
        (trust(), (ROOT.sign("x", (SERVER, False)),), False),
        (trust(), (root("root").sign("x"),), False),
        (trust(), (root("self"),), False),
        (trust(), (ROOT.sign("x", (*named(principal("a@b"))[:1], True)),), True),
        (
            trust(),
            (ROOT.sign("x", (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True)),),
            False,
        ),
        (trust(root("server only", (AUTHORITY, True), (SERVER, False), key=ROOT.key)), (LEAF,), False),
        (trust(LEAF), (LEAF,), True),
    ],
    ids=[
        "nothing is judged",
        "nothing is judged, whatever is presented",
        "none presented",
        "good",
        "one of several authorities",
        "another authority",
        "a client brings the authority along",
        "the authority cannot be read",
        "no purpose is any purpose",
        "for servers",
        "the name of the authority, and another key",
        "vouches for itself",
        "critical names of a kind that nobody knows",
        "something critical that nobody knows",
        "an authority for servers",
        "the certificate itself is trusted",
    ],
)
def test_the_chain_and_its_purpose(trusted: ClientTrust | None, chain: tuple[Signed, ...], expected: bool) -> None:
    """A-18."""
    assert good(trusted, *chain) is expected


@pytest.mark.parametrize(
    ("depth", "chain", "expected"),
    [
        (1, (LEAF,), True),
        (1, (BELOW, MIDDLE), False),
        (2, (BELOW, MIDDLE), True),
        (2, (BELOW,), False),
        (2, (DEEP, LOW, MIDDLE), False),
        (3, (DEEP, LOW, MIDDLE), True),
        (3, (DEEP, MIDDLE, LOW), True),
        (0, (DEEP, LOW, MIDDLE), True),
        (0, (LEAF,), True),
        (100, (DEEP, LOW, MIDDLE), True),
    ],
)
def test_depth_counts_the_authorities_above_the_leaf(depth: int, chain: tuple[Signed, ...], expected: bool) -> None:
    """Authorize 11: one by default, none is no limit."""
    assert good(trust(max_depth=depth), *chain) is expected


@pytest.mark.parametrize(
    "between",
    [
        ROOT.sign("middle", key=MIDDLE.key),
        ROOT.sign("middle", (x509.BasicConstraints(ca=False, path_length=None), True), key=MIDDLE.key),
        ROOT.authority("middle", (AUTHORITY, True), (SERVER, False), key=MIDDLE.key),
        ROOT.authority(
            "middle",
            (AUTHORITY, True),
            (x509.KeyUsage(True, False, False, False, False, False, True, False, False), True),
            key=MIDDLE.key,
        ),
        OTHER.authority("middle", key=MIDDLE.key),
    ],
    ids=["nothing says so", "says it is none", "for servers", "may not sign certificates", "of somebody else"],
)
def test_who_is_no_authority_vouches_for_nobody(between: Signed) -> None:
    """A-18."""
    assert good(trust(max_depth=0), BELOW, MIDDLE)
    assert not good(trust(max_depth=0), BELOW, between)
    assert good(trust(max_depth=0), BELOW, between, MIDDLE), "one good chain is enough"


def test_an_authority_can_limit_how_many_come_below_it_and_for_whom() -> None:
    """A-18: path length and name constraints."""
    last = ROOT.authority("last", (x509.BasicConstraints(ca=True, path_length=0), True))
    below = last.authority("below last")
    ours = ROOT.authority("ours", (AUTHORITY, True), (x509.NameConstraints([x509.DNSName("our.test")], None), True))

    assert good(trust(max_depth=0), last.sign("x"), last)
    assert not good(trust(max_depth=0), below.sign("x"), below, last)
    assert good(trust(max_depth=0), ours.sign("x", named(x509.DNSName("a.our.test"))), ours)
    assert not good(trust(max_depth=0), ours.sign("x", named(x509.DNSName("a.their.test"))), ours)


def test_an_authority_with_a_new_key_is_found_directly_though_the_old_one_vouches_for_it_too() -> None:
    """Authorize 11: several chains, and the one that passes is not too deep."""
    renewed = root("root")
    with_old = ROOT.authority("root", key=renewed.key)

    assert good(trust(ROOT, renewed), renewed.sign("x"), with_old)


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([(NameType.DNS, "dev.example.com")], True),
        ([(NameType.DNS, r".*\.example\.com")], True),
        ([(NameType.DNS, "dev.example")], False),
        ([(NameType.DNS, "example.com")], False),
        ([(NameType.DNS, "dev|dev.example.com")], True),
        ([(NameType.DNS, "dev|example.com")], False),
        ([(NameType.DNS, "dev"), (NameType.DNS, "example.com")], False),
        ([(NameType.DNS, "dev"), (NameType.DNS, "dev.example.com")], True),
        ([(NameType.EMAIL, "dev@example.com")], True),
        ([(NameType.DNS, "dev@example.com")], False),
        ([(NameType.EMAIL, ".*"), (NameType.DNS, "no")], True),
        ([(NameType.URI, "spiffe://example.com/.*")], True),
        ([(NameType.URI, "dev.example.com")], False),
        ([(NameType.IP_ADDRESS, r"192\.0\.2\.\d+")], True),
        ([(NameType.IP_ADDRESS, r"192\.0\.2")], False),
        ([(NameType.PRINCIPAL, ".*@corp.example")], True),
        ([(NameType.PRINCIPAL, "dev@example.com")], False),
    ],
    ids=repr,
)
def test_a_name_fits_as_a_whole_one_pattern_of_its_type(patterns: list[tuple[NameType, str]], expected: bool) -> None:
    """Authorize 11 [D]: each pattern is anchored by itself, so that two together mean no more than each."""
    names = tuple(NamePattern(*each) for each in patterns)

    assert good(trust(names=names), NAMED) is expected
    assert not good(trust(names=names), LEAF), "without names, none fits"


@pytest.mark.parametrize(
    ("der", "text"),
    [
        (b"\x0c\x03dev", "dev"),
        (b"\x0c\x00", ""),
        (b"\x0c\x81\x80" + b"a" * 128, "a" * 128),
        (b"", None),
        (b"\x0c", None),
        (b"\x0c\x05dev", None),
        (b"\x0c\x03devx", None),
        (b"\x16\x03dev", None),
        (b"\x0c\x80", None),
        (b"\x0c\x84\xff\xff", None),
        (b"\x0c\x01\xff", None),
    ],
    ids=repr,
)
def test_a_principal_name_is_a_text_or_nothing(der: bytes, text: str | None) -> None:
    if text is None:
        assert client_trust._utf8_string(der) is None
    else:
        assert client_trust._utf8_string(der) == text


# --- revocation -------------------------------------------------------------------------------------


def test_what_the_issuer_revoked_is_not_good() -> None:
    """Authorize 11: the list of the leaf's issuer alone, with its signature, however old it is."""
    gone = ROOT.sign("gone")
    old = ROOT.crl(gone, at=NOW - timedelta(days=400))

    assert good(trust(), gone)
    assert not good(trust(crl=old), gone)
    assert good(trust(crl=old), LEAF)
    assert good(trust(crl=OTHER.crl(gone)), gone), "not its issuer's"
    assert not good(trust(crl=OTHER.crl() + ROOT.crl(gone)), gone)
    assert not good(trust(crl=ROOT.crl() + ROOT.crl(gone)), gone)


def test_a_list_that_the_issuer_did_not_sign_lets_nobody_of_its_in() -> None:
    """Authorize 11: the signature is checked."""
    forged = ROOT.crl(key=new_key())

    assert not good(trust(crl=forged), LEAF)
    assert good(trust(OTHER, crl=forged), OTHER.sign("x"))
    assert good(trust(crl=forged + ROOT.crl()), LEAF), "a list by an older key of the same name is left alone"


def test_only_the_leaf_is_looked_for_in_lists() -> None:
    """Authorize 11."""
    assert good(trust(max_depth=0, crl=ROOT.crl(MIDDLE)), BELOW, MIDDLE)
    assert not good(trust(max_depth=0, crl=ROOT.crl() + MIDDLE.crl(BELOW)), BELOW, MIDDLE)


# --- time -------------------------------------------------------------------------------------------


def test_the_time_is_looked_at_each_time() -> None:
    """Authorize 11 [D]: no verdict outlives the moment at which it changes."""
    soon = ROOT.sign("soon", begins=NOW + timedelta(seconds=10), ends=NOW + timedelta(seconds=20))

    found = [judge(trust(), chain_of(soon), NOW + timedelta(seconds=seconds)) for seconds in (0, 10, 15, 20.9, 21, 15)]

    assert [each.valid for each in found] == [False, True, True, True, False, True]
    assert [each.until - NOW.timestamp() for each in found[:4]] == [10, 21, 21, 21]


def test_an_authority_that_ends_takes_everybody_with_it() -> None:
    """A-18."""
    ending = root("ending", ends=NOW + timedelta(seconds=5))
    leaf = ending.sign("x")

    assert good(trust(ending), leaf)
    assert judge(trust(ending), chain_of(leaf), NOW).until == NOW.timestamp() + 6
    assert not good(trust(ending), leaf, at=NOW + timedelta(seconds=6))
    assert good(trust(ending, root("ending", key=ending.key)), leaf, at=NOW + timedelta(seconds=6)), "its successor"


MOMENTS = [NOW + timedelta(seconds=seconds) for seconds in (-60, -30, 0, 30, 60)]


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.tuples(st.sampled_from(MOMENTS), st.sampled_from(MOMENTS)), min_size=3, max_size=3),
    asked=st.lists(st.integers(-90, 90), min_size=1, max_size=8),
)
def test_a_verdict_holds_exactly_until_it_says(times: list[tuple[datetime, datetime]], asked: list[int]) -> None:
    """A-18, A-32: against certificates whose times are simply compared, in any order of questions."""
    (begin, end), (begin_middle, end_middle), (begin_leaf, end_leaf) = [(min(pair), max(pair)) for pair in times]
    top = root("top", key=ROOT.key, begins=begin, ends=end)
    middle = top.sign("m", (AUTHORITY, True), key=MIDDLE.key, begins=begin_middle, ends=end_middle)
    leaf = middle.sign("l", key=LEAF.key, begins=begin_leaf, ends=end_leaf)
    trusted, chain = trust(top, max_depth=2), chain_of(leaf, middle)

    for seconds in asked:
        at = NOW + timedelta(seconds=seconds)
        found = judge(trusted, chain, at)
        assert found.valid is (max(begin, begin_middle, begin_leaf) <= at <= min(end, end_middle, end_leaf))
        assert found.until > at.timestamp()
        for later in range(seconds, 95):
            if NOW.timestamp() + later < found.until:
                assert judge(trusted, chain, NOW + timedelta(seconds=later)).valid is found.valid


# --- hostile clients --------------------------------------------------------------------------------


CERTIFICATES = (LEAF, BELOW, DEEP, MIDDLE, LOW, ROOT, OTHER, NAMED, OTHER.sign("root"), root("leaf"))
DERS = [each.certificate.public_bytes(Encoding.DER) for each in CERTIFICATES]


def _broken(der: bytes, changes: list[tuple[int, int]]) -> str:
    """A certificate with some of its bytes changed, as PEM."""
    changed = bytearray(der)
    for place, value in changes:
        changed[place % len(changed)] = value
    return f"-----BEGIN CERTIFICATE-----\n{b64encode(changed).decode()}\n-----END CERTIFICATE-----\n"


CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3)
PEMS = st.one_of(
    st.sampled_from([each.pem for each in CERTIFICATES]),
    st.builds(_broken, st.sampled_from(DERS), CHANGES),
    st.builds(_broken, st.binary(min_size=1, max_size=60), CHANGES),
    st.sampled_from(["", "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----\n", "\x00", "%", "rubbish\n"]),
)
NAMESAKE = root("root")  # of the authority of most of these, with a key of its own
STRICT = trust(NAMESAKE, max_depth=0, crl=NAMESAKE.crl(), names=tuple(NamePattern(each, ".*") for each in NameType))


@settings(max_examples=300, deadline=None)
@given(
    pems=st.lists(PEMS, max_size=6),
    trusted=st.sampled_from([trust(NAMESAKE), trust(NAMESAKE, max_depth=0), STRICT]),
)
def test_whatever_a_client_presents_there_is_a_verdict_and_it_is_no(pems: list[str], trusted: ClientTrust) -> None:
    """A-2, A-18: the authority vouches for none of these."""
    found = judge(trusted, encoded(pems), NOW)

    assert not found.valid
    assert found.until > NOW.timestamp()
    leaf_of(encoded(pems))
    identity_of(encoded(pems))


@settings(max_examples=200, deadline=None)
@given(changes=CHANGES)
def test_a_certificate_that_was_changed_is_never_good(changes: list[tuple[int, int]]) -> None:
    """A-18: every byte of it is either signed or part of the signature."""
    pem = _broken(DERS[0], changes)

    if pem != _broken(DERS[0], []):
        assert not judge(trust(), encoded([pem]), NOW).valid


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_text_that_is_no_chain_is_no_certificate(text: str) -> None:
    assert leaf_of(text) is None
    assert not judge(trust(), text, NOW).valid


def test_more_than_a_client_honestly_needs_is_not_looked_at() -> None:
    """A-2: bounded work, bounded memory."""
    many = [LEAF, *[OTHER.authority(f"a{number}") for number in range(20)]]

    found = presented(chain_of(*many))

    assert found is not None
    assert len(found.above) == MAX_CERTIFICATES - 1
    assert good(trust(), *many)
    assert presented("a" * (MAX_CHAIN + 1)) is None
    assert presented(chain_of(LEAF) + "%0A" * MAX_CHAIN) is None


def test_certificates_between_that_cannot_be_read_are_passed_over() -> None:
    """Authorize 2: the leaf is the first, the others are what may help."""
    rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

    assert judge(trust(max_depth=2), encoded([BELOW.pem, rubbish, MIDDLE.pem]), NOW).valid
    assert not judge(trust(max_depth=2), encoded([rubbish, BELOW.pem, MIDDLE.pem]), NOW).valid
    assert leaf_of(encoded([rubbish, BELOW.pem])) is None


def test_a_key_that_takes_long_to_check_with_is_not_used() -> None:
    """A-2: a client could otherwise have us check such signatures by the dozen."""
    key = rsa.RSAPublicNumbers((1 << 65) + 13, (1 << 2047) + 1).public_key()
    slow = (
        x509.CertificateBuilder()
        .subject_name(MIDDLE.certificate.subject)
        .issuer_name(ROOT.certificate.subject)
        .public_key(key)
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .sign(ROOT.key, MIDDLE.certificate.signature_hash_algorithm)  # type: ignore[arg-type]  # SHA-256
    )

    assert not client_trust._quick(slow)
    assert client_trust._quick(MIDDLE.certificate)


def test_authorities_that_all_bear_one_name_do_not_keep_us_busy() -> None:
    """A-2: every one might have signed every other; the search gives up, and the answer is no."""
    same = [root("same") for _ in range(MAX_CERTIFICATES)]
    chain = [below for one, other in pairwise(same) for below in (one.authority("same", key=other.key),)]

    assert not good(trust(max_depth=0), chain[-1], *chain[:-1], *same)

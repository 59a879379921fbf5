"""What a browser brings may be anything: it is refused, never believed, and never costs more than its size."""

import contextlib
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode

import pytest
import zstandard
from cryptography.hazmat.primitives import hpke as library
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.errors import HandoffExpired, HandoffRejected
from pomerium_agent.handoff import hpke
from pomerium_agent.handoff.box import close_box, decode, encode_raw, open_box
from pomerium_agent.handoff.query import encode_query, parse_query
from pomerium_agent.handoff.sealed import (
    SealedQuery,
    Version,
    check_lifetime,
    lifetime,
    open_query,
    read_sealed,
    seal_query,
)
from pomerium_agent.handoff.signed import origin_of, signed_url, url_signature, verify_signed_url

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
KEY = bytes(range(32))
AGENT, SERVER, STRANGER = (hpke.derive_key_pair(bytes([n]) * 32) for n in (1, 2, 3))
PARAMETERS = [("pomerium_redirect_uri", "https://app.example.com/a?b=c&d"), ("pomerium_idp_id", "x"), ("empty", "")]
BASE = "https://auth.example.com/.pomerium/sign_in"

texts = st.text(max_size=40)
parameters = st.lists(st.tuples(texts.filter(bool), texts), max_size=6, unique_by=lambda pair: pair[0])


def sealed_by(sender: X25519PrivateKey, version: Version = Version.V2) -> SealedQuery:
    found = read_sealed(seal_query(PARAMETERS, sender=sender, receiver=hpke.public_bytes(SERVER), version=version))
    assert found is not None
    return found


@given(parameters, st.sampled_from(Version))
def test_what_was_sealed_comes_out_again(pairs: list[tuple[str, str]], version: Version) -> None:
    """N-7, both versions."""
    pairs = [pair for pair in pairs if pair[0] not in ("k", "q") and not pair[0].startswith("pomerium_hpke")]
    query = seal_query(pairs, sender=AGENT, receiver=hpke.public_bytes(SERVER), version=version)
    sealed = read_sealed(query)
    assert sealed is not None
    assert sealed.version is version
    assert open_query(sealed, SERVER) == dict(pairs)


def test_parameters_beside_a_sealed_query_are_not_seen() -> None:
    """G-1, N-8."""
    query = seal_query(PARAMETERS, sender=AGENT, receiver=hpke.public_bytes(SERVER))
    sealed = read_sealed(f"{query}&pomerium_redirect_uri=https%3A%2F%2Fevil.example.com&pomerium_programmatic=true")
    assert sealed is not None
    assert open_query(sealed, SERVER) == dict(PARAMETERS)


def test_only_the_named_sender_can_have_sealed_it() -> None:
    """N-6, N-14: auth mode binds the sender's key."""
    forged = sealed_by(STRANGER)
    with pytest.raises(HandoffRejected):
        open_query(SealedQuery(forged.version, hpke.public_bytes(AGENT), forged.blob), SERVER)
    with pytest.raises(HandoffRejected):
        open_query(sealed_by(AGENT), STRANGER)


def test_the_base_mode_is_not_opened() -> None:
    """N-6: a message that proves no sender."""
    suite = library.Suite(library.KEM.X25519, library.KDF.HKDF_SHA256, library.AEAD.CHACHA20_POLY1305)
    blob = suite.encrypt(b"pomerium_idp_id=x", SERVER.public_key())
    with pytest.raises(HandoffRejected):
        open_query(SealedQuery(Version.V1, hpke.public_bytes(AGENT), blob), SERVER)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"", b"short", bytes(33)])
def test_keys_that_are_none(point: bytes) -> None:
    """N-6: low order points, and other lengths."""
    with pytest.raises(HandoffRejected):
        open_query(SealedQuery(Version.V1, point, bytes(64)), SERVER)
    with pytest.raises(HandoffRejected):
        hpke.seal(AGENT, point, b"")
    with pytest.raises(HandoffRejected):
        hpke.open_sealed(SERVER, hpke.public_bytes(AGENT), point + bytes(40))


@given(st.binary(max_size=200), st.sampled_from(Version))
def test_anything_else_is_refused(blob: bytes, version: Version) -> None:
    """N-6."""
    with pytest.raises(HandoffRejected):
        open_query(SealedQuery(version, hpke.public_bytes(AGENT), blob), SERVER)


@given(st.text(max_size=200))
def test_a_query_of_anything_never_does_more_than_be_refused(query: str) -> None:
    """N-6, N-18."""
    for text in (query, f"k={query}&q={query}"):
        with contextlib.suppress(HandoffRejected):
            sealed = read_sealed(text)
            if sealed is not None:
                open_query(sealed, SERVER)


@pytest.mark.parametrize("states_its_size", [True, False])
def test_a_bomb_is_not_inflated(states_its_size: bool) -> None:
    """N-9: 64 MiB of nothing in a few KiB, whether the frame says so or not."""
    if states_its_size:
        bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    else:
        compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
        bomb = compressor.compress(bytes(64 << 20)) + compressor.flush()
    blob = hpke.seal(AGENT, hpke.public_bytes(SERVER), bomb)
    with pytest.raises(HandoffRejected, match="too large"):
        open_query(SealedQuery(Version.V2, hpke.public_bytes(AGENT), blob), SERVER, limit=65_536)


def test_sealed_queries_expire() -> None:
    """N-4, in milliseconds."""
    fresh = dict(lifetime(NOW))
    check_lifetime(fresh, NOW)
    check_lifetime(fresh, NOW + timedelta(seconds=359))
    check_lifetime(fresh, NOW - timedelta(seconds=59))
    for at in (NOW + timedelta(seconds=361), NOW - timedelta(seconds=61)):
        with pytest.raises(HandoffExpired):
            check_lifetime(fresh, at)
    for bad in ("", "soon", "-1", "1e9", "9" * 30, "١٢٣"):
        for name in fresh:
            with pytest.raises(HandoffRejected):
                check_lifetime({**fresh, name: bad}, NOW)
            with pytest.raises(HandoffRejected):
                check_lifetime({other: value for other, value in fresh.items() if other != name}, NOW)


@given(parameters)
def test_a_signed_url_is_verified_in_any_order(pairs: list[tuple[str, str]]) -> None:
    """N-3: blank values stay, order does not matter."""
    pairs = [pair for pair in pairs if not pair[0].startswith("pomerium_") and ";" not in pair[0] + pair[1]]
    url = signed_url(BASE, pairs, KEY, NOW)
    verify_signed_url(url, KEY, NOW)
    base, _, query = url.partition("?")
    verify_signed_url(f"{base}?{'&'.join(reversed(query.split('&')))}", KEY, NOW)


def test_a_changed_url_is_refused() -> None:
    """N-2, N-3: path, host, parameters, key."""
    url = signed_url(BASE, [("a", "b"), ("pomerium_additional_hosts", "")], KEY, NOW)
    for changed in (
        url.replace("sign_in", "sign_out"),
        url.replace("auth.", "other."),
        url.replace("https:", "http:"),
        url.replace("a=b", "a=c"),
        f"{url}&c=d",
        url.replace("a=b&", ""),
        url.replace("pomerium_additional_hosts=&", ""),
        url.replace("pomerium_expiry=1", "pomerium_expiry=2"),
    ):
        assert changed != url
        with pytest.raises(HandoffRejected):
            verify_signed_url(changed, KEY, NOW)
    with pytest.raises(HandoffRejected):
        verify_signed_url(url, bytes(32), NOW)


def test_a_space_before_the_first_time_is_no_signature() -> None:
    """N-2."""
    pairs = dict(parse_qsl(signed_url(BASE, [], KEY, NOW).partition("?")[2]))
    unsigned = urlencode({name: value for name, value in sorted(pairs.items()) if name != "pomerium_signature"})
    message = f"{BASE}?{unsigned} {pairs['pomerium_issued']} {pairs['pomerium_expiry']}"
    with pytest.raises(HandoffRejected):
        verify_signed_url(f"{BASE}?{unsigned}&pomerium_signature={url_signature(message, KEY)}", KEY, NOW)


def test_signed_urls_expire() -> None:
    """N-4, in seconds; what is missing or no number is refused."""
    url = signed_url(BASE, [], KEY, NOW)
    verify_signed_url(url, KEY, NOW + timedelta(seconds=360))
    for at in (NOW + timedelta(seconds=361), NOW - timedelta(seconds=61)):
        with pytest.raises(HandoffExpired):
            verify_signed_url(url, KEY, at)
    for name in ("pomerium_issued", "pomerium_expiry", "pomerium_signature"):
        query = encode_query(pair for pair in parse_query(url.partition("?")[2]) if pair[0] != name.encode())
        with pytest.raises(HandoffRejected, match=name):
            verify_signed_url(f"{BASE}?{query}", KEY, NOW)
        with pytest.raises(HandoffRejected, match="twice"):
            verify_signed_url(f"{url}&{name}=1", KEY, NOW)


@given(st.text(max_size=100))
def test_a_url_of_anything_is_refused(query: str) -> None:
    with pytest.raises(HandoffRejected):
        verify_signed_url(f"{BASE}?{query}", KEY, NOW)


@given(st.binary(max_size=64), st.binary(max_size=64), st.binary(max_size=16))
def test_boxes_open_only_for_those_who_hold_the_key(plaintext: bytes, garbage: bytes, bound: bytes) -> None:
    box = close_box(KEY, plaintext, bound_to=bound)
    assert open_box(KEY, box, bound_to=bound) == plaintext
    for args in ((bytes(32), box, bound), (KEY, garbage, bound), (KEY, box[:-1], bound), (KEY, box, bound + b"x")):
        with pytest.raises(HandoffRejected):
            open_box(args[0], args[1], bound_to=args[2])


@given(st.binary(max_size=64))
def test_base64_with_padding_or_without(data: bytes) -> None:
    assert decode(encode_raw(data)) == data


@given(st.text(max_size=60))
def test_what_is_no_base64_is_refused(text: str) -> None:
    with contextlib.suppress(HandoffRejected):
        decode(text)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://app.example.com/a?b", "https://app.example.com"),
        ("https://APP.example.com:443/", "https://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("http://[::1]:80/x", "http://[::1]"),
    ],
)
def test_origins(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url", ["", "/path", "//host/", "javascript:alert(1)", "https:///x", "https://u@h/", "https://h:x/", "https://[/"]
)
def test_what_has_no_origin(url: str) -> None:
    with pytest.raises(HandoffRejected):
        origin_of(url)

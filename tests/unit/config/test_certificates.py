"""Certificates for visitors (R-16, Z-47, routes 11)."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pomerium_agent.config.certificates import collect_certificates, fallback_certificate, overlaps
from pomerium_agent.config.snapshot import Certificate, Fault
from pomerium_agent.config.sourced import SourcedCertificate
from tests.fakes.config_records import NOW, compiled, issue


def sent(*pairs: tuple[bytes, bytes]) -> list[SourcedCertificate]:
    return [SourcedCertificate("c", f"certificate {n}", chain, key) for n, (chain, key) in enumerate(pairs, 1)]


def collect(
    *pairs: tuple[bytes, bytes], base: tuple[Certificate, ...] = (), previous: tuple[Certificate, ...] = ()
) -> tuple[tuple[Certificate, ...], tuple[Fault, ...]]:
    return collect_certificates(sent(*pairs), now=NOW, base=base, previous=previous, secret=b"s")


def of(pair: tuple[bytes, bytes]) -> Certificate:
    return collect(pair)[0][0]


def test_certificates_of_all_records_are_appended() -> None:
    """Z-47."""
    found, faults = collect(issue("a.example.com"), issue("b.example.com"))

    assert not faults
    assert {c.names for c in found} == {("a.example.com",), ("b.example.com",)}
    assert all(not c.self_signed_fallback for c in found)


def test_what_overlaps_a_certificate_of_this_machine_is_skipped() -> None:
    """Z-47, wildcards considered."""
    ours = of(issue("*.example.com", "exact.org"))

    found, faults = collect(
        issue("a.example.com"), issue("exact.org"), issue("deep.a.example.com"), issue("other.org"), base=(ours,)
    )

    assert found[0] == ours
    assert {c.names[0] for c in found[1:]} == {"deep.a.example.com", "other.org"}
    assert [fault.warning for fault in faults] == [True, True]
    assert not overlaps(["example.com"], [ours])


def test_the_first_one_sent_is_the_default_and_the_newest_of_the_others_comes_first() -> None:
    """Routes 11.3: Envoy takes the first of the list when no name matches, and the first of equals."""
    first = issue("first.example.com", age=90)
    old, new = issue("app.example.com", age=60), issue("app.example.com", age=5)

    assert collect(first, old, new)[0] == (of(first), of(new), of(old))


def test_a_renewed_default_stays_the_default() -> None:
    old, new, other = issue("d.example.com", age=90), issue("d.example.com", age=1), issue("x.example.com", age=0)

    assert collect(old, other, new)[0] == (of(new), of(other), of(old))


def test_the_order_of_equals_does_not_depend_on_arrival() -> None:
    pairs = [issue("same.example.com", number=n) for n in range(4)]
    first = issue("first.example.com")

    assert collect(first, *pairs)[0] == collect(first, *reversed(pairs))[0]


def test_an_expired_certificate_is_dropped_when_another_covers_its_names() -> None:
    expired, valid = issue("a.example.com", age=400, days=100), issue("*.example.com")

    found, faults = collect(expired, valid)

    assert ([c.names for c in found], faults) == ([("*.example.com",)], ())


def test_an_expired_certificate_that_nothing_replaces_serves_with_a_warning() -> None:
    found, faults = collect(issue("a.example.com", age=400, days=100), issue("b.example.com"))

    assert {c.names[0] for c in found} == {"a.example.com", "b.example.com"}
    assert [(fault.field, fault.warning) for fault in faults] == [("not_after", True)]


def test_one_that_is_not_valid_yet_waits_behind_the_one_that_is() -> None:
    today, tomorrow = issue("a.example.com", age=30), issue("a.example.com", age=-1)

    assert collect(tomorrow, today)[0] == (of(today), of(tomorrow))


def test_the_same_certificate_sent_twice_is_listed_once() -> None:
    assert len(collect(issue("a.example.com"), issue("a.example.com"))[0]) == 1


CHAIN, KEY = issue("a.example.com")


@pytest.mark.parametrize(
    ("pair", "complaint"),
    [
        ((CHAIN, issue("b.example.com")[1]), "do not belong together"),
        ((CHAIN, b""), "no private key"),
        ((b"junk", KEY), "neither PEM nor base64"),
        ((KEY, KEY), "no certificate"),
        ((CHAIN, CHAIN), "no private key that can be read"),
        (issue("s.example.com", must_staple=True), "must-staple"),
        (issue("weak.example.com", rsa_bits=1024), "too short"),
    ],
)
def test_a_certificate_that_envoy_would_refuse_stands_aside(pair: tuple[bytes, bytes], complaint: str) -> None:
    found, faults = collect(pair, issue("good.example.com"))

    assert [c.names for c in found] == [("good.example.com",)]
    assert [complaint in fault.reason for fault in faults] == [True]
    assert faults[0].remedy
    assert faults[0].record_id == "c"


@pytest.mark.parametrize("bits", [2048])
def test_rsa_certificates_serve_too(bits: int) -> None:
    assert not collect(issue("r.example.com", rsa_bits=bits))[1]


def test_while_a_certificate_is_refused_the_one_it_replaced_goes_on() -> None:
    before, _ = collect(issue("a.example.com"), issue("b.example.com"))

    broken, _ = collect((issue("a.example.com", number=2)[0], b"junk"), issue("b.example.com"), previous=before)
    removed, _ = collect(issue("b.example.com"), previous=before)

    assert {c.names[0] for c in broken} == {"a.example.com", "b.example.com"}
    assert {c.names[0] for c in removed} == {"b.example.com"}


def test_without_any_certificate_there_is_a_self_signed_one_for_everything() -> None:
    """A18, R-16: the same bytes on every replica, and every time."""
    snapshot, faults = compiled()
    (fallback,) = snapshot.settings.certificates

    assert not faults
    assert fallback == fallback_certificate(b"test")
    assert fallback != fallback_certificate(b"other")
    assert (fallback.names, fallback.self_signed_fallback) == (("*",), True)
    leaf = x509.load_pem_x509_certificate(fallback.chain.encode())
    key = load_pem_private_key(fallback.key.encode(), None)
    assert leaf.public_key() == key.public_key()
    leaf.verify_directly_issued_by(leaf)
    assert leaf.not_valid_before_utc + timedelta(days=1) < NOW < leaf.not_valid_after_utc


def test_no_key_shows_itself() -> None:
    certificate = of(issue("a.example.com"))

    assert "PRIVATE KEY" not in repr(certificate)
    assert "PRIVATE KEY" not in repr(sent(issue("a.example.com")))

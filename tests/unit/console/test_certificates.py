"""Starter domains and the certificates behind them."""

import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pomerium_agent.console.ca import RENEW_BEFORE, authority, due, write_ca_file
from pomerium_agent.console.clusters import create_cluster, renew_certificates
from pomerium_agent.console.names import starter_domain
from pomerium_agent.console.store import open_store
from pomerium_agent.errors import SettingsError

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def test_a_starter_domain_is_adjective_animal_number() -> None:
    names = {starter_domain() for _ in range(50)}

    assert len(names) > 40
    assert all(re.fullmatch(r"[a-z]+-[a-z]+-[1-9][0-9]{3}\.pomerium\.localhost", name) for name in names)


def test_a_suffix_of_ones_own_is_used() -> None:
    assert starter_domain("apps.example.com").endswith(".apps.example.com")


@pytest.mark.parametrize("domain", ["localhost", "under_score.example.com", "-a.example.com", "a..b", "a b.c"])
def test_a_domain_that_no_certificate_can_carry_is_refused(tmp_path: Path, domain: str) -> None:
    with open_store(tmp_path) as store, pytest.raises(SettingsError, match="--domain"):
        create_cluster(store, "demo", now=NOW, domain=domain)


def test_the_starter_certificate_covers_the_domain_and_one_label_below(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster
        found = store.certificate(cluster.id)
        issuer = authority(store, NOW)

    assert found is not None
    leaf, ca = (x509.load_pem_x509_certificate(each.chain.encode()) for each in (found, issuer))
    leaf.verify_directly_issued_by(ca)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {cluster.domain, f"*.{cluster.domain}"}
    key = serialization.load_pem_private_key(found.key.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == leaf.public_key()


def test_the_ca_file_is_what_a_client_can_trust(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        create_cluster(store, "demo", now=NOW)

        path = write_ca_file(store, NOW)

    assert len(ssl.create_default_context(cafile=str(path)).get_ca_certs()) == 1


def test_the_authority_stays_the_same(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        first = authority(store, NOW)
    with open_store(tmp_path) as store:
        assert authority(store, NOW + timedelta(days=30)) == first


def test_a_certificate_is_renewed_before_it_expires_and_that_is_a_new_version(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster
        before = store.certificate(cluster.id)
        assert before is not None

        assert renew_certificates(store, before.not_after - RENEW_BEFORE - timedelta(days=1)) == ()
        renewed = renew_certificates(store, before.not_after - RENEW_BEFORE)

        after = store.certificate(cluster.id)
        assert after is not None
        assert [each.version for each in renewed] == [cluster.version + 1]
        assert after.not_after > before.not_after
        assert not due(after, before.not_after - RENEW_BEFORE)
        assert store.config(cluster.id).reason == "certificate renewed"

"""The settings of the metrics listener (routes 1.7 rows 40, 64 to 66; R-4)."""

import base64
from datetime import UTC, datetime
from typing import Any

import pytest

from pomerium_agent.config import compile_snapshot
from pomerium_agent.config.complaints import Unusable
from pomerium_agent.config.metrics import parse_basic_auth
from pomerium_agent.config.snapshot import Address, ConfigSnapshot
from pomerium_agent.settings import Local
from tests.fakes.reference import record, settings_of

NOW = datetime(2026, 6, 1, tzinfo=UTC)
AUTH = base64.b64encode(b"ada:lovelace").decode()
CERTIFICATE = {"cert_bytes": "${chain:metrics}", "key_bytes": "${key:metrics}"}
MISMATCHED = {"cert_bytes": "${chain:metrics}", "key_bytes": "${key:another}"}
CA = "${chain:clients.example.com}"
AT = {"metrics_address": "127.0.0.1:9902"}


def compiled(
    fields: dict[str, Any], previous: ConfigSnapshot | None = None, local: Local | None = None
) -> tuple[ConfigSnapshot, list[str]]:
    snapshot, faults = compile_snapshot(
        [record(settings=settings_of(fields))], now=NOW, previous=previous, local=local or Local()
    )
    return snapshot, [str(fault) for fault in faults]


def test_without_an_address_there_is_no_listener() -> None:
    assert compiled({"metrics_basic_auth": AUTH})[0].settings.metrics is None


def test_everything_is_read() -> None:
    snapshot, faults = compiled(
        AT | {"metrics_basic_auth": AUTH, "metrics_certificate": CERTIFICATE, "metrics_client_ca": CA}
    )

    metrics = snapshot.settings.metrics
    assert faults == []
    assert metrics is not None
    assert (metrics.address, metrics.basic_auth) == (Address(host="127.0.0.1", port=9902), "ada:lovelace")
    assert metrics.certificate is not None
    assert metrics.client_ca
    assert "lovelace" not in repr(metrics)


@pytest.mark.parametrize(
    "guard",
    [{"metrics_basic_auth": "ada:lovelace"}, {"metrics_certificate": MISMATCHED}, {"metrics_client_ca": CA}],
    ids=["not base64", "not a pair", "no TLS to ask for them"],
)
def test_a_guard_that_cannot_be_read_closes_the_listener_rather_than_opening_it(guard: dict[str, Any]) -> None:
    open_before, _ = compiled(AT)

    fresh, faults = compiled(AT | guard)
    after, _ = compiled(AT | guard, previous=open_before)

    assert fresh.settings.metrics is after.settings.metrics is None
    assert len(faults) == 1
    assert "until then there is no metrics listener" in faults[0]
    assert "lovelace" not in faults[0]


@pytest.mark.parametrize(
    ("good", "broken"),
    [
        ({"metrics_basic_auth": AUTH}, {"metrics_basic_auth": "nonsense"}),
        ({"metrics_certificate": CERTIFICATE}, {"metrics_certificate": MISMATCHED}),
    ],
)
def test_a_guard_that_was_there_stays_while_its_successor_cannot_be_read(
    good: dict[str, Any], broken: dict[str, Any]
) -> None:
    """R-4."""
    before, _ = compiled(AT | good)

    after, faults = compiled(AT | broken, previous=before)

    assert after.settings.metrics == before.settings.metrics
    assert len(faults) == 1
    assert "the value from before stays in force" in faults[0]


def test_a_missing_authority_is_not_the_same_as_none() -> None:
    closed, faults = compiled(AT | {"metrics_certificate": CERTIFICATE, "metrics_client_ca_key_pair_id": "gone"})

    assert closed.settings.metrics is None
    assert "metrics_client_ca_key_pair_id" in faults[0]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (":9100", Address(port=9100)),
        ("10.0.0.1", Address(host="10.0.0.1", port=9902)),
        ("[::1]:9100", Address(host="::1", port=9100)),
        ("metrics.example.com:9100", None),  # Pomerium would listen on every interface instead
        ("127.0.0.1:443", None),  # where visitors are served
    ],
)
def test_addresses(address: str, expected: Address | None) -> None:
    """Routes 7: a name is not taken for every interface."""
    snapshot, faults = compiled({"metrics_address": address})

    metrics = snapshot.settings.metrics
    assert (metrics.address if metrics else None) == expected
    assert bool(faults) == (expected is None)


def test_this_machine_decides_where_and_not_who() -> None:
    """Architecture 8: METRICS_ADDRESS is of this machine."""
    local = Local(metrics_address="127.0.0.1:9111")

    snapshot, _ = compiled(AT | {"metrics_basic_auth": AUTH}, local=local)
    alone, _ = compiled({}, local=local)

    assert snapshot.settings.metrics is not None
    assert alone.settings.metrics is not None
    assert snapshot.settings.metrics.address.port == alone.settings.metrics.address.port == 9111
    assert snapshot.settings.metrics.basic_auth == "ada:lovelace"


@pytest.mark.parametrize("plain", ["", "ada", ":lovelace", "ada:"])
def test_a_name_and_a_password_are_both_needed(plain: str) -> None:
    with pytest.raises(Unusable) as told:
        parse_basic_auth(base64.b64encode(plain.encode()).decode())
    assert not plain.strip(":") or plain.strip(":") not in str(told.value)

"""Google's serverless platforms: the account that we show, and the audience we show it to (authorize 16)."""

import base64
import json
from typing import Any

import pytest

from pomerium_agent.config.action import Forward
from pomerium_agent.config.snapshot import Fault, GoogleAccount, Settings
from tests.fakes.config_records import compiled, config, issue, route

RSA_KEY = issue("rsa.example.com", rsa_bits=2048)[1].decode()
EC_KEY = issue("ec.example.com")[1].decode()
FIELD = "google_cloud_serverless_authentication_service_account"
FILE = {
    "type": "service_account",
    "client_email": "proxy@project.iam.gserviceaccount.com",
    "private_key_id": "k1",
    "private_key": RSA_KEY,
    "token_uri": "https://oauth2.example.com/token",
}


def account(text: str) -> tuple[Settings, tuple[Fault, ...]]:
    snapshot, faults = compiled(config("c", **{FIELD: text}))
    return snapshot.settings, faults


def audience(*to: str, **fields: Any) -> str:
    snapshot, faults = compiled(
        config("c", route(to=list(to), enable_google_cloud_serverless_authentication=True, **fields))
    )
    assert not faults
    return snapshot.routes[0].serverless_audience


@pytest.mark.parametrize("encode", [lambda text: text, lambda text: base64.encodebytes(text.encode()).decode()])
def test_a_key_file_is_read_plain_or_as_base64(encode: Any) -> None:
    settings, faults = account(encode(json.dumps(FILE)))

    assert not faults
    found = settings.google_account
    assert found is not None
    assert (found.email, found.key_id) == ("proxy@project.iam.gserviceaccount.com", "k1")
    assert found.token_url == "https://oauth2.example.com/token"
    assert found.key.strip() == RSA_KEY.strip()
    assert "PRIVATE" not in repr(settings)


def test_google_is_asked_where_the_file_names_no_other_place() -> None:
    settings, _ = account(json.dumps({name: value for name, value in FILE.items() if name != "token_uri"}))

    assert settings.google_account is not None
    assert settings.google_account.token_url == "https://oauth2.googleapis.com/token"


def test_without_an_account_the_metadata_server_decides_who_we_are() -> None:
    assert account("")[0].google_account is None


@pytest.mark.parametrize(
    "text",
    [
        "nonsense!",
        "[]",
        "{",
        base64.b64encode(b"\xff").decode(),
        json.dumps(FILE | {"client_email": ""}),
        json.dumps(FILE | {"private_key": "s3cret"}),
        json.dumps(FILE | {"private_key": EC_KEY}),
        json.dumps(FILE | {"private_key": 1}),
        json.dumps(FILE | {"token_uri": "http://oauth2.example.com"}),
        json.dumps(FILE | {"token_uri": "https://[::1"}),
        "{" * 100_000,
    ],
    ids=range(11),
)
def test_what_cannot_be_read_never_makes_us_somebody_else(text: str) -> None:
    """R-4: the account before it stays; without one we are nobody, and not whom the metadata server knows."""
    before, _ = compiled(config("c", **{FIELD: json.dumps(FILE)}))

    settings, faults = account(text)
    after, _ = compiled(config("c", **{FIELD: text}), previous=before)

    assert settings.google_account == GoogleAccount()
    assert after.settings.google_account == before.settings.google_account
    assert [(fault.field, fault.warning) for fault in faults] == [(FIELD, False)]
    assert "s3cret" not in str(faults[0])


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        (("https://app-1.run.app",), "https://app-1.run.app"),
        (("https://a.run.app", "https://b.run.app:8443/base"), "https://b.run.app"),
        (("http://[2001:db8::1]:80",), "https://[2001:db8::1]"),
        (("http://localhost:8080",), "https://localhost"),
    ],
)
def test_the_audience_is_the_host_of_the_last_upstream(to: tuple[str, ...], expected: str) -> None:
    assert audience(*to) == expected


def test_such_upstreams_are_looked_up_by_ipv4_alone() -> None:
    """R-26."""
    fields = {"enable_google_cloud_serverless_authentication": True, "to": ["https://a.run.app"]}
    snapshot, _ = compiled(config("c", route(**fields), route(from_="https://b.example.com")))

    found = {r.source.host: r.action.upstream.dns_v4_only for r in snapshot.routes if isinstance(r.action, Forward)}
    assert found == {"app.example.com": True, "b.example.com": False}


def test_routes_that_lead_nowhere_need_no_proof() -> None:
    redirecting = route(to=[], redirect={"https_redirect": True}, enable_google_cloud_serverless_authentication=True)
    snapshot, faults = compiled(config("c", redirecting))

    assert not faults
    assert snapshot.routes[0].serverless_audience == ""

"""What the settings say of logging in: the flow, the provider, the cookies (authenticate 1, 3.8, 3.9)."""

from datetime import timedelta
from typing import Any

import pytest

from pomerium_agent.config.login import Flow, Login, SameSite, provider_of
from pomerium_agent.settings import Local, Secret
from tests.unit.config.test_effective import effective

OURS = "https://auth.example.com"


def login(local: Local | None = None, **fields: Any) -> Login:
    settings, faults = effective(local, **fields)
    assert not [fault for fault in faults if not fault.warning]
    return settings.login


@pytest.mark.parametrize(
    ("fields", "forced", "flow"),
    [
        ({}, "", Flow.STATELESS),
        ({"authenticate_service_url": "https://authenticate.pomerium.app"}, "", Flow.STATELESS),
        ({"authenticate_service_url": "https://authenticate.pomerium.app", "idp_provider": "oidc"}, "", Flow.STATELESS),
        ({"authenticate_service_url": "https://authenticate.staging.pomerium.app"}, "", Flow.STATELESS),
        ({"authenticate_service_url": OURS, "idp_provider": "google"}, "", Flow.STATEFUL),
        ({"authenticate_service_url": OURS, "idp_provider": "hosted"}, "", Flow.STATEFUL),
        # Nobody else can be meant by a service without any provider of this cluster's own.
        ({"authenticate_service_url": OURS}, "", Flow.STATELESS),
        ({"authenticate_service_url": OURS}, "stateful", Flow.STATEFUL),
        ({"authenticate_service_url": OURS, "idp_provider": "google"}, "stateless", Flow.STATELESS),
        (
            {
                "authenticate_service_url": OURS,
                "authenticate_internal_service_url": "https://authenticate.pomerium.app",
                "idp_provider": "google",
            },
            "",
            Flow.STATELESS,
        ),
    ],
)
def test_which_flow_runs(fields: dict[str, Any], forced: str, flow: Flow) -> None:
    """Authenticate 1: the internal URL decides, else the external one; the environment may force it."""
    assert login(Local(force_flow=forced), **fields).flow is flow


def test_nothing_configured_is_the_hosted_service_and_its_known_id() -> None:
    """V-5."""
    found = login()
    assert found.provider.id == "FFDq9fwK9Er0KbF17cm6cP0LYunjOAd4TLWRyBHApqQ"
    assert not found.refreshes
    assert found == Login()


def test_a_provider_as_it_is_configured() -> None:
    """V-6: what enters the id is what is written in the settings."""
    found = login(
        authenticate_service_url="https://authenticate.example.com/",
        idp_provider="oidc",
        idp_provider_url="https://idp.example.com",
        idp_client_id="cid",
        idp_client_secret="sec",
        scopes=["openid", "email"],
        request_params={"prompt": "login", "b": "1"},
    )
    assert found.provider.id == "j5ZomjD6muh85gN3KwmHGh7OOYeT8q3Te8djFNyKFh5"
    assert found.refreshes
    assert "'sec'" not in repr(found)


def test_a_route_may_use_another_client() -> None:
    """Authenticate 3.9: and is another provider then, with logins of its own."""
    found = login(authenticate_service_url=OURS, idp_provider="google", idp_client_id="a", idp_client_secret="b")
    assert provider_of(found, None, None) is found.provider
    other = provider_of(found, "c", None)
    assert (other.client_id, other.client_secret) == ("c", "b")
    assert len({found.provider.id, other.id, provider_of(found, "c", Secret("d")).id}) == 3
    assert provider_of(found, "a", Secret("b")) == found.provider


def test_the_hosted_service_as_a_provider_brings_its_own_client() -> None:
    """Authenticate 5.4: client id, secret and URL are filled in before the id is made."""
    found = login(authenticate_service_url=OURS, idp_provider="hosted")
    assert found.provider.url == "https://authenticate.pomerium.app"
    assert found.provider.client_id == OURS
    assert len(found.provider.client_secret) == 86


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"cookie_domain": "example.com"}, "cookie_domain", "example.com"),
        ({"cookie_http_only": False}, "cookie_http_only", False),
        ({}, "cookie_expire", timedelta(hours=14)),
        ({"cookie_expire": "3600s"}, "cookie_expire", timedelta(hours=1)),
        ({"cookie_same_site": "LAX"}, "cookie_same_site", SameSite.LAX),
        ({"cookie_same_site": ""}, "cookie_same_site", SameSite.UNSET),
        ({"signout_redirect_url": "https://example.com/bye"}, "sign_out_url", "https://example.com/bye"),
        ({}, "programmatic_domains", ("localhost",)),
        ({"programmatic_redirect_domain_whitelist": ["CLI.example.com"]}, "programmatic_domains", ("cli.example.com",)),
        ({"runtime_flags": {"mcp": True}}, "portal", False),
        ({"runtime_flags": {"routes_portal": True}}, "portal", True),
        ({"runtime_flags": {"pomerium_jwt_endpoint": True}}, "assertion_endpoint", True),
        ({"console_login_keys": ["eTjS30RWle5hKLCrY9fOc1v4n7dxMI7Qaac_iGGcYhQ"]}, "server_keys", None),
    ],
)
def test_a_setting_means_what_the_table_says(fields: dict[str, Any], attribute: str, expected: object) -> None:
    """N-26, N-42; routes 1.7, 1.9."""
    found = getattr(login(**fields), attribute)
    assert found == (tuple(fields["console_login_keys"]) if expected is None else expected)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cookie_domain": "a b"}, "not a domain"),
        ({"cookie_expire": "0s"}, "expire at once"),
        ({"cookie_same_site": "sometimes"}, "not a SameSite value"),
        ({"idp_provider": "gogle"}, "not a provider"),
        ({"idp_provider_url": "idp.example.com"}, "not a URL"),
        ({"signout_redirect_url": "javascript:alert(1)"}, "not a URL"),
        ({"programmatic_redirect_domain_whitelist": ["a b"]}, "not a host"),
        ({"console_login_keys": ["short"]}, "not an HPKE public key"),
    ],
)
def test_a_bad_setting_keeps_its_value_and_is_named(fields: dict[str, Any], words: str) -> None:
    """R-4."""
    settings, faults = effective(**fields)
    (fault,) = [fault for fault in faults if not fault.warning]
    assert words in fault.reason
    assert settings.login == Login()

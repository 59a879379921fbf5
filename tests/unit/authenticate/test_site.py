"""What login knows of a configuration."""

from pomerium_agent.authenticate.site import build_site
from tests.fakes.config_records import compiled, config, route

KEY = bytes(32)


def test_hosts_of_this_cluster_and_no_others() -> None:
    """N-41: exact hosts, those with ports, wildcards, and the host of the login pages."""
    record = config(
        "c",
        route(**{"from": "https://App.example.com"}, to=["http://127.0.0.1:1"]),
        route(**{"from": "https://other.example.com:8443"}, to=["http://127.0.0.1:1"]),
        route(**{"from": "https://*.apps.example.com"}, to=["http://127.0.0.1:1"]),
        authenticate_service_url="https://auth.example.com",
        idp_provider="google",
    )
    site = build_site(compiled(record)[0], KEY)
    for host in (
        "app.example.com",
        "APP.example.com:8443",
        "other.example.com:8443",
        "x.apps.example.com",
        "a.b.apps.example.com:1",
        "auth.example.com",
    ):
        assert site.serves(host), host
    for host in ("example.com", "evil.com", "app.example.com.evil.com", ".apps.example.com", "xapps.example.com", ""):
        assert not site.serves(host), host


def test_what_stands_before_a_star_counts_as_much_as_what_stands_after_it() -> None:
    """N-41: else a route for a few names of a domain would make every other name of it a place to send people to."""
    hosts = ("https://app-*.example.com", "https://*-eu.example.org", "https://a.*.b.*.example.net", "https://*")
    record = config("c", *(route(**{"from": host}, to=["http://127.0.0.1:1"]) for host in hosts))
    site = build_site(compiled(record)[0], KEY)

    for host in ("app-1.example.com", "APP-1.example.com:8443", "x-eu.example.org", "a.x.b.y.example.net"):
        assert site.serves(host), host
    for host in ("evil.example.com", "app-.example.com", "-eu.example.org", "x.example.net", "a.x.b.example.net", "x"):
        assert not site.serves(host), host


def test_a_route_with_a_client_of_its_own() -> None:
    """A-6, authenticate 3.9: its sessions count on its host's own pages."""
    record = config(
        "c",
        route(**{"from": "https://a.example.com"}, to=["http://127.0.0.1:1"]),
        route(**{"from": "https://b.example.com"}, to=["http://127.0.0.1:1"], idp_client_id="other"),
        authenticate_service_url="https://auth.example.com",
        idp_provider="google",
        idp_client_id="usual",
    )
    site = build_site(compiled(record)[0], KEY)
    assert len(site.providers) == 2
    assert site.provider_on("a.example.com") is site.login.provider
    assert site.provider_on("B.example.com").client_id == "other"


def test_the_key_does_not_show() -> None:
    assert "kkkk" not in repr(build_site(compiled()[0], b"k" * 32))

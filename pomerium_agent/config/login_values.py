"""How the settings of logging in are read, each by itself, and what they mean together."""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from google.protobuf.duration_pb2 import Duration

from pomerium_agent.config import values
from pomerium_agent.config.complaints import Unusable, shown
from pomerium_agent.config.durations import parse_duration
from pomerium_agent.config.login import HOSTED_HOSTS, HOSTED_URL, LOCALHOST, Flow, Login, SameSite
from pomerium_agent.config.urls import ascii_host, display
from pomerium_agent.handoff.keys import hosted_client_secret
from pomerium_agent.idp.naming import with_id
from pomerium_agent.idp.settings import PROVIDERS, ProviderSettings
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.settings import Secret

_DOMAIN = re.compile(r"\.?[a-z0-9-]+(\.[a-z0-9-]+)*", re.IGNORECASE)
_PUBLIC_KEY = re.compile(r"[A-Za-z0-9_-]{43}")


def parse_cookie_domain(domain: str) -> str:
    if not _DOMAIN.fullmatch(domain):
        raise Unusable(f"{shown(domain)} is not a domain", "write it as example.com, or leave it out")
    return domain


def parse_cookie_expire(value: Duration) -> timedelta:
    parsed = parse_duration(value)
    if parsed <= timedelta(0):
        raise Unusable("sessions would expire at once", "use a time above zero, like 14h")
    return parsed


def parse_same_site(text: str) -> SameSite:
    for known in SameSite:
        if known.value.lower() == text.strip().lower():
            return known
    raise Unusable(f"{shown(text)} is not a SameSite value", "use strict, lax or none, or leave it out")


def parse_provider(name: str) -> str:
    if name not in PROVIDERS:
        raise Unusable(f"{shown(name)} is not a provider that we know", f"use one of {', '.join(PROVIDERS)}")
    return name


def parse_page_url(url: str) -> str:
    """A URL that a browser is sent to."""
    values.service_host(url)
    return url


def parse_programmatic_domains(domains: Any) -> tuple[str, ...]:
    found = []
    for domain in domains:
        try:
            found.append(ascii_host(domain))
        except ValueError:
            raise Unusable(f"{shown(display(domain))} is not a host", "write hosts without scheme and port") from None
    return tuple(dict.fromkeys(found)) or (LOCALHOST,)


def parse_server_keys(keys: Any) -> tuple[str, ...]:
    for key in keys:
        if not _PUBLIC_KEY.fullmatch(key):
            raise Unusable(f"{shown(key)} is not an HPKE public key", "use 32 bytes in base64url without padding")
    return tuple(keys)


def as_it_is(value: Any) -> Any:
    return value


# Field of the wire → key of what read_login gets, how it is read, and what it is without a value.
PARSERS: tuple[tuple[str, str, Callable[[Any], object], object], ...] = (
    ("cookie_domain", "cookie_domain", parse_cookie_domain, ""),
    ("cookie_http_only", "cookie_http_only", as_it_is, True),
    ("cookie_expire", "cookie_expire", parse_cookie_expire, timedelta(hours=14)),
    ("cookie_same_site", "cookie_same_site", parse_same_site, SameSite.UNSET),
    ("authenticate_service_url", "authenticate_url", parse_page_url, ""),
    ("authenticate_internal_service_url", "internal_url", parse_page_url, ""),
    ("idp_provider", "type", parse_provider, ""),
    ("idp_provider_url", "url", parse_page_url, ""),
    ("idp_client_id", "client_id", as_it_is, ""),
    ("idp_client_secret", "client_secret", Secret, Secret("")),
    ("scopes", "scopes", tuple, ()),
    ("request_params", "request_params", lambda found: MappingProxyType(dict(found)), MappingProxyType({})),
    ("idp_access_token_allowed_audiences", "audiences", lambda found: tuple(found.values), None),
    ("signout_redirect_url", "sign_out_url", parse_page_url, ""),
    ("programmatic_redirect_domain_whitelist", "programmatic_domains", parse_programmatic_domains, (LOCALHOST,)),
    ("console_login_keys", "server_keys", parse_server_keys, ()),
)
EMPTY_IS_UNSET = frozenset(
    (
        "cookie_domain",
        "authenticate_service_url",
        "authenticate_internal_service_url",
        "idp_provider",
        "idp_provider_url",
        "signout_redirect_url",
    )
)


def read_login(read: Mapping[str, Any], flags: Mapping[str, bool], shared_secret: bytes, forced: str) -> Login:
    """What single settings mean together. `read` is by the keys of PARSERS, `flags` without those at their defaults.

    A cluster without a provider of its own is logged in by the service at `authenticate_url`, whoever hosts it: that
    is how a replica knows a console of ours from an authenticate service of its own (authenticate 11).
    """
    url = str(read["authenticate_url"] or HOSTED_URL).rstrip("/")
    internal = str(read["internal_url"] or url).rstrip("/")
    provider = ProviderSettings(
        type=read["type"],
        url=read["url"],
        client_id=read["client_id"],
        client_secret=read["client_secret"],
        scopes=read["scopes"],
        request_params=read["request_params"],
        authenticate_url=url,
        access_token_audiences=read["audiences"],
    )
    if provider.type == "hosted":
        provider = ProviderSettings(
            type=provider.type,
            url=provider.url or HOSTED_URL,
            client_id=url,
            client_secret=Secret(hosted_client_secret(shared_secret)),
            scopes=provider.scopes,
            request_params=provider.request_params,
            authenticate_url=url,
            access_token_audiences=provider.access_token_audiences,
        )
    return Login(
        flow=_flow(internal, provider.type, forced),
        authenticate_url=url,
        internal_url=internal,
        provider=with_id(provider),
        cookie_domain=read["cookie_domain"],
        cookie_http_only=read["cookie_http_only"],
        cookie_expire=read["cookie_expire"],
        cookie_same_site=read["cookie_same_site"],
        sign_out_url=read["sign_out_url"],
        programmatic_domains=read["programmatic_domains"],
        server_keys=read["server_keys"],
        portal=_flag(flags, "routes_portal", default=True),
        assertion_endpoint=_flag(flags, "pomerium_jwt_endpoint", default=False),
        any_sign_out_redirect=_flag(flags, "allow_any_sign_out_redirect_uri", default=False),
        ends_with_id_token=_flag(flags, "refresh_session_at_id_token_expiration", default=True),
    )


def _flow(internal_url: str, provider: str, forced: str) -> Flow:
    if forced:
        return Flow(forced)
    if urlsplit(internal_url).hostname in HOSTED_HOSTS or not provider:
        return Flow.STATELESS
    return Flow.STATEFUL


def _flag(flags: Mapping[str, bool], name: str, *, default: bool) -> bool:
    """A map that is not empty replaces the whole set, so a flag it does not list is off (routes 1.7, field 118)."""
    return flags.get(name, False) if flags else default


def hosts_of(login: Login, settings: config_pb2.Settings) -> tuple[str, ...]:
    """Hosts whose login pages are this replica's own (routes 8.4): none where somebody else logs people in."""
    if login.flow is Flow.STATELESS:
        return ()
    urls = [settings.authenticate_service_url, settings.authenticate_internal_service_url]
    hosts = []
    for url in urls:
        try:
            host = values.service_host(url) if url else ""
        except Unusable:  # complained about where it was read
            continue
        if host and host not in HOSTED_HOSTS:
            hosts.append(host)
    return tuple(dict.fromkeys(hosts))

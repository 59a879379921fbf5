"""What login knows of the configuration: one frozen value per generation, swapped as a whole."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.hosts import provider_of_route, providers_of_hosts
from pomerium_agent.config.login import Login
from pomerium_agent.config.snapshot import ConfigSnapshot, Route
from pomerium_agent.idp.settings import ProviderSettings

MAX_HOST = 253  # characters of a name in DNS; several stars and a long host would take their time
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The hosts of this cluster, and how people log in to them. `Site()` logs nobody in."""

    login: Login = field(default_factory=Login)
    cookie_name: str = "_pomerium"
    shared_key: bytes = field(default=b"", repr=False)
    hosts: frozenset[str] = frozenset()  # of routes, in lower case, with the port where a route names one
    wildcards: tuple[str, ...] = ()  # of routes, like `*.example.com`; not `*`, which is anybody's
    authenticate_hosts: frozenset[str] = frozenset()  # whose login pages are ours
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)  # by id: the default one, and routes'
    idps_of_host: Mapping[str, frozenset[str]] = field(default_factory=dict)  # ids, by host without a port
    provider_of_host: Mapping[str, ProviderSettings] = field(default_factory=dict)  # where it is not the default one
    branding: Mapping[str, str] = field(default_factory=lambda: NOTHING)  # by the names of the settings
    routes: tuple[Route, ...] = ()  # those that serve, for the portal

    def serves(self, host: str) -> bool:
        """Whether a host (perhaps with a port) is one of this cluster's: nobody is sent anywhere else (N-41)."""
        host = host.lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
        if {host, name} & (self.hosts | self.authenticate_hosts):
            return True
        return any(_fits(name, wildcard) for wildcard in self.wildcards)

    def provider_on(self, host: str) -> ProviderSettings:
        """Whose sessions count on our own pages of a host."""
        return self.provider_of_host.get(host.lower(), self.login.provider)

    def logs_in_with(self, host: str, idp_id: str) -> bool:
        """Whether sessions of that provider are of any use on a host (N-19). A wildcard's may be anybody's."""
        host = host.lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
        known = self.idps_of_host.get(name)
        return idp_id in (self.providers if known is None else known)


def build_site(snapshot: ConfigSnapshot, shared_key: bytes) -> Site:
    """The part of a configuration that login needs. Pure."""
    settings = snapshot.settings
    login = settings.login
    providers = {login.provider.id: login.provider}
    hosts: set[str] = set()
    wildcards: dict[str, None] = {}
    idps: dict[str, set[str]] = {}
    for route in snapshot.routes:
        source = route.source
        if source.wildcard:
            wildcards[source.host] = None
        else:
            hosts.add(source.host if source.port is None else f"{source.host}:{source.port}")
        provider = provider_of_route(route, login)
        providers[provider.id] = provider
        if not source.wildcard:
            idps.setdefault(source.host, set()).add(provider.id)
    return Site(
        login=login,
        cookie_name=settings.cookie_name,
        shared_key=shared_key,
        hosts=frozenset(hosts),
        wildcards=tuple(host for host in wildcards if not host.endswith("*")),
        authenticate_hosts=frozenset(settings.hosts_of_authenticate),
        providers=MappingProxyType(providers),
        idps_of_host=MappingProxyType({host: frozenset(ids) for host, ids in idps.items()}),
        provider_of_host=MappingProxyType(dict(providers_of_hosts(snapshot.routes, login))),
        branding=settings.branding,
        routes=tuple(route for route in snapshot.routes if not isinstance(route.action, Unavailable)),
    )


def _fits(host: str, wildcard: str) -> bool:
    """Each `*` stands for something; to Envoy it may stand for nothing (routes 3.6), which names no host."""
    return len(host) <= MAX_HOST and re.fullmatch(".+".join(map(re.escape, wildcard.split("*"))), host) is not None

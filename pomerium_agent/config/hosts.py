"""Whose sessions count on a host as a whole: our own pages there belong to no route. Pure."""

from collections.abc import Iterable, Mapping

from pomerium_agent.config.login import Login, provider_of
from pomerium_agent.config.snapshot import Route
from pomerium_agent.config.source import MatchKind
from pomerium_agent.idp.settings import ProviderSettings

OWN_PATH = "/.pomerium/"


def provider_of_route(route: Route, login: Login) -> ProviderSettings:
    """Who logs people in for one route (authenticate 3.9)."""
    return provider_of(login, route.access.idp_client_id, route.access.idp_client_secret)


def providers_of_hosts(routes: Iterable[Route], login: Login) -> Mapping[str, ProviderSettings]:
    """By host, where it is not the default one: the provider of the route that would take our pages' paths (A-6)."""
    first: dict[str, ProviderSettings] = {}
    for route in routes:
        if route.match.kind is MatchKind.REGEX or OWN_PATH.startswith(route.match.value):
            first.setdefault(route.source.host, provider_of_route(route, login))
    return {host: provider for host, provider in first.items() if provider.id != login.provider.id}

"""The configuration in force, as authorization needs it. Pure but for what it remembers of the last one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pomerium_agent.authorize.rules import DEFAULT_LOG_FIELDS, RouteRules, Rules
from pomerium_agent.config.action import Forward, LoadBalancing, Unavailable
from pomerium_agent.config.hosts import provider_of_route, providers_of_hosts
from pomerium_agent.config.limit import RateKey
from pomerium_agent.config.login import Flow
from pomerium_agent.config.snapshot import BearerFormat, ConfigSnapshot, Route, Settings
from pomerium_agent.config.templates import parse_template
from pomerium_agent.envoyconfig.route import checksum
from pomerium_agent.look.branding import read_branding
from pomerium_agent.sessions import bearer
from pomerium_agent.sessions.bearer import BearerRule
from pomerium_agent.sessions.jwt import JwtProvider
from pomerium_agent.sessions.signer import Signer, read_published, read_signer

OFFERED = 16  # versions of the configuration that Envoy may still take or have taken, beside the one in force
FORMER_KEYS = 4  # of tokens before that are still published
_AFFINE = (LoadBalancing.RING_HASH, LoadBalancing.MAGLEV)
_FORMATS: Mapping[BearerFormat, bearer.BearerFormat] = {
    BearerFormat.ACCESS_TOKEN: bearer.BearerFormat.ACCESS_TOKEN,
    BearerFormat.IDENTITY_TOKEN: bearer.BearerFormat.IDENTITY_TOKEN,
    BearerFormat.JWT: bearer.BearerFormat.JWT,
}


@dataclass(slots=True)
class RulesBuilder:
    """Makes Rules of one snapshot after the other; what did not change is the same object again (A-33)."""

    shared_key: bytes = field(repr=False)
    signer: Signer  # the one derived from the cluster token, where the settings bring none
    _settings: Settings | None = None
    _routes: dict[str, RouteRules] = field(default_factory=dict)  # by route key
    _built: list[tuple[Rules, dict[str, RouteRules]]] = field(
        default_factory=list
    )  # since Envoy took the first of them
    _taken: Rules | None = None
    _former: tuple[Mapping[str, str], ...] = ()  # public keys of tokens before

    def sign_with(self, signer: Signer) -> None:
        """The cluster has another token. The public key of the one before stays published."""
        if signer.kid != self.signer.kid:
            self._former = (*self._former[-FORMER_KEYS + 1 :], self.signer.jwk)
            self.signer = signer

    def taken(self, rules: Rules) -> None:
        """Envoy has taken the routes that `rules` are for, and asks about nothing older any more."""
        self._taken = rules

    def build(self, snapshot: ConfigSnapshot) -> Rules:
        """The rules of a configuration. A route that stands aside because of a fault is not in them."""
        settings = snapshot.settings
        kept = self._routes if self._settings == settings else {}
        used: dict[str, RouteRules] = {}
        routes: dict[str, RouteRules] = {}
        for route in snapshot.routes:
            if not isinstance(route.action, Unavailable):
                routes[route.id] = used[route.key] = kept.get(route.key) or _route(route, settings)
        taken = next((at for at, (built, _) in enumerate(self._built) if built is self._taken), 0)
        self._built = [*self._built[taken : taken + 1], *self._built[taken + 1 :][-OFFERED:]]
        former = {
            (each.id, each.checksum): each for _, built in self._built for key, each in built.items() if key not in used
        }
        self._settings, self._routes = settings, used
        pem = settings.signing_key.encode()
        signer = read_signer(pem) if pem else self.signer
        public_keys = (
            signer.jwk,
            *read_published(pem),
            *self._former,
            self.signer.jwk,
        )  # the control plane looks for the last one
        rules = Rules(
            routes=MappingProxyType(routes),
            former=MappingProxyType(former),
            cookie_name=settings.cookie_name,
            shared_key=self.shared_key,
            handle_lifetime=settings.login.cookie_expire,
            authenticate_url=settings.login.authenticate_url,
            stateless=settings.login.flow is Flow.STATELESS,
            default_idp_id=settings.login.provider.id,
            idp_of_host=MappingProxyType(
                {host: each.id for host, each in providers_of_hosts(snapshot.routes, settings.login).items()}
            ),
            jwt_claims_headers=settings.jwt_claims_headers,
            signer=signer,
            public_keys=tuple({key["kid"]: key for key in public_keys}.values()),
            log_fields=DEFAULT_LOG_FIELDS if settings.authorize_log_fields is None else settings.authorize_log_fields,
            branding=read_branding(settings.branding),
            google_account=settings.google_account,
        )
        self._built.append((rules, used))
        return rules


def _route(route: Route, settings: Settings) -> RouteRules:
    access = route.access
    passes = settings.pass_identity_headers if route.pass_identity_headers is None else route.pass_identity_headers
    upstream = route.action.upstream if isinstance(route.action, Forward) else None
    return RouteRules(
        id=route.id,
        checksum=checksum(route),
        name=route.name,
        policy=access.policy,
        also=access.also,
        show_error_details=access.show_error_details,
        pass_identity_headers=passes,
        issuer_uri=settings.issuer_uri if access.issuer_uri is None else access.issuer_uri,
        groups_filter=frozenset((*settings.groups_filter, *access.groups_filter)),
        bearer=_bearer(route, settings),
        set_request_headers=tuple(
            (name, parse_template(template)) for name, template in route.set_request_headers.items()
        ),
        kubernetes=route.kubernetes,
        kubernetes_token=route.kubernetes_token,
        serverless_audience=route.serverless_audience,
        affinity=upstream is not None and upstream.load_balancing in _AFFINE,
        depends_on=access.depends_on,
        idp_id=provider_of_route(route, settings.login).id,
        client_trust=settings.client_certificates.trust(access.client_ca),
        stat_name=route.stat_name,
        limits_users=route.rate_limit is not None and route.rate_limit.key is RateKey.USER,
    )


def _bearer(route: Route, settings: Settings) -> BearerRule | None:
    wanted = settings.bearer_format if route.access.bearer_format is None else route.access.bearer_format
    known = _FORMATS.get(wanted)
    if known is None:
        return None
    return BearerRule(
        format=known,
        authenticate_url=settings.login.internal_url,
        providers=_providers(route, settings) if known is bearer.BearerFormat.JWT else (),
        cookie_expire=settings.login.cookie_expire,
        audiences=route.access.access_token_audiences,
    )


def _providers(route: Route, settings: Settings) -> tuple[JwtProvider, ...]:
    """Those that the route names, or all; one that is named and cannot be used is not there (authorize 4.2)."""
    wanted = route.access.identity_providers
    return tuple(
        JwtProvider(
            name=provider.name,
            issuer=provider.issuer,
            audiences=provider.audiences,
            jwks_url=provider.jwks_url,
            algorithms=provider.algorithms,
        )
        for provider in settings.identity_providers
        if not wanted or provider.name in wanted
    )

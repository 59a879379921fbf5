"""One route as the control plane sent it → one checked route, or everything that is wrong with it (R-5)."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pomerium_agent.config.access import PolicyMemory, parse_access
from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.forwarding import parse_action
from pomerium_agent.config.google import parse_audience
from pomerium_agent.config.headers import parse_headers, parse_removals, parse_response_rewrites
from pomerium_agent.config.kubernetes import (
    TOKEN_MISSING,
    check_kubernetes_headers,
    is_kubernetes,
    parse_kubernetes_token,
)
from pomerium_agent.config.limit import RateKey
from pomerium_agent.config.order import SortKey
from pomerium_agent.config.rate_limits import count_by_address, parse_route_limit
from pomerium_agent.config.rewrites import parse_match
from pomerium_agent.config.route_login import check_login, check_whitelists
from pomerium_agent.config.route_names import from_of, place_of, route_id, subject_of
from pomerium_agent.config.snapshot import NO_SECRET, Access, Fault, Route
from pomerium_agent.config.source import Kind, Match, MatchKind, Source
from pomerium_agent.config.support import check_support
from pomerium_agent.config.templates import asks_who
from pomerium_agent.config.upstream_tls import ReadFile, parse_downstream_ca
from pomerium_agent.config.urls import ascii_host, display, parse_source
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.policy import RoutePolicy
from pomerium_agent.policy.everybody import admits_everybody


@dataclass(frozen=True, slots=True)
class RouteContext:
    """What a route's meaning depends on beyond itself. When it changes, every route is checked again."""

    allow_upgrades: tuple[str, ...] = ()
    client_ca: bool = False  # visitors' certificates are judged by an authority of the settings
    certificates_by_policy: bool = False  # only policies turn away those without a good one
    jwt_bearer: bool = False
    identity_providers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CheckedRoute:
    """The outcome for one route. `route` is None when it must stand aside; then `source` and `match` say where."""

    id: str
    record_id: str
    subject: str  # how faults call it
    digest: bytes  # of what the control plane sent, computed fields left out
    version: str  # a hash of that and of all else that it was made from
    name: str
    stat_name: str
    public: bool
    access: Access
    route: Route | None
    faults: tuple[Fault, ...]
    source: Source | None  # None: `from` is unusable, so the route has no place
    match: Match | None
    place: SortKey | None
    files: tuple[str, ...] = ()  # which the route names; their content is part of `route.key`

    @property
    def fault(self) -> Fault | None:
        """The first reason for standing aside."""
        return next((fault for fault in self.faults if not fault.warning), None)


def check_route(
    route: config_pb2.Route,
    *,
    record_id: str = "",
    context: RouteContext | None = None,
    read_file: ReadFile | None = None,
    found: Iterable[Fault] = (),
    policies: PolicyMemory | None = None,
) -> CheckedRoute:
    """Check everything about one route and name every fault at once (routes 4.3, 4.4).

    `found` are faults found before, while the references of an entity were resolved. Without `read_file`,
    files that the route names are taken on trust.
    """
    context = context or RouteContext()
    identity, url = route_id(route), from_of(route)
    complaints = Complaints(subject_of(route, identity), record_id=record_id, route_id=identity, faults=list(found))
    reader = _NotingReader(read_file) if read_file is not None else None

    source = complaints.attempt("from", parse_source, url)
    connect = source is not None and source.kind is not Kind.HTTP
    match = Match(MatchKind.CONNECT) if connect else parse_match(route, complaints)
    name = route.tls_downstream_server_name
    downstream_name = (complaints.attempt("tls_downstream_server_name", _server_name, name) or "") if name else ""
    check_support(route, complaints)
    check_whitelists(route, complaints)
    check_login(
        route, jwt_bearer=context.jwt_bearer, identity_providers=context.identity_providers, complaints=complaints
    )
    if is_kubernetes(route):
        check_kubernetes_headers(route, complaints)
    client_ca = parse_downstream_ca(route, reader, complaints)
    required = (context.client_ca or client_ca is not None) and not context.certificates_by_policy
    action = parse_action(
        route, context.allow_upgrades, reader, complaints, kind=source.kind if source is not None else Kind.HTTP
    )
    audience = parse_audience(route, action, complaints)
    set_request_headers = parse_headers("set_request_headers", route.set_request_headers, complaints)
    remove_request_headers = parse_removals("remove_request_headers", route.remove_request_headers, complaints)
    set_response_headers = parse_headers("set_response_headers", route.set_response_headers, complaints)
    rewrites = parse_response_rewrites(route.rewrite_response_headers, complaints)
    rate_limit = parse_route_limit(route, complaints)

    sent = route.SerializeToString(deterministic=True)
    serves = source is not None and match is not None and not complaints.refused
    # Only now: a policy or a token that cannot be used closes the route, and does not put it into quarantine.
    access = parse_access(
        route,
        client_ca=client_ca,
        client_certificates_required=required,
        memory=policies or PolicyMemory(),
        complaints=complaints,
    )
    kubernetes, token = is_kubernetes(route), NO_SECRET
    if kubernetes:
        token = parse_kubernetes_token(route, reader, complaints)
        if not token and reader is not None:
            access = replace(access, policy=RoutePolicy(closed=TOKEN_MISSING))
    everybody = admits_everybody(access.policy)
    # Whoever is let in anyway has to be asked about where a header tells who they are (routes 1.2: 22).
    public = everybody and not kubernetes and not audience and not asks_who(set_request_headers.values())
    if everybody and serves and rate_limit is not None and rate_limit.key is RateKey.USER:
        rate_limit = count_by_address(rate_limit, complaints)
    version = _key(sent, record_id, _standing(public, required), context, reader)
    checked = None
    if serves and source is not None and match is not None:
        checked = Route(
            id=identity,
            key=version,
            record_id=record_id,
            name=route.name,
            description=route.description,
            logo_url=route.logo_url,
            stat_name=route.stat_name or route.name,
            source=source,
            match=match,
            action=action,
            downstream_name=downstream_name,
            public=public,
            bare=not route.prefix,
            regex_priority=route.regex_priority_order if route.HasField("regex_priority_order") else None,
            set_request_headers=set_request_headers,
            remove_request_headers=remove_request_headers,
            set_response_headers=set_response_headers,
            rewrite_response_headers=rewrites,
            pass_identity_headers=route.pass_identity_headers if route.HasField("pass_identity_headers") else None,
            kubernetes=kubernetes,
            kubernetes_token=token,
            serverless_audience=audience,
            access=access,
            rate_limit=rate_limit,
        )
    return CheckedRoute(
        id=identity,
        record_id=record_id,
        subject=complaints.subject,
        digest=hashlib.sha256(sent).digest(),
        version=version,
        name=route.name,
        stat_name=route.stat_name or route.name,
        public=public,
        access=access,
        route=checked,
        faults=tuple(complaints.faults),
        source=source,
        match=match,
        place=place_of(route, source, identity) if source is not None else None,
        files=tuple(reader.digests) if reader is not None else (),
    )


class _NotingReader:
    """Reads files, and remembers which and what, so that a changed file makes a changed route."""

    def __init__(self, read_file: ReadFile) -> None:
        self._read_file = read_file
        self.digests: dict[str, bytes] = {}

    def __call__(self, path: str) -> bytes:
        self.digests[path] = b""
        content = self._read_file(path)
        self.digests[path] = hashlib.sha256(content).digest()
        return content


def _key(sent: bytes, record_id: str, standing: bytes, context: RouteContext, reader: _NotingReader | None) -> str:
    """A hash of everything that the checked route was made from."""
    parts = [sent, record_id.encode(), standing]
    parts += [name.encode() for name in context.allow_upgrades]
    if reader is not None:
        parts += [path.encode() + digest for path, digest in sorted(reader.digests.items())]
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()[:32]


def _standing(public: bool, required: bool) -> bytes:
    """Which of the rules that the settings add hold for a route."""
    if public:
        return b"public"
    return b"certificates" if required else b""


def _server_name(name: str) -> str:
    """A host that a visitor may ask for by SNI. Raises Unusable."""
    try:
        host = ascii_host(name)
    except ValueError:
        host = ""
    if not host or "*" in host:
        raise Unusable(f"{shown(display(name))} is not a host", "write a host without scheme, port and asterisk")
    return host

"""One route as Envoy has it: what it matches, what becomes of the request, what the filters are told (routes 4)."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue

from pomerium_agent.config.action import DirectResponse, Forward, HostRewrite, Redirect, Unavailable
from pomerium_agent.config.snapshot import ConfigSnapshot, Route
from pomerium_agent.config.source import Kind, MatchKind
from pomerium_agent.envoyconfig.headers import (
    added_request_headers,
    disables,
    global_response_headers,
    header_option,
    removed_request_headers,
    response_headers,
)
from pomerium_agent.envoyconfig.rate_limits import limit_of_route
from pomerium_agent.envoyconfig.skip import AWAKE, EXT_AUTHZ
from pomerium_agent.envoyconfig.wire import any_of, duration, text
from pomerium_agent.pb.envoy.config.core.v3 import base_pb2
from pomerium_agent.pb.envoy.config.route.v3 import route_components_pb2 as pb
from pomerium_agent.pb.envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from pomerium_agent.pb.envoy.type.matcher.v3 import regex_pb2, string_pb2

# Filters that sleep, except on the routes that need them.
IMPERSONATION = "pomerium.impersonation"
GROUPS = "pomerium.groups"
REWRITE = "pomerium.rewrite"
LUA_METADATA = "envoy.filters.http.lua"
ROUTING_KEY = "x-pomerium-routing-key"

NOT_CHECKED = any_of(ext_authz_pb2.ExtAuthzPerRoute(disabled=True))
_HASH_POLICIES = (
    pb.RouteAction.HashPolicy(header=pb.RouteAction.HashPolicy.Header(header_name=ROUTING_KEY), terminal=True),
    pb.RouteAction.HashPolicy(
        connection_properties=pb.RouteAction.HashPolicy.ConnectionProperties(source_ip=True), terminal=True
    ),
)
# The same matcher catches both kinds of tunnel, and one name and port may have both, as DNS does.
_TCP = pb.HeaderMatcher(name=":method", string_match=string_pb2.StringMatcher(exact="CONNECT"))
_UDP = pb.HeaderMatcher(name="upgrade", string_match=string_pb2.StringMatcher(exact="connect-udp", ignore_case=True))
_REDIRECT_CODES = {
    301: pb.RedirectAction.MOVED_PERMANENTLY,
    302: pb.RedirectAction.FOUND,
    303: pb.RedirectAction.SEE_OTHER,
    307: pb.RedirectAction.TEMPORARY_REDIRECT,
    308: pb.RedirectAction.PERMANENT_REDIRECT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteContext:
    """What routes read of the settings. Equal contexts and equal route keys make equal bytes, so caches use both."""

    any_port: bool
    default_timeout: timedelta
    cookie_name: str
    pass_identity: bool
    claims: tuple[str, ...]
    response_headers: tuple[tuple[str, str], ...]  # on every route
    table_response_headers: tuple[tuple[str, str], ...]  # once, for all routes

    @classmethod
    def of(cls, snapshot: ConfigSnapshot) -> "RouteContext":
        settings = snapshot.settings
        everywhere = tuple(sorted(global_response_headers(settings).items()))
        # What the table says cannot be unsaid by a route. So if any route wants no headers at all, each says its own.
        shared = not any(disables(route.set_response_headers) for route in snapshot.routes)
        return cls(
            any_port=settings.match_any_incoming_port,
            default_timeout=settings.default_upstream_timeout,
            cookie_name=settings.cookie_name,
            pass_identity=settings.pass_identity_headers,
            claims=tuple(sorted(settings.jwt_claims_headers)),
            response_headers=() if shared else everywhere,
            table_response_headers=everywhere if shared else (),
        )


def cluster_name(route: Route) -> str:
    """The name of a route's cluster: by id, so that renaming the route keeps its connections (R-29).

    Open and closed routes never share one. Clusters change before the routes that name them, and whoever closes a
    route and gives it another upstream must not have the open route of before lead there meanwhile.
    """
    return f"{'open' if route.public else 'route'}-{route.id}"


def checksum(route: Route) -> int:
    """What the authorization service compares, to know that Envoy and it speak of the same version of a route (R-9)."""
    return int.from_bytes(hashlib.sha256(route.key.encode()).digest()[:8], "big")


def build_route(route: Route, context: RouteContext, *, authority_regex: str = "") -> pb.Route:
    """The route as Envoy matches and runs it; `authority_regex` is for hosts with a wildcard (routes 3.6)."""
    removed = removed_request_headers(route, pass_identity=context.pass_identity, claims=context.claims)
    built = pb.Route(
        name=route.id,
        match=_build_match(route, authority_regex),
        metadata=_build_metadata(route, context.cookie_name),
        typed_per_filter_config={EXT_AUTHZ: _build_check(route)}
        | dict.fromkeys(_awake(route), AWAKE)
        | _build_limits(route),
        request_headers_to_add=[header_option(*header) for header in added_request_headers(route, removed)],
        request_headers_to_remove=removed,
        response_headers_to_add=[
            header_option(*header)
            for header in response_headers(dict(context.response_headers), route.set_response_headers)
        ],
    )
    match route.action:
        case Forward():
            built.route.CopyFrom(_build_forward(route, route.action, context))
        case Redirect():
            built.redirect.CopyFrom(_build_redirect(route.action))
        case DirectResponse():
            built.direct_response.CopyFrom(_build_answer(route.action.status, route.action.body))
        case Unavailable():
            built.direct_response.CopyFrom(_build_answer(503, _unavailable(route.action.fault_id)))
    return built


def _build_match(route: Route, authority_regex: str) -> pb.RouteMatch:
    built = pb.RouteMatch()
    match route.match.kind:
        case MatchKind.PREFIX:
            built.prefix = route.match.value
        case MatchKind.PATH:
            built.path = route.match.value
        case MatchKind.REGEX:
            built.safe_regex.regex = route.match.value
        case MatchKind.CONNECT:
            built.connect_matcher.SetInParent()
            built.headers.append(_UDP if route.source.kind is Kind.UDP else _TCP)
    if authority_regex:
        built.headers.append(
            pb.HeaderMatcher(
                name=":authority",
                string_match=string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=authority_regex)),
            )
        )
    return built


def _build_metadata(route: Route, cookie_name: str) -> base_pb2.Metadata:
    """What the Lua filters are told about this route (routes 4.1)."""
    told = Struct()
    told["remove_pomerium_cookie"] = cookie_name
    told["remove_pomerium_authorization"] = True
    if route.kubernetes:
        told["remove_impersonate_headers"] = True
    if route.rewrite_response_headers:
        told["rewrite_response_headers"] = [
            {"header": rewrite.header, "value": rewrite.value}
            | ({} if rewrite.prefix is None else {"prefix": rewrite.prefix})
            for rewrite in route.rewrite_response_headers
        ]
    return base_pb2.Metadata(filter_metadata={LUA_METADATA: told})


def _awake(route: Route) -> list[str]:
    """The filters that this route wakes."""
    wanted = {IMPERSONATION: route.kubernetes, GROUPS: route.kubernetes, REWRITE: bool(route.rewrite_response_headers)}
    return [name for name, awake in wanted.items() if awake]


def _build_check(route: Route) -> AnyMessage:
    """Whether the authorization service is asked, and what it is told (R-9).

    Redirects and direct responses are asked like any other. A route that stands aside because of a fault
    only says so, to everybody.
    """
    if route.public or isinstance(route.action, Unavailable):
        return NOT_CHECKED
    return any_of(
        ext_authz_pb2.ExtAuthzPerRoute(
            check_settings=ext_authz_pb2.CheckSettings(
                context_extensions={
                    "internal": "false",
                    "route_id": route.id,
                    "route_checksum": str(checksum(route)),
                }
            )
        )
    )


def _build_limits(route: Route) -> dict[str, AnyMessage]:
    """A route that stands aside answers the same to everybody, at no cost."""
    if route.rate_limit is None or isinstance(route.action, Unavailable):
        return {}
    return dict([limit_of_route(route.id, route.rate_limit)])


def _build_forward(route: Route, forward: Forward, context: RouteContext) -> pb.RouteAction:
    built = pb.RouteAction(
        cluster=cluster_name(route),
        timeout=duration(context.default_timeout if forward.timeout is None else forward.timeout),
        idle_timeout=None if forward.idle_timeout is None else duration(forward.idle_timeout),
        append_x_forwarded_host=forward.append_forwarded_host and not forward.host_rewrite.preserve,
        hash_policy=_HASH_POLICIES,
        upgrade_configs=[_build_upgrade(forward, kind, enabled) for kind, enabled in _upgrades(route, forward)],
    )
    _rewrite_path(built, forward)
    # The next proxy is asked for where the tunnel leads; its own name there would lead it back to itself.
    _rewrite_host(built, forward.host_rewrite, goes_on=route.source.kind is not Kind.HTTP and not forward.connect)
    return built


def _rewrite_path(built: pb.RouteAction, forward: Forward) -> None:
    """At most one of both rewrites: Envoy refuses the whole route table otherwise (routes 4.2)."""
    first = forward.upstream.endpoints[0]
    if forward.prefix_rewrite:
        built.prefix_rewrite = forward.prefix_rewrite
    elif forward.regex_rewrite:
        built.regex_rewrite.pattern.regex = forward.regex_rewrite
        built.regex_rewrite.substitution = forward.regex_substitution
    elif first.path and not first.pipe:
        built.prefix_rewrite = first.path


def _rewrite_host(built: pb.RouteAction, rewrite: HostRewrite, *, goes_on: bool) -> None:
    """The first that is set decides; by default the upstream sees its own name, but for `goes_on` (routes 4.2)."""
    if rewrite.literal:
        built.host_rewrite_literal = rewrite.literal
    elif rewrite.header:
        built.host_rewrite_header = rewrite.header
    elif rewrite.path_regex:
        built.host_rewrite_path_regex.pattern.regex = rewrite.path_regex
        built.host_rewrite_path_regex.substitution = rewrite.path_substitution
    else:
        built.auto_host_rewrite.value = not rewrite.preserve and not goes_on


def _upgrades(route: Route, forward: Forward) -> tuple[tuple[str, bool], ...]:
    """Each type once, whatever its case (R-10), with the one that carries a tunnel."""
    tunnel = {Kind.TCP: (("connect", True),), Kind.UDP: (("connect-udp", True),), Kind.HTTP: ()}[route.source.kind]
    found: dict[str, tuple[str, bool]] = {}
    for kind, enabled in (*forward.upgrades, *tunnel):
        found.setdefault(kind.lower(), (kind, enabled))
    return tuple(found.values())


def _build_upgrade(forward: Forward, kind: str, enabled: bool) -> pb.RouteAction.UpgradeConfig:
    built = pb.RouteAction.UpgradeConfig(upgrade_type=kind, enabled=BoolValue(value=enabled))
    if forward.connect and kind.lower() in ("connect", "connect-udp"):
        built.connect_config.SetInParent()
    return built


def _build_redirect(redirect: Redirect) -> pb.RedirectAction:
    built = pb.RedirectAction(response_code=_REDIRECT_CODES[redirect.code], strip_query=redirect.strip_query)
    if redirect.https is not None:
        built.https_redirect = redirect.https
    elif redirect.scheme is not None:
        built.scheme_redirect = redirect.scheme
    if redirect.host is not None:
        built.host_redirect = redirect.host
    if redirect.port is not None:
        built.port_redirect = redirect.port
    if redirect.path is not None:
        built.path_redirect = redirect.path
    elif redirect.prefix is not None:
        built.prefix_rewrite = redirect.prefix
    return built


def _build_answer(status: int, body: str) -> pb.DirectResponseAction:
    return pb.DirectResponseAction(status=status, body=text(body) if body else None)


def _unavailable(fault_id: str) -> str:
    return (
        "503 Service Unavailable\n\n"
        "This route is set aside because its configuration has a fault.\n"
        f"Whoever runs this site finds it under the fault id {fault_id}.\n"
    )

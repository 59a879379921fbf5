"""The HTTP filters every request passes, in their order (routes 8.1).

arrive → arrive_json → login_limit → limit → cookies → impersonation → certificate → ext_authz → user_limit → groups →
leave → rewrite → router. Before the last come those of HTTP/3, if it is served. Nothing here is more than a stock Envoy
has (R-19): the filters that Pomerium's own build adds are left out. A public route switches ext_authz off for itself,
so it needs the agent for nothing. Where requests are traced, two more stand around ext_authz.

The scripts run only for requests that give them something to do: they are skipped by what the headers say, or sleep
except on routes that wake them. The condition must be true whenever the script would do anything, so each script does
one thing.
"""

from datetime import timedelta
from functools import cache
from importlib.resources import files

from google.protobuf.message import Message

from pomerium_agent.config.snapshot import Settings
from pomerium_agent.envoyconfig.agent_clusters import AUTHORIZE_CLUSTER
from pomerium_agent.envoyconfig.client_certificates import CERTIFICATE_NAMESPACE, Asking
from pomerium_agent.envoyconfig.headers import REPROXY_HEADERS
from pomerium_agent.envoyconfig.local_replies import REPLY_TYPE
from pomerium_agent.envoyconfig.rate_limits import (
    LIMIT,
    LOGIN_LIMIT,
    USER_LIMIT,
    build_login_limit,
    build_sleeping_limit,
)
from pomerium_agent.envoyconfig.route import GROUPS, IMPERSONATION, LUA_METADATA, REWRITE, ROUTING_KEY
from pomerium_agent.envoyconfig.skip import (
    EXT_AUTHZ,
    Predicate,
    begins,
    both,
    contains,
    either,
    fits,
    header,
    not_,
    present,
    unless,
)
from pomerium_agent.envoyconfig.tracing import TRACE_HEADER, build_forgetting, build_note
from pomerium_agent.envoyconfig.wire import any_of, duration, text
from pomerium_agent.pb.envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from pomerium_agent.pb.envoy.config.core.v3 import config_source_pb2, extension_pb2, grpc_service_pb2
from pomerium_agent.pb.envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from pomerium_agent.pb.envoy.extensions.filters.http.lua.v3 import lua_pb2
from pomerium_agent.pb.envoy.extensions.filters.http.router.v3 import router_pb2
from pomerium_agent.pb.envoy.extensions.filters.http.set_metadata.v3 import set_metadata_pb2
from pomerium_agent.pb.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from pomerium_agent.pb.envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from pomerium_agent.pb.envoy.type.matcher.v3 import string_pb2
from pomerium_agent.pb.envoy.type.v3 import http_status_pb2
from pomerium_agent.sessions.sources import QUERY_PARAMETER

# Lua reads a route's metadata under the filter's own name, then under envoy.filters.http.lua.
ARRIVE = "pomerium.arrive"
ARRIVE_JSON = "pomerium.arrive_json"
COOKIES = "pomerium.cookies"
LEAVE = "pomerium.leave"
NOTE_TRACE, FORGET_TRACE = "pomerium.note_trace", "pomerium.forget_trace"
CERTIFICATE = "pomerium.certificate"
# How authorization tells groups.lua whom to impersonate; in a client's mouth it would be a claim.
IMPERSONATE_GROUPS = "x-pomerium-impersonate-groups"
# What arrive would find to be HTML, which is what it writes down nothing for: no Accept, or HTML or anything first.
_HTML_FIRST = r"(text/html|\*/\*)(,.*)?"
# Only these make arrive find anything else.
_OTHER_KINDS = r"(?i).*(application/(json|\*)|text/(plain|\*)).*"
# What arrive would find to be JSON: that first, and nothing that says how much it is wanted.
_JSON_FIRST = r"(?i)application/(json|\*)\s*(,[^;]*)?"
# What is in every Authorization header that leave would take off.
_OURS = "Pomerium"
# And in every path, since each letter of a name may be escaped.
_SESSION_IN_QUERY = "(?i).*[?&]" + "".join(f"({letter}|%{ord(letter):02x})" for letter in QUERY_PARAMETER) + ".*"
_WITHOUT_TIMEOUT = timedelta(seconds=30)  # what Pomerium makes of a timeout of zero


def build_filters(
    settings: Settings, asked: Asking = Asking.NOT, *beside: hcm_pb2.HttpFilter
) -> list[hcm_pb2.HttpFilter]:
    """The chain of the main listener; what client certificates need is there only where visitors are asked for one.

    `beside`: what only this listener has.
    """
    certificate = asked is not Asking.NOT
    traced = settings.tracing.target is not None
    return [
        _filter(ARRIVE, unless(either(_wants_html(), _wants_json()), ARRIVE, _build_lua("arrive.lua"))),
        _filter(ARRIVE_JSON, unless(not_(_wants_json()), ARRIVE_JSON, _build_note("json"))),
        *([_sleeping(LOGIN_LIMIT, build_login_limit(settings.login_limit))] if settings.login_limit else []),
        _sleeping(LIMIT, build_sleeping_limit()),
        _filter(COOKIES, unless(not_(_several_cookies()), COOKIES, _build_lua("cookies.lua"))),
        _sleeping(IMPERSONATION, _build_lua("impersonation.lua")),
        *([_filter(CERTIFICATE, _build_lua("certificate.lua"))] if certificate else []),
        *([_filter(NOTE_TRACE, build_note())] if traced else []),
        _filter(EXT_AUTHZ, _build_ext_authz(settings.grpc_client_timeout or _WITHOUT_TIMEOUT, certificate)),
        *([_filter(FORGET_TRACE, build_forgetting())] if traced else []),
        _sleeping(USER_LIMIT, build_sleeping_limit()),
        _sleeping(GROUPS, _build_lua("groups.lua")),
        _filter(LEAVE, unless(not_(_carries_ours(settings.cookie_name)), LEAVE, _build_lua("leave.lua"))),
        _sleeping(REWRITE, _build_lua("rewrite.lua")),
        *beside,
        build_router(),
    ]


def _wants_html() -> Predicate:
    """Errors may be shown as HTML; true only where arrive.lua would say so too, if not everywhere it would."""
    first = header("accept", fits(_HTML_FIRST))
    return both(not_(_is_grpc()), either(not_(present("accept")), first, not_(header("accept", fits(_OTHER_KINDS)))))


def _wants_json() -> Predicate:
    """Errors are wanted as JSON; true only where arrive.lua would say so too. A filter in C++ writes it down then."""
    return both(header("accept", fits(_JSON_FIRST)), not_(_is_grpc()))


def _is_grpc() -> Predicate:
    return header("content-type", begins("application/grpc"))


def _several_cookies() -> Predicate:
    """There may be several Cookie lines: this is asked about all of them, joined with commas."""
    return header("cookie", contains(","))


def _carries_ours(cookie_name: str) -> Predicate:
    """There may be something on the request that only concerns us, or would harm what we say; true wherever leave.lua
    would take it off.
    """
    return either(
        header("cookie", contains(cookie_name)),
        header("authorization", contains(_OURS)),
        present("x-pomerium-authorization"),
        header(":path", fits(_SESSION_IN_QUERY)),
        header("connection", contains(",")),  # there only with an upgrade, which alone it names honestly
    )


def build_router() -> hcm_pb2.HttpFilter:
    """The filter that ends every chain."""
    return _filter("envoy.filters.http.router", router_pb2.Router())


# Envoy's own notes of what a rewrite changed. The access log reads them, so a client must not write them.
ORIGINALS = ("x-envoy-original-host", "x-envoy-original-path")
# What steers Envoy's router. Envoy takes these off requests from outside, and believes whoever has a private address,
# which is everybody behind a load balancer.
STEERING = (
    "x-envoy-decorator-operation",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-ip-tags",
    "x-envoy-is-timeout-retry",
    "x-envoy-max-retries",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
)


def build_early_mutation() -> extension_pb2.TypedExtensionConfig:
    """What a client may never send in, taken off before anything looks at the request (R-11, authorize 24).

    Only names that belong to us alone; identity headers that another of our replicas may have signed pass,
    and are judged per route.
    """
    exact = sorted(
        (
            *REPROXY_HEADERS,
            ROUTING_KEY,
            IMPERSONATE_GROUPS,
            TRACE_HEADER,
            "x-pomerium-set-cookie",
            *ORIGINALS,
            *STEERING,
        )
    )
    mutations = [mutation_rules_pb2.HeaderMutation(remove=name) for name in exact]
    mutations.append(
        mutation_rules_pb2.HeaderMutation(
            remove_on_match=mutation_rules_pb2.HeaderMutation.RemoveOnMatch(
                key_matcher=string_pb2.StringMatcher(prefix="x-pomerium-claim-")
            )
        )
    )
    return extension_pb2.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=any_of(header_mutation_pb2.HeaderMutation(mutations=mutations)),
    )


def _filter(name: str, config: Message) -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name=name, typed_config=any_of(config))


def _sleeping(name: str, config: Message) -> hcm_pb2.HttpFilter:
    """A filter that runs only on routes that wake it."""
    return hcm_pb2.HttpFilter(name=name, typed_config=any_of(config), disabled=True)


def _build_lua(script: str) -> lua_pb2.Lua:
    # Nothing these scripts touch decides which route a request takes.
    return lua_pb2.Lua(default_source_code=text(_script(script)), clear_route_cache={"value": False})


def _build_note(kind: str) -> set_metadata_pb2.Config:
    """What arrive.lua writes down of a request that wants to read this kind of answer."""
    note = set_metadata_pb2.Metadata(metadata_namespace=LUA_METADATA, allow_overwrite=True)
    note.value[REPLY_TYPE] = kind
    return set_metadata_pb2.Config(metadata=[note])


@cache
def _script(name: str) -> str:
    """A script that is part of this package, read once like a module."""
    return files("pomerium_agent.envoyconfig").joinpath("lua", name).read_text("utf-8")


def _build_ext_authz(timeout: timedelta, certificate: bool) -> ext_authz_pb2.ExtAuthz:
    """Ask the agent; without its answer, nobody passes (R-9)."""
    return ext_authz_pb2.ExtAuthz(
        transport_api_version=config_source_pb2.V3,
        grpc_service=grpc_service_pb2.GrpcService(
            envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=AUTHORIZE_CLUSTER),
            timeout=duration(timeout),
        ),
        status_on_error=http_status_pb2.HttpStatus(code=http_status_pb2.ServiceUnavailable),
        failure_mode_allow=False,
        clear_route_cache=False,
        metadata_context_namespaces=[CERTIFICATE_NAMESPACE] if certificate else None,
    )

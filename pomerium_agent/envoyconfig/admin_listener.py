"""Envoy's admin on a port of loopback, which leads to its unix socket; so no change of it restarts Envoy (routes 7).

Web pages can make a browser on this machine ask it for anything. They are kept out by what a browser says of them:
the name they believe the admin has, so that a name of theirs which resolves to loopback does not help, and where they
are from.
"""

from collections.abc import Mapping
from datetime import timedelta

from google.protobuf.struct_pb2 import Struct

from pomerium_agent.config.snapshot import Settings
from pomerium_agent.envoyconfig.agent_clusters import ADMIN_CLUSTER
from pomerium_agent.envoyconfig.filters import build_router
from pomerium_agent.envoyconfig.wire import any_of, duration, text
from pomerium_agent.pb.envoy.config.accesslog.v3 import accesslog_pb2
from pomerium_agent.pb.envoy.config.core.v3 import protocol_pb2, substitution_format_string_pb2
from pomerium_agent.pb.envoy.config.listener.v3 import listener_components_pb2
from pomerium_agent.pb.envoy.config.route.v3 import route_components_pb2 as pb
from pomerium_agent.pb.envoy.config.route.v3 import route_pb2
from pomerium_agent.pb.envoy.extensions.access_loggers.stream.v3 import stream_pb2
from pomerium_agent.pb.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from pomerium_agent.pb.envoy.type.matcher.v3 import regex_pb2, string_pb2

_IDLE = timedelta(minutes=5)
_OURS = r"https?://(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?"
_LOGS: Mapping[str, tuple[str, type[stream_pb2.StdoutAccessLog] | type[stream_pb2.StderrAccessLog]]] = {
    "/dev/stdout": ("envoy.access_loggers.stdout", stream_pb2.StdoutAccessLog),
    "/dev/stderr": ("envoy.access_loggers.stderr", stream_pb2.StderrAccessLog),
}
_FIELDS = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
    "level": "info",
    "event": "envoy-admin-request",
    "service": "envoy",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "response-code": "%RESPONSE_CODE%",
    "user-agent": "%REQ(USER-AGENT)%",
}


def build_admin(settings: Settings) -> listener_components_pb2.Filter:
    """Everything of the admin, for programs of this machine and pages of its own."""
    hosts = dict.fromkeys(("localhost", "127.0.0.1", "[::1]", _host(settings)))
    refused = pb.DirectResponseAction(status=403, body=text("Envoy's admin is not for web pages of others.\n"))
    routes = [
        pb.Route(match=_unless("sec-fetch-site", "same-origin|none"), direct_response=refused),
        pb.Route(match=_unless("origin", _OURS), direct_response=refused),
        pb.Route(
            match=pb.RouteMatch(prefix="/"),
            route=pb.RouteAction(cluster=ADMIN_CLUSTER, timeout=duration(timedelta(0))),
        ),
    ]
    here = pb.VirtualHost(name="admin", domains=[name for host in hosts for name in (host, f"{host}:*")], routes=routes)
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix="envoy-admin",
        route_config=route_pb2.RouteConfiguration(name="envoy-admin", virtual_hosts=[here]),
        http_filters=[build_router()],
        access_log=_build_log(settings.envoy_admin_log),
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(idle_timeout=duration(_IDLE)),
    )
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=any_of(manager)
    )


def _host(settings: Settings) -> str:
    host = settings.envoy_admin.host if settings.envoy_admin else ""
    return f"[{host}]" if ":" in host else host


def _unless(name: str, expression: str) -> pb.RouteMatch:
    """The header is there and says something else."""
    regex = regex_pb2.RegexMatcher(regex=expression)
    return pb.RouteMatch(
        prefix="/",
        headers=[
            pb.HeaderMatcher(name=name, string_match=string_pb2.StringMatcher(safe_regex=regex), invert_match=True)
        ],
    )


def _build_log(path: str) -> list[accesslog_pb2.AccessLog]:
    if path not in _LOGS:
        return []
    name, kind = _LOGS[path]
    line = Struct()
    line.update(_FIELDS)
    log_format = substitution_format_string_pb2.SubstitutionFormatString(json_format=line)
    return [accesslog_pb2.AccessLog(name=name, typed_config=any_of(kind(log_format=log_format)))]

"""One JSON line on standard output per request, in the shape of the agent's own log (routes 8.3, R-24)."""

from collections.abc import Iterable, Iterator

from google.protobuf.struct_pb2 import Struct

from pomerium_agent.config.snapshot import Settings
from pomerium_agent.envoyconfig.clusters import STAT_NAME_METADATA
from pomerium_agent.envoyconfig.wire import any_of
from pomerium_agent.pb.envoy.config.accesslog.v3 import accesslog_pb2
from pomerium_agent.pb.envoy.config.core.v3 import extension_pb2, substitution_format_string_pb2
from pomerium_agent.pb.envoy.config.route.v3 import route_components_pb2
from pomerium_agent.pb.envoy.extensions.access_loggers.stream.v3 import stream_pb2
from pomerium_agent.pb.envoy.extensions.formatter.req_without_query.v3 import req_without_query_pb2
from pomerium_agent.pb.envoy.type.matcher.v3 import regex_pb2, string_pb2

_FIELDS = {
    "authority": "%REQ(X-ENVOY-ORIGINAL-HOST?:AUTHORITY)%",
    "client-certificate": "%DOWNSTREAM_PEER_FINGERPRINT_256%",
    "cluster-stat-name": f"%METADATA(CLUSTER:{STAT_NAME_METADATA}:stat_name)%",
    "duration": "%DURATION%",
    "forwarded-for": "%REQ(X-FORWARDED-FOR)%",
    "ip": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "query": "%QUERY_PARAMS(ORIG)%",
    "referer": "%REQ_WITHOUT_QUERY(REFERER)%",
    "request-id": "%REQ(X-REQUEST-ID)%",
    "response-code": "%RESPONSE_CODE%",
    "response-code-details": "%RESPONSE_CODE_DETAILS%",
    "size": "%BYTES_SENT%",
    "upstream-cluster": "%UPSTREAM_CLUSTER_RAW%",
    "user-agent": "%REQ(USER-AGENT)%",
}
_HEADER_FIELD = "headers."
_LEVELS_WITH_LOG = ("trace", "debug", "info", "")
_VERBOSE = ("trace", "debug")
_HEALTH_PATHS = r"/(ping|healthz)(\?.*)?"


def build_access_log(settings: Settings) -> list[accesslog_pb2.AccessLog]:
    """The loggers of the main listener: none above info; health checks of load balancers only when debugging."""
    if settings.proxy_log_level not in _LEVELS_WITH_LOG:
        return []
    loggers = [_build_logger(settings.access_log_fields, level="info", of_health=False)]
    if settings.proxy_log_level in _VERBOSE:
        loggers.append(_build_logger(settings.access_log_fields, level="debug", of_health=True))
    return loggers


def _build_logger(fields: Iterable[str], *, level: str, of_health: bool) -> accesslog_pb2.AccessLog:
    line = Struct()
    line.update(
        {
            "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
            "level": level,
            "event": "http-request",
            "service": "envoy",
            **dict(_formats(fields)),
        }
    )
    log_format = substitution_format_string_pb2.SubstitutionFormatString(
        json_format=line,
        formatters=[
            extension_pb2.TypedExtensionConfig(
                name="envoy.formatter.req_without_query",
                typed_config=any_of(req_without_query_pb2.ReqWithoutQuery()),
            )
        ],
    )
    return accesslog_pb2.AccessLog(
        name="envoy.access_loggers.stdout",
        filter=accesslog_pb2.AccessLogFilter(
            header_filter=accesslog_pb2.HeaderFilter(
                header=route_components_pb2.HeaderMatcher(
                    name=":path",
                    string_match=string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=_HEALTH_PATHS)),
                    invert_match=not of_health,
                )
            )
        ),
        typed_config=any_of(stream_pb2.StdoutAccessLog(log_format=log_format)),
    )


def _formats(fields: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What Envoy fills in for each configured field; a name that nobody knows is left out, as Pomerium does."""
    for field in fields:
        if field in _FIELDS:
            yield field, _FIELDS[field]
        elif field.startswith(_HEADER_FIELD) and _is_header_name(field.removeprefix(_HEADER_FIELD)):
            yield field, f"%REQ({field.removeprefix(_HEADER_FIELD)})%"


def _is_header_name(name: str) -> bool:
    return bool(name) and all((c.isalnum() and c.isascii()) or c in "-_.!#$&'*+^`|~" for c in name)

"""What a client reads when Envoy answers by itself: a page, JSON, text or a gRPC status, as it asked for (R-18).

The first mapper that fits wins. Answers that the authorization service wrote carry the flag UAEX and are left alone;
UAEX with 503 means that it did not answer, and that gap is filled here (routes 8.2).
"""

from collections.abc import Iterator, Mapping

from google.protobuf.struct_pb2 import Struct

from pomerium_agent.config.snapshot import EscapedSlashes, Settings
from pomerium_agent.envoyconfig import pages
from pomerium_agent.envoyconfig.headers import global_response_headers, response_value
from pomerium_agent.envoyconfig.route import LUA_METADATA
from pomerium_agent.envoyconfig.skip import EXT_AUTHZ
from pomerium_agent.envoyconfig.wire import any_of, text
from pomerium_agent.look import Branding, read_branding
from pomerium_agent.pb.envoy.config.accesslog.v3 import accesslog_pb2
from pomerium_agent.pb.envoy.config.core.v3 import base_pb2, substitution_format_string_pb2
from pomerium_agent.pb.envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from pomerium_agent.pb.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from pomerium_agent.pb.envoy.type.matcher.v3 import metadata_pb2, string_pb2, value_pb2

REPLY_TYPE = "pomerium_local_reply_type"
# Response flags by what became of the request, and what gRPC calls that.
_GRPC_CODES: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "INVALID_ARGUMENT": (3, ("IH",)),
    "NOT_FOUND": (5, ("NR",)),
    "DEADLINE_EXCEEDED": (4, ("DT", "SI", "UMSDR", "UT")),
    "CANCELLED": (1, ("LR", "OM", "UC", "UR")),
    "RESOURCE_EXHAUSTED": (8, ("RL",)),
    "INTERNAL": (13, ("RLSE", "UPE")),
    "UNKNOWN": (2, ("DPE", "RFCF")),
    "UNAVAILABLE": (14, ("DC", "DF", "DI", "DO", "FI", "LH", "NC", "NFCF", "UF", "UH", "UO", "URX")),
}
_ALL_FLAGS = tuple(sorted(flag for _, flags in _GRPC_CODES.values() for flag in flags))
_PAGES = (
    (pages.NOT_FOUND, ("NR",)),
    (pages.TOO_SLOW, ("DT", "SI", "UMSDR", "UT")),
    (pages.UNREACHABLE, ("LH", "NC", "NFCF", "OM", "UC", "UF", "UH", "UO", "UR", "URX")),
    (pages.OTHER, _ALL_FLAGS),
)
# Answers by their details, for want of a flag: Envoy sets that of rate limits only once it has answered, and these
# timeouts have none.
_LIMITED = "local_rate_limited"
_LATE = "max_duration_timeout"  # the answer, by `timeout_write`
_STALLED = "request_overall_timeout"  # the request, by `timeout_read`
_NORMALIZED = "path_normalization_failed"  # or done, and the client is sent there
_FACTS = {"requestId": "%STREAM_ID%", "status": "%RESPONSE_CODE%", "statusText": "%RESPONSE_CODE_DETAILS%"}
_Filter = accesslog_pb2.AccessLogFilter
_Headers = list[base_pb2.HeaderValueOption]


def build_local_replies(settings: Settings) -> hcm_pb2.LocalReplyConfig:
    """The mappers in order: what the client asked for first, the page for everybody else last."""
    everywhere = [
        _header(name, response_value(value)) for name, value in sorted(global_response_headers(settings).items())
    ]
    mappers = list(_mappers(everywhere, read_branding(settings.branding)))
    if settings.escaped_slashes is EscapedSlashes.UNESCAPE_AND_REDIRECT:
        mappers.insert(0, _straight(everywhere))
    return hcm_pb2.LocalReplyConfig(mappers=mappers)


def _straight(headers: _Headers) -> hcm_pb2.ResponseMapper:
    """Where Envoy sends whoever asks for a path with escaped slashes, with the host.

    It says the path alone, and `/%2Fevil.example` unescaped is the address of another host.
    """
    here = base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key="location", value="//%REQ(:AUTHORITY)%%REQ(:PATH)%"),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS,
    )
    redirected = _both(_details(_NORMALIZED), _status(307, "pomerium.path_redirected_status"))
    return hcm_pb2.ResponseMapper(filter=redirected, headers_to_add=[*headers, here])


def _mappers(headers: _Headers, branding: Branding) -> Iterator[hcm_pb2.ResponseMapper]:
    any_failure, unanswered, limited = _flags(_ALL_FLAGS), _unanswered(), _details(_LIMITED)
    late, stalled = _details(_LATE), _details(_STALLED)
    for failure in (any_failure, unanswered, limited, late, stalled):
        yield _mapper(_both(failure, _wants("plain")), _json("text/plain; charset=UTF-8"), headers)
        yield _mapper(_both(failure, _wants("json")), _json("application/json; charset=UTF-8"), headers)
    for name, (code, flags) in _GRPC_CODES.items():
        yield _grpc(_flags(flags), name, code, headers)
    yield _grpc(unanswered, "UNAVAILABLE", 14, headers)
    yield _grpc(limited, "RESOURCE_EXHAUSTED", 8, headers)
    for overdue in (late, stalled):
        yield _grpc(overdue, "DEADLINE_EXCEEDED", 4, headers)
    yield _mapper(limited, _html(pages.TOO_MANY, branding), headers)
    yield _mapper(late, _html(pages.TOO_SLOW, branding), headers)
    yield _mapper(stalled, _html(pages.STALLED, branding), headers)
    for page, flags in _PAGES:
        yield _mapper(_flags(flags), _html(page, branding), headers)
    yield _mapper(unanswered, _html(pages.NO_DECISION, branding), headers)


def _mapper(
    when: _Filter, body: substitution_format_string_pb2.SubstitutionFormatString, headers: _Headers
) -> hcm_pb2.ResponseMapper:
    return hcm_pb2.ResponseMapper(filter=when, body_format_override=body, headers_to_add=headers)


def _grpc(failure: _Filter, name: str, code: int, headers: _Headers) -> hcm_pb2.ResponseMapper:
    status = [_header("grpc-message", name), _header("grpc-status", str(code))]
    return _mapper(_both(failure, _wants("grpc")), _json("application/grpc+json; charset=UTF-8"), [*headers, *status])


# --- when -------------------------------------------------------------------------------------------


def _flags(flags: tuple[str, ...]) -> _Filter:
    return _Filter(response_flag_filter=accesslog_pb2.ResponseFlagFilter(flags=flags))


def _unanswered() -> _Filter:
    """The authorization service could not be asked."""
    return _both(_flags(("UAEX",)), _status(503, "pomerium.authorize_unanswered_status"), _not_answered())


def _status(code: int, key: str) -> _Filter:
    """The status, which Envoy lets a key of its runtime say otherwise: a key is required, and nobody sets it."""
    equals = accesslog_pb2.ComparisonFilter(op=accesslog_pb2.ComparisonFilter.EQ)
    equals.value.default_value = code
    equals.value.runtime_key = key
    return _Filter(status_code_filter=accesslog_pb2.StatusCodeFilter(comparison=equals))


def _not_answered() -> _Filter:
    """A 503 of the authorization service itself says so in what it leaves behind."""
    path = [metadata_pb2.MetadataMatcher.PathSegment(key="answered")]
    # Never false; a log filter does not know how to invert.
    said = metadata_pb2.MetadataMatcher(filter=EXT_AUTHZ, path=path, value=value_pb2.ValueMatcher(bool_match=False))
    return _Filter(metadata_filter=accesslog_pb2.MetadataFilter(matcher=said, match_if_key_not_found={"value": True}))


def _details(details: str) -> _Filter:
    """What Envoy says of its answer, where there is no flag to ask for."""
    said = cel_pb2.ExpressionFilter(expression=f'response.code_details == "{details}"')
    return _Filter(extension_filter=accesslog_pb2.ExtensionFilter(name=details, typed_config=any_of(said)))


def _wants(kind: str) -> _Filter:
    """What the filter `arrive` noted; it notes nothing for HTML, the default."""
    path = [metadata_pb2.MetadataMatcher.PathSegment(key=REPLY_TYPE)]
    value = value_pb2.ValueMatcher(string_match=string_pb2.StringMatcher(exact=kind))
    noted = accesslog_pb2.MetadataFilter(
        matcher=metadata_pb2.MetadataMatcher(filter=LUA_METADATA, path=path, value=value),
        match_if_key_not_found={"value": False},
    )
    return _Filter(metadata_filter=noted)


def _both(*filters: _Filter) -> _Filter:
    return _Filter(and_filter=accesslog_pb2.AndFilter(filters=filters))


# --- what -------------------------------------------------------------------------------------------


def _header(name: str, value: str) -> base_pb2.HeaderValueOption:
    """A route's own response headers stay as they are."""
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, value=value), append_action=base_pb2.HeaderValueOption.ADD_IF_ABSENT
    )


def _json(content_type: str) -> substitution_format_string_pb2.SubstitutionFormatString:
    facts = Struct()
    facts.update(_FACTS)
    return substitution_format_string_pb2.SubstitutionFormatString(
        json_format=facts,
        content_type=content_type,
    )


def _html(page: pages.Page, branding: Branding) -> substitution_format_string_pb2.SubstitutionFormatString:
    return substitution_format_string_pb2.SubstitutionFormatString(
        text_format_source=text(pages.render(page, branding)), content_type="text/html; charset=UTF-8"
    )

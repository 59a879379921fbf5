"""Which headers are set and removed on the way to an upstream and back, and in which order of precedence (routes 5)."""

import re
from collections.abc import Iterable, Mapping

from pomerium_agent.config.snapshot import Route, Settings
from pomerium_agent.config.templates import Reference, parse_template
from pomerium_agent.pb.envoy.config.core.v3 import base_pb2

HSTS = "Strict-Transport-Security"
DEFAULT_RESPONSE_HEADERS = {
    "X-Frame-Options": "SAMEORIGIN",
    "X-XSS-Protection": "1; mode=block",
    HSTS: "max-age=31536000; includeSubDomains; preload",
}
IDENTITY_HEADERS = ("x-pomerium-jwt-assertion", "x-pomerium-jwt-assertion-for")
REPROXY_HEADERS = ("x-pomerium-reproxy-policy", "x-pomerium-reproxy-policy-hmac")
DISABLE = "disable"
OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

# What a configured response header may ask Envoy to fill in. Everything else is text.
_COMMANDS = (
    r"PROTOCOL|START_TIME|HOSTNAME|ROUTE_NAME|STREAM_ID|REQUESTED_SERVER_NAME",
    r"RESPONSE_CODE|RESPONSE_FLAGS",
    r"DOWNSTREAM_(?:REMOTE|LOCAL|DIRECT_REMOTE)_ADDRESS(?:_WITHOUT_PORT)?",
    r"DOWNSTREAM_LOCAL_PORT|DOWNSTREAM_TLS_VERSION|DOWNSTREAM_TLS_CIPHER",
    r"UPSTREAM_CLUSTER|UPSTREAM_REMOTE_ADDRESS(?:_WITHOUT_PORT)?|UPSTREAM_HOST",
)
_TAKES_NAME = (
    r"%(?:REQ|RESP|TRAILER)\(:?[A-Za-z0-9!#$&'*+.^_`|~-]+(?:\?:?[A-Za-z0-9!#$&'*+.^_`|~-]+)?\)(?::[0-9]{1,4})?%"
)
_TAKES_NOTHING = rf"%(?:{'|'.join(_COMMANDS)})%"
_COMMAND = re.compile(rf"%%|{_TAKES_NAME}|{_TAKES_NOTHING}")
_HEADER_NAME = re.compile(r":?[A-Za-z0-9!#$&'*+.^_`|~-]+")


def escape(value: str) -> str:
    """Text that Envoy shall take literally, wherever it expands `%COMMANDS%` (R-12)."""
    return value.replace("%", "%%")


def response_value(value: str) -> str:
    """A configured response header value for Envoy (R-12).

    Well-formed commands of the allow-list pass, and so does `%%`, which configurations written for Pomerium
    hold where they mean one percent sign; any other percent sign is text.
    """
    out: list[str] = []
    end = 0
    for command in _COMMAND.finditer(value):
        out += [escape(value[end : command.start()]), command[0]]
        end = command.end()
    return "".join((*out, escape(value[end:])))


def request_value(template: str) -> str:
    """A `set_request_headers` value where nobody was asked who they are.

    References to request headers are filled in by Envoy; those to an identity render as nothing, since there is none.
    """
    return "".join(part if isinstance(part, str) else _render(part) for part in _escaped(template))


def _escaped(template: str) -> Iterable[str | Reference]:
    return (escape(part) if isinstance(part, str) else part for part in parse_template(template))


def _render(reference: Reference) -> str:
    if len(reference.path) == 4 and reference.path[:3] == ("pomerium", "request", "headers"):
        name = reference.path[3]
        if _HEADER_NAME.fullmatch(name):
            return f"%REQ({name})%"
    return ""


def header_option(name: str, value: str) -> base_pb2.HeaderValueOption:
    """Set a header, whatever was there; an empty value still replaces what a client or an upstream sent."""
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, value=value), append_action=OVERWRITE, keep_empty_value=True
    )


def global_response_headers(settings: Settings) -> Mapping[str, str]:
    """The headers of every response: as configured, or Pomerium's defaults (R-13).

    Without a certificate that somebody chose, the defaults leave out the promise to stay on HTTPS.
    """
    if settings.set_response_headers is None:
        chosen = any(not certificate.self_signed_fallback for certificate in settings.certificates)
        return {name: value for name, value in DEFAULT_RESPONSE_HEADERS.items() if chosen or name != HSTS}
    return {} if disables(settings.set_response_headers) else settings.set_response_headers


def response_headers(everywhere: Mapping[str, str], route: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The headers of a route's responses, by name: the route wins, and its key `disable` empties everything."""
    if disables(route):
        return ()
    merged = {name.lower(): (name, value) for name, value in (*everywhere.items(), *route.items())}
    return tuple(sorted((name, response_value(value)) for name, value in merged.values()))


def disables(headers: Mapping[str, str]) -> bool:
    """Whether the key `disable` is among the headers."""
    return any(name.lower() == DISABLE for name in headers)


def removed_request_headers(route: Route, *, pass_identity: bool, claims: Iterable[str]) -> tuple[str, ...]:
    """What this upstream never sees, each name once: the operator's list, then ours, sorted (routes 5).

    A public route asks nobody, so whatever looks like an identity on it was made up by the client (R-11).
    """
    ours: list[str] = []
    if route.public or not (pass_identity if route.pass_identity_headers is None else route.pass_identity_headers):
        ours += [*IDENTITY_HEADERS, *(name.lower() for name in claims)]
    names = {name.lower(): name for name in reversed((*route.remove_request_headers, *sorted(ours)))}
    return tuple(dict.fromkeys(names[name.lower()] for name in (*route.remove_request_headers, *sorted(ours))))


def added_request_headers(route: Route, removed: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """What a public route sets on requests, by name. Remove beats set for the same name (R-11).

    On other routes the authorization service sets them with its answer.
    """
    if not route.public:
        return ()
    gone = {name.lower() for name in (*removed, *REPROXY_HEADERS)}
    return tuple(
        sorted(
            (name, request_value(value))
            for name, value in route.set_request_headers.items()
            if name.lower() not in gone
        )
    )

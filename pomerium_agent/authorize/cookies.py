"""The session cookie is taken off a request by the answer that lets it pass, so that Envoy needs no script for it.

What is unusual about a cookie header is left to that script, leave.lua, which runs after the answer for whatever still
carries the name of the cookie (authorize 24).
"""

import re

from pomerium_agent.authorize.admit import ok_response
from pomerium_agent.authorize.rules import RouteRules
from pomerium_agent.envoyconfig.wire import field_bytes
from pomerium_agent.pb.envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption

COOKIE = "cookie"
_REMOVED = ok_response({}, (COOKIE,))
_KEY = HeaderValue(key=COOKIE).SerializeToString()
_OVERWRITE = HeaderValueOption(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD).SerializeToString()
MAX_LINE = 8192  # characters
_SPACE = " \t\n\r\f\v"
_NAME = re.compile(rf"[{_SPACE}]*([^={_SPACE}]*)")


def without_cookie(line: str, name: str) -> str | None:
    """The cookie header without the cookies of that name, as leave.lua writes it; None: leave that to it."""
    if name not in line or "," in line or len(line) > MAX_LINE or not line.isascii():
        return None
    pairs = line.split(";")
    kept = [pair for pair in pairs if not ("=" in pair and _name(pair) == name)]
    return None if len(kept) == len(pairs) else ";".join(kept).strip(f"{_SPACE};,")


def removal(line: str, name: str) -> bytes:
    """What to append to a serialized permission, so that it takes the cookie off; empty: nothing.

    Messages may be concatenated: what the second says is merged into the first.
    """
    left = without_cookie(line, name)
    if left is None:
        return b""
    if not left:
        return _REMOVED
    # ok_response({COOKIE: left}), at a quarter of its cost: CheckResponse.ok_response.headers.header.value
    option = field_bytes(1, _KEY + field_bytes(2, left.encode())) + _OVERWRITE
    return field_bytes(3, field_bytes(2, option))


def may_remove(route: RouteRules) -> bool:
    """Whether what becomes of the cookie header is not said by the route itself."""
    return all(name.lower() != COOKIE for name, _ in route.set_request_headers)


def _name(pair: str) -> str:
    found = _NAME.match(pair)
    return found[1] if found is not None else ""

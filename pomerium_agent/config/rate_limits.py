"""How rate limits are read: of a route, and of the pages of logging in."""

from dataclasses import replace
from datetime import timedelta

from pomerium_agent.config.complaints import Complaints, Unusable
from pomerium_agent.config.durations import parse_duration
from pomerium_agent.config.limit import LOGIN_LIMIT, RateKey, RateLimit
from pomerium_agent.pb.pomerium import config_pb2

SHORTEST, LONGEST = timedelta(milliseconds=50), timedelta(days=1)  # Envoy fills no bucket more often
_KEYS = {
    config_pb2.RATE_LIMIT_KEY_UNSPECIFIED: RateKey.CLIENT_ADDRESS,
    config_pb2.RATE_LIMIT_KEY_CLIENT_ADDRESS: RateKey.CLIENT_ADDRESS,
    config_pb2.RATE_LIMIT_KEY_USER: RateKey.USER,
    config_pb2.RATE_LIMIT_KEY_ROUTE: RateKey.ROUTE,
}


def parse_rate_limit(limit: config_pb2.RateLimit) -> RateLimit:
    """A limit that lets something through. Raises Unusable."""
    if not limit.requests:
        raise Unusable("it lets no request through", "set requests to 1 or more, or remove the limit")
    per = parse_duration(limit.per) if limit.HasField("per") else timedelta(seconds=1)
    if not SHORTEST <= per <= LONGEST:
        raise Unusable("per is not between 50ms and 24h", "write a time such as 1s, 1m or 1h")
    if limit.HasField("burst") and not limit.burst:
        raise Unusable("burst is zero, so that no request gets through", "set it to 1 or more, or remove it")
    if limit.key not in _KEYS:
        raise Unusable(f"key {limit.key} is not a known choice", "use client_address, user or route")
    return RateLimit(requests=limit.requests, per=per, burst=limit.burst or limit.requests, key=_KEYS[limit.key])


def parse_route_limit(route: config_pb2.Route, complaints: Complaints) -> RateLimit | None:
    """The limit of a route, if it has one."""
    if not route.HasField("rate_limit"):
        return None
    limit = complaints.attempt("rate_limit", parse_rate_limit, route.rate_limit)
    if limit is not None and limit.key is RateKey.USER and route.allow_public_unauthenticated_access:
        complaints.refuse(
            "rate_limit", "nobody says who they are on a public route", "set key to client_address or route"
        )
    return limit


def count_by_address(limit: RateLimit, complaints: Complaints) -> RateLimit:
    """A limit by user of a route whose policies let everybody in: all who did not log in would be one user."""
    complaints.warn(
        "rate_limit",
        "the policies of the route let everybody in, so that nobody has to say who they are; addresses are counted",
        "set key to client_address or route",
    )
    return replace(limit, key=RateKey.CLIENT_ADDRESS)


def parse_login_limit(limit: config_pb2.RateLimit) -> RateLimit | None:
    """None, for `requests: 0`, is no limit at all. Raises Unusable."""
    if not limit.HasField("requests"):
        raise Unusable("it does not say how many requests", f"set requests, for example to {LOGIN_LIMIT.requests}")
    if not limit.requests:
        return None
    found = parse_rate_limit(limit)
    if found.key is not RateKey.CLIENT_ADDRESS:
        raise Unusable("whoever logs in is known by address alone", "remove key, or set it to client_address")
    return found

"""Rate limits in Envoy's own words: buckets in each replica, and nobody is asked (ours, no part of routes 8.1).

One filter limits the pages of logging in, with one bucket for each address on all hosts together; it belongs to the
listener, so that a change of routes does not begin its count anew. Two filters sleep except on routes with a limit of
their own: one before anybody is authorized, the other after it, where the user is known.
"""

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from pomerium_agent.config.limit import RateKey, RateLimit
from pomerium_agent.envoyconfig.skip import EXT_AUTHZ, Predicate, begins, either, fits, header, not_, unless
from pomerium_agent.envoyconfig.wire import any_of, duration
from pomerium_agent.pb.envoy.config.core.v3 import base_pb2
from pomerium_agent.pb.envoy.config.route.v3 import route_components_pb2 as pb
from pomerium_agent.pb.envoy.extensions.common.matching.v3 import extension_matcher_pb2
from pomerium_agent.pb.envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from pomerium_agent.pb.envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from pomerium_agent.pb.envoy.type.metadata.v3 import metadata_pb2
from pomerium_agent.pb.envoy.type.v3 import percent_pb2, token_bucket_pb2

LOGIN_LIMIT = "pomerium.login_limit"
LIMIT = "pomerium.limit"
USER_LIMIT = "pomerium.user_limit"  # after authorization, which says who it is
USER = "user"  # in what authorization leaves behind
# Of all buckets for addresses or users, those used last are kept; whoever comes back later finds a full one.
MAX_BUCKETS = 10_000
# What costs a login or ends one. A page that merely shows something to somebody who is signed in is not among them.
_LOGIN_PAGES = (
    "/.pomerium/sign_in",
    "/.pomerium/sign_out",
    "/.pomerium/callback",
    "/.pomerium/api/v1/login",
    "/oauth2/callback",
)
_ESCAPED = "[^?]*%.*"  # whatever it spells

_LocalRateLimit = local_rate_limit_pb2.LocalRateLimit
_Action = pb.RateLimit.Action


def build_sleeping_limit() -> local_rate_limit_pb2.LocalRateLimit:
    """A limit that lets everything through: routes bring their own."""
    return _LocalRateLimit(stat_prefix="route_limit")


def build_login_limit(limit: RateLimit) -> extension_matcher_pb2.ExtensionWithMatcher:
    """The limit of the pages of logging in; it sleeps except on our own routes, where it skips all other pages."""
    return unless(not_(_is_login()), LOGIN_LIMIT, build_limit(limit, "login_limit"))


def limit_of_route(name: str, limit: RateLimit) -> tuple[str, AnyMessage]:
    """Which filter a route wakes for its limit, and with what."""
    filter_name = USER_LIMIT if limit.key is RateKey.USER else LIMIT
    return filter_name, any_of(build_limit(limit, f"route_limit.{name}"))


def build_limit(limit: RateLimit, stat_prefix: str) -> local_rate_limit_pb2.LocalRateLimit:
    """One bucket for each address or user, or one for everybody; those who have neither share one of that size."""
    always = base_pb2.RuntimeFractionalPercent(default_value=percent_pb2.FractionalPercent(numerator=100))
    retry = base_pb2.HeaderValue(key="retry-after", value=str(limit.retry_seconds))
    built = _LocalRateLimit(
        stat_prefix=stat_prefix,
        token_bucket=_bucket(limit),
        filter_enabled=always,
        filter_enforced=always,
        response_headers_to_add=[
            base_pb2.HeaderValueOption(
                header=retry, append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
            )
        ],
    )
    if limit.key is not RateKey.ROUTE:
        key, action = _KEYS[limit.key]
        built.rate_limits.add(actions=[action])
        built.descriptors.add(
            entries=[ratelimit_pb2.RateLimitDescriptor.Entry(key=key)],  # without a value: a bucket for each
            token_bucket=_bucket(limit),
        )
        built.always_consume_default_token_bucket.CopyFrom(BoolValue(value=False))
        built.max_dynamic_descriptors.CopyFrom(UInt32Value(value=MAX_BUCKETS))
    return built


def _bucket(limit: RateLimit) -> token_bucket_pb2.TokenBucket:
    return token_bucket_pb2.TokenBucket(
        max_tokens=limit.burst, tokens_per_fill=UInt32Value(value=limit.requests), fill_interval=duration(limit.per)
    )


def _by_address() -> pb.RateLimit.Action:
    """Whoever has an IPv6 address has 2**64 of them, so those count as one."""
    masked = _Action.MaskedRemoteAddress(
        v4_prefix_mask_len=UInt32Value(value=32), v6_prefix_mask_len=UInt32Value(value=64)
    )
    return _Action(masked_remote_address=masked)


def _by_user() -> pb.RateLimit.Action:
    place = metadata_pb2.MetadataKey(key=EXT_AUTHZ, path=[metadata_pb2.MetadataKey.PathSegment(key=USER)])
    return _Action(
        metadata=_Action.MetaData(descriptor_key=USER, metadata_key=place, source=_Action.MetaData.Source.DYNAMIC)
    )


_KEYS = {RateKey.CLIENT_ADDRESS: ("masked_remote_address", _by_address()), RateKey.USER: (USER, _by_user())}


def _is_login() -> Predicate:
    """The request is for a page of logging in, or for one of ours whose path is written in a way that hides it."""
    return either(*(header(":path", begins(page)) for page in _LOGIN_PAGES), header(":path", fits(_ESCAPED)))

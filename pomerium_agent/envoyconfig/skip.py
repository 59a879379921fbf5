"""Filters that stand aside: for requests whose headers give them nothing to do, or on routes that do not ask for them.

A Lua filter costs a request much, whether its script does anything or not; deciding by header that it may be skipped
costs little (docs/performance.md).
"""

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from pomerium_agent.envoyconfig.wire import any_of
from pomerium_agent.pb.envoy.config.core.v3 import extension_pb2
from pomerium_agent.pb.envoy.config.route.v3 import route_components_pb2
from pomerium_agent.pb.envoy.extensions.common.matching.v3 import extension_matcher_pb2
from pomerium_agent.pb.envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2
from pomerium_agent.pb.envoy.extensions.filters.http.lua.v3 import lua_pb2
from pomerium_agent.pb.envoy.type.matcher.v3 import http_inputs_pb2
from pomerium_agent.pb.xds.core.v3 import extension_pb2 as xds_extension_pb2
from pomerium_agent.pb.xds.type.matcher.v3 import matcher_pb2, regex_pb2, string_pb2

Predicate = matcher_pb2.Matcher.MatcherList.Predicate

EXT_AUTHZ = "envoy.filters.http.ext_authz"

# On a route, under the name of a script that sleeps elsewhere: it runs there, as it is.
AWAKE: AnyMessage = any_of(lua_pb2.LuaPerRoute())
# The same for any other filter.
AS_IT_IS: AnyMessage = any_of(route_components_pb2.FilterConfig(config=AnyMessage()))


def unless(predicate: Predicate, name: str, config: Message) -> extension_matcher_pb2.ExtensionWithMatcher:
    """The filter `config`, skipped for requests of which `predicate` is true when it is their turn."""
    action = xds_extension_pb2.TypedExtensionConfig(name="skip", typed_config=any_of(skip_action_pb2.SkipFilter()))
    skipping = matcher_pb2.Matcher.MatcherList.FieldMatcher(
        predicate=predicate, on_match=matcher_pb2.Matcher.OnMatch(action=action)
    )
    return extension_matcher_pb2.ExtensionWithMatcher(
        extension_config=extension_pb2.TypedExtensionConfig(name=name, typed_config=any_of(config)),
        xds_matcher=matcher_pb2.Matcher(matcher_list=matcher_pb2.Matcher.MatcherList(matchers=[skipping])),
    )


def header(name: str, value: string_pb2.StringMatcher) -> Predicate:
    """The header is there, and reads so; several lines of it are one, joined with commas."""
    by_name = http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=name)
    return Predicate(
        single_predicate=Predicate.SinglePredicate(
            input=xds_extension_pb2.TypedExtensionConfig(name=name, typed_config=any_of(by_name)), value_match=value
        )
    )


def present(name: str) -> Predicate:
    """The header is there, whatever it says."""
    return header(name, fits(".*"))


def fits(expression: str) -> string_pb2.StringMatcher:
    """The whole value is matched by a regular expression."""
    return string_pb2.StringMatcher(
        safe_regex=regex_pb2.RegexMatcher(google_re2=regex_pb2.RegexMatcher.GoogleRE2(), regex=expression)
    )


def begins(prefix: str) -> string_pb2.StringMatcher:
    """The value begins so, in whatever case."""
    return string_pb2.StringMatcher(prefix=prefix, ignore_case=True)


def contains(part: str) -> string_pb2.StringMatcher:
    """The value has this in it."""
    return string_pb2.StringMatcher(contains=part)


def not_(predicate: Predicate) -> Predicate:
    """The opposite."""
    return Predicate(not_matcher=predicate)


def both(*predicates: Predicate) -> Predicate:
    """All of them, two or more."""
    return Predicate(and_matcher=Predicate.PredicateList(predicate=predicates))


def either(*predicates: Predicate) -> Predicate:
    """One of them, two or more."""
    return Predicate(or_matcher=Predicate.PredicateList(predicate=predicates))

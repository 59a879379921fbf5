"""Durations as Envoy takes them: never negative, never out of range (routes 4.4)."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from pomerium_agent.config.complaints import Unusable

MAX_SECONDS = 9_223_372_036  # what fits into Envoy's 64 bits of nanoseconds: 292 years


def parse_duration(value: Duration) -> timedelta:
    """A duration of zero or more. Raises Unusable."""
    if value.seconds < 0 or value.nanos < 0:
        raise Unusable("a duration cannot be negative", "give zero or more")
    if value.nanos > 999_999_999:
        raise Unusable("the duration's nanoseconds are more than a second", "give it as seconds, for example 30s")
    if value.seconds >= MAX_SECONDS:
        raise Unusable("the duration is longer than 292 years", "give a shorter one, or 0s for no limit")
    return timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)


def parse_positive_duration(value: Duration) -> timedelta:
    """A duration above zero."""
    parsed = parse_duration(value)
    if not parsed:
        raise Unusable("the duration must be above zero", "give a longer one, for example 5s")
    return parsed

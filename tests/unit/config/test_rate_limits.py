"""How rate limits are read: what lets something through, and what is refused with a reason."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.complaints import Unusable
from pomerium_agent.config.limit import LOGIN_LIMIT, RateKey, RateLimit
from pomerium_agent.config.rate_limits import parse_login_limit, parse_rate_limit
from pomerium_agent.envoyconfig.rate_limits import build_limit
from pomerium_agent.pb.pomerium import config_pb2
from tests.fakes.config_records import compiled, config, route


def limit(**fields: Any) -> config_pb2.RateLimit:
    per = fields.pop("per", None)
    made = config_pb2.RateLimit(**fields)
    if per is not None:
        made.per.FromTimedelta(timedelta(seconds=per))
    return made


def test_what_is_not_said_is_one_second_a_bucket_for_as_many_and_each_address() -> None:
    assert parse_rate_limit(limit(requests=5)) == RateLimit(requests=5, per=timedelta(seconds=1), burst=5)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (config_pb2.RATE_LIMIT_KEY_CLIENT_ADDRESS, RateKey.CLIENT_ADDRESS),
        (config_pb2.RATE_LIMIT_KEY_USER, RateKey.USER),
        (config_pb2.RATE_LIMIT_KEY_ROUTE, RateKey.ROUTE),
    ],
)
def test_all_of_it_can_be_said(given: Any, key: RateKey) -> None:
    read = parse_rate_limit(limit(requests=100, per=60, burst=20, key=given))

    assert read == RateLimit(requests=100, per=timedelta(minutes=1), burst=20, key=key)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "lets no request through"),
        ({"requests": 0, "per": 1}, "lets no request through"),
        ({"requests": 1, "per": 0}, "50ms"),
        ({"requests": 1, "per": 0.049}, "50ms"),
        ({"requests": 1, "per": 86_401}, "24h"),
        ({"requests": 1, "per": -1}, "negative"),
        ({"requests": 1, "burst": 0}, "burst is zero"),
        ({"requests": 1, "key": 9}, "not a known choice"),
    ],
)
def test_what_would_let_nobody_in_or_means_nothing_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(Unusable, match=why):
        parse_rate_limit(limit(**fields))


def test_the_limit_of_the_login_is_off_when_it_says_so_and_not_by_mistake() -> None:
    assert parse_login_limit(limit(requests=0)) is None
    assert parse_login_limit(limit(requests=9, per=60)) == RateLimit(requests=9, per=timedelta(minutes=1), burst=9)
    for mistaken in (limit(), limit(per=1), limit(requests=1, key=config_pb2.RATE_LIMIT_KEY_USER)):
        with pytest.raises(Unusable):
            parse_login_limit(mistaken)


@pytest.mark.parametrize(
    ("requests", "per", "seconds"), [(1200, 60, 1), (2, 86_400, 43_200), (7, 60, 9), (1, 0.05, 1), (3, 1, 1)]
)
def test_who_is_refused_hears_when_there_is_room_again(requests: int, per: float, seconds: int) -> None:
    assert RateLimit(requests=requests, per=timedelta(seconds=per), burst=1).retry_seconds == seconds


def test_a_broken_limit_of_the_login_leaves_the_one_from_before_in_force() -> None:
    before, _ = compiled(config("c", loginRateLimit={"requests": 9}))

    snapshot, faults = compiled(config("c", loginRateLimit={"per": "1s"}), previous=before)
    fresh, _ = compiled(config("c", loginRateLimit={"per": "1s"}))

    assert [fault.field for fault in faults] == ["login_rate_limit"]
    assert snapshot.settings.login_limit == before.settings.login_limit
    assert fresh.settings.login_limit == LOGIN_LIMIT


def test_users_of_a_public_route_cannot_be_told_apart() -> None:
    public = route(
        id="p", allowPublicUnauthenticatedAccess=True, rateLimit={"requests": 1, "key": "RATE_LIMIT_KEY_USER"}
    )

    snapshot, [fault] = compiled(config("c", public, route(id="q", from_="https://b.example.com")))

    assert fault.field == "rate_limit"
    assert "nobody says who they are" in fault.reason
    serves = {each.id: not isinstance(each.action, Unavailable) for each in snapshot.routes}
    assert serves == {"p": False, "q": True}


def test_users_of_a_route_that_lets_everybody_in_by_its_policies_are_told_apart_by_address() -> None:
    anybody = [{"sourcePpl": "allow:\n  or:\n    - accept: true\n"}]
    limited = route(id="p", policies=anybody, rateLimit={"requests": 1, "key": "RATE_LIMIT_KEY_USER"})

    snapshot, [fault] = compiled(config("c", limited))

    assert fault.warning
    assert "addresses are counted" in fault.reason
    (found,) = snapshot.routes
    assert found.public
    assert found.rate_limit is not None
    assert found.rate_limit.key is RateKey.CLIENT_ADDRESS


@given(
    st.builds(
        config_pb2.RateLimit,
        requests=st.integers(0, 2**32 - 1),
        burst=st.none() | st.integers(0, 2**32 - 1),
        key=st.none() | st.integers(0, 4),
    ),
    st.integers(-(2**40), 2**40),
    st.integers(-(2**31), 2**31 - 1),
)
def test_whatever_is_read_is_something_that_envoy_takes(sent: config_pb2.RateLimit, seconds: int, nanos: int) -> None:
    """A bucket that is never empty for good, and is filled no more often than Envoy can."""
    sent.per.seconds, sent.per.nanos = seconds, nanos
    try:
        read = parse_rate_limit(sent)
    except Unusable:
        return
    built = build_limit(read, "x")
    for bucket in (built.token_bucket, *(each.token_bucket for each in built.descriptors)):
        assert bucket.max_tokens > 0
        assert bucket.tokens_per_fill.value > 0
        assert bucket.fill_interval.ToNanoseconds() >= 50_000_000

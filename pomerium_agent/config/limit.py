"""How many requests are let through: ours, no field of the reference."""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum


class RateKey(Enum):
    """Who shares a bucket."""

    CLIENT_ADDRESS = "client_address"  # as the settings of X-Forwarded-For make it out; of IPv6, the first 64 bits
    USER = "user"
    ROUTE = "route"  # everybody together


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A bucket that holds `burst` requests, and into which `requests` more fall in every `per`."""

    requests: int
    per: timedelta
    burst: int
    key: RateKey = RateKey.CLIENT_ADDRESS

    @property
    def retry_seconds(self) -> int:
        """How long it takes at most until there is room for one more, in whole seconds."""
        return max(1, -(-self.per // (self.requests * timedelta(seconds=1))))


# A login is two or three requests: 400 people behind one address at once, as many more in every minute after that.
LOGIN_LIMIT = RateLimit(requests=1200, per=timedelta(minutes=1), burst=1200)

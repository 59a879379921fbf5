"""The console's HPKE keys: who it is to every cluster, now, next, and for sign-ins that began a moment ago. Pure.

Replicas pin the keys that their bundle lists. So a new key is listed first, becomes the published one a while later,
and the old one stays in the list until every sign-in that began with it has ended (authenticate 11).
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pomerium_agent.handoff.box import encode_raw
from pomerium_agent.handoff.hpke import public_bytes

LEAD = timedelta(minutes=10)  # between being listed and being published: bundles reach replicas in that time
IN_FLIGHT = timedelta(minutes=10)  # how long a sign-in that began with the old key may take to end


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginKey:
    """One key pair, and from when on it is the published one."""

    private: X25519PrivateKey = field(repr=False)
    current_from: datetime

    @property
    def public(self) -> bytes:
        return public_bytes(self.private)

    @property
    def name(self) -> str:
        """The public key as bundles list it."""
        return encode_raw(self.public)


@dataclass(frozen=True, slots=True)
class LoginKeys:
    """Every key that somebody may still use, the oldest first."""

    keys: tuple[LoginKey, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What replicas pin."""
        return tuple(key.name for key in self.keys)

    def current(self, now: datetime) -> LoginKey:
        """The published one."""
        begun = [key for key in self.keys if key.current_from <= now]
        return begun[-1] if begun else self.keys[0]

    def upcoming(self, now: datetime) -> LoginKey | None:
        """The one that a rotation under way has made."""
        return next((key for key in self.keys if key.current_from > now), None)

    def over(self, now: datetime) -> tuple[LoginKey, ...]:
        """Those that were replaced so long ago that no sign-in uses them any more."""
        pairs = zip(self.keys, self.keys[1:], strict=False)
        return tuple(key for key, successor in pairs if now - successor.current_from >= IN_FLIGHT)

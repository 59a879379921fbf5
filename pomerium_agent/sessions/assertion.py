"""The assertion: a short-lived signed statement to an upstream about who makes a request (authorize 13)."""

import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from pomerium_agent.sessions.claims import joined, session_first, thaw
from pomerium_agent.sessions.identity import Resolved
from pomerium_agent.sessions.signer import Signer

ASSERTION = "x-pomerium-jwt-assertion"  # the header
ASSERTION_FOR = "x-pomerium-jwt-assertion-for"  # on whose behalf a service calls (authorize 24)
LIFETIME = 300  # seconds
REUSED = timedelta(seconds=150)  # half of its life: what an upstream receives is good for at least as long again
REMEMBERED = 8192
RESERVED = frozenset({"iss", "aud", "jti", "iat", "exp", "sub", "user", "email", "groups", "sid", "name"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertionSettings:
    """What a route says of its assertions. `claims` are those that claim headers name, reserved names included."""

    issuer_uri: bool = False  # `iss` as https://host/ instead of the host
    claims: tuple[str, ...] = ()
    groups_filter: frozenset[str] = frozenset()  # the route's and the global one together; empty: all


PLAIN = AssertionSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion:
    """A signed assertion, and what it says."""

    jwt: str
    payload: Mapping[str, Any]
    removed_groups: int = 0  # how many the filter left out


def assertion_payload(
    resolved: Resolved | None, host: str, settings: AssertionSettings, now: datetime, jti: str
) -> tuple[dict[str, Any], int]:
    """The claims, and how many groups the filter removed (A-21, A-24, A-25). `host` is a host name without a port.

    A stranger has every claim too, and each of them says nobody.
    """
    issued = int(now.timestamp())
    groups, removed = _groups(resolved, settings.groups_filter)
    payload: dict[str, Any] = {
        "iss": f"https://{host}/" if settings.issuer_uri else host,
        "aud": host,
        "jti": jti,
        "iat": issued,
        "exp": issued + LIFETIME,
        "sub": resolved.user_id if resolved else "",
        "user": resolved.user_id if resolved else "",
        "email": resolved.email if resolved else "",
        "groups": groups,
        "sid": resolved.session_id if resolved else "",
        "name": joined(_claim(resolved, "name") or ()),
    }
    for name in settings.claims:
        if name not in RESERVED:
            values = _claim(resolved, name)
            if values is not None:
                payload[name] = joined(values)
    return payload, removed


class Assertions:
    """Signs assertions, and uses each again for a part of its life.

    One is kept per session, host and settings for as long as the session's version stays. The reference signs anew
    for each request, with a new `jti`; `reused` of zero does so too.
    """

    def __init__(
        self,
        signer: Signer,
        *,
        reused: timedelta = REUSED,
        remembered: int = REMEMBERED,
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        if not timedelta(0) <= reused < timedelta(seconds=LIFETIME):
            raise ValueError(f"an assertion lives {LIFETIME} s; it cannot be used again for {reused.total_seconds()} s")
        self.signer = signer
        self._reused = reused.total_seconds()
        self._limit = remembered
        self._new_id = new_id
        self._kept: OrderedDict[tuple[str, str, AssertionSettings], tuple[int, float, Assertion]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def make(self, resolved: Resolved | None, host: str, settings: AssertionSettings, now: datetime) -> Assertion:
        """The assertion for one request of whoever was resolved, or of a stranger, to `host`."""
        key = (resolved.session_id if resolved else "", host, settings)
        version = resolved.version if resolved else 0
        time = now.timestamp()
        kept = self._kept.get(key)
        if kept is not None and kept[0] == version and 0 <= time - kept[1] < self._reused:
            self._kept.move_to_end(key)
            return kept[2]
        payload, removed = assertion_payload(resolved, host, settings, now, str(self._new_id()))
        assertion = Assertion(jwt=self.signer.sign(payload), payload=MappingProxyType(payload), removed_groups=removed)
        if self._reused:
            self._kept[key] = (version, time, assertion)
            self._kept.move_to_end(key)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return assertion


def _claim(resolved: Resolved | None, name: str) -> tuple[Any, ...] | None:
    return session_first(name, resolved.session_claims, resolved.user_claims) if resolved else None


def _groups(resolved: Resolved | None, keep: frozenset[str]) -> tuple[list[Any], int]:
    """Directory ids that pass the filter and then their names; else what the session says of groups (A-25)."""
    if resolved is None:
        return [], 0
    ids = resolved.identity.groups
    if not ids:
        return thaw(resolved.session_claims.get("groups", ())), 0
    kept = [id for id in ids if id in keep] if keep else list(ids)
    names = [resolved.group_names[id] for id in kept if id in resolved.group_names]
    return kept + names, len(ids) - len(kept)

"""What criteria, rules and policies answer, how answers are merged, and what becomes of a request by them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

NO_DATA: Mapping[str, Any] = MappingProxyType({})
NO_REASONS: frozenset[str] = frozenset()

UNAUTHENTICATED = "user-unauthenticated"
DEVICE_UNAUTHENTICATED = "device-unauthenticated"
DEVICE_UNAUTHORIZED = "device-unauthorized"
CERTIFICATE_REQUIRED = "client-certificate-required"
CERTIFICATE_INVALID = "invalid-client-certificate"
ROUTE_NOT_FOUND = "route-not-found"
POLICY_INVALID = "policy-invalid"  # the policy cannot be read: its whole route is closed
POLICY_UNSUPPORTED = "policy-unsupported"  # the policy can be read, and not evaluated here: likewise


class Result(NamedTuple):
    """An answer with its reasons (policy 1). Reasons and data matter whatever the value is (P-5)."""

    value: bool
    reasons: frozenset[str] = NO_REASONS
    data: Mapping[str, Any] = NO_DATA


NOTHING = Result(False)  # no rule of that action has any term


def merged(value: bool, chosen: Sequence[Result]) -> Result:
    """The union of results, inside one policy: of two data under one key the greater stays (policy 3.2)."""
    if len(chosen) == 1:
        first = chosen[0]
        return first if first.value is value else Result(value, first.reasons, first.data)
    data: dict[str, Any] = {}
    for each in chosen:
        for key, item in each.data.items():
            data[key] = max(item, data[key], key=str) if key in data else item
    return Result(value, NO_REASONS.union(*[each.reasons for each in chosen]), data or NO_DATA)


def any_of(results: Sequence[Result]) -> Result:
    """The `or` row of policy 3.1: true operands hide the reasons of false ones."""
    if not results:
        return NOTHING
    if len(results) == 1:
        return results[0]
    true = [each for each in results if each.value]
    return merged(True, true) if true else merged(False, results)


def any_policy(results: Sequence[Result]) -> Result:
    """As `any_of`, across policies: of two data under one key the later stays (policy 3.2)."""
    if len(results) == 1:
        return results[0]
    true = [each for each in results if each.value]
    chosen = true or results
    if not chosen:
        return NOTHING
    data = NO_DATA
    for each in chosen:
        if each.data is not NO_DATA:
            data = {**data, **each.data}
    return Result(bool(true), NO_REASONS.union(*[each.reasons for each in chosen]), data)


class Trace(NamedTuple):
    """What one script of a route answered; the base policy has an empty id (policy 11)."""

    id: str
    explanation: str
    remediation: str
    allow: Result
    deny: Result


class Verdict(NamedTuple):
    """All that the answer to a request depends on.

    `unproven`: a stranger was let in only because nothing is known of them, so they have to sign in (D1).
    """

    allow: Result
    deny: Result
    traces: tuple[Trace, ...] = ()
    unproven: bool = False


class Kind(Enum):
    """What becomes of a request, in the order of policy 3.3."""

    CERTIFICATE = "certificate"
    LOGIN = "login"
    ENROLL = "enroll"
    DENIED = "deny"
    ALLOWED = "allow"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` is what a browser gets to see; other clients may be told otherwise (authorize 7, 8)."""

    kind: Kind
    status: int
    reasons: tuple[str, ...]  # sorted (P-29)

    @property
    def decision(self) -> str:
        """`allow`, `deny`, `login` or `enroll`."""
        return "deny" if self.kind is Kind.CERTIFICATE else self.kind.value


_CERTIFICATE = frozenset({CERTIFICATE_REQUIRED, CERTIFICATE_INVALID})


def outcome(verdict: Verdict) -> Outcome:
    """The order of policy 3.3, exactly (P-6, P-7)."""
    allow, deny = verdict.allow, verdict.deny
    if not deny.reasons.isdisjoint(_CERTIFICATE):
        return _outcome(Kind.CERTIFICATE, 495, deny.reasons)
    if UNAUTHENTICATED in allow.reasons or UNAUTHENTICATED in deny.reasons:
        return _outcome(Kind.LOGIN, 302, allow.reasons | deny.reasons)
    if DEVICE_UNAUTHENTICATED in allow.reasons or DEVICE_UNAUTHENTICATED in deny.reasons:
        return _outcome(Kind.ENROLL, 302, allow.reasons | deny.reasons)
    if deny.value:
        return _outcome(Kind.DENIED, denied_status(deny.reasons), deny.reasons)
    if allow.value and verdict.unproven:
        return _outcome(Kind.LOGIN, 302, allow.reasons | {UNAUTHENTICATED})
    if allow.value:
        return _outcome(Kind.ALLOWED, 200, allow.reasons)
    return _outcome(Kind.DENIED, denied_status(allow.reasons), allow.reasons)


def _outcome(kind: Kind, status: int, reasons: Iterable[str]) -> Outcome:
    return Outcome(kind, status, tuple(sorted(reasons)))


def denied_status(reasons: frozenset[str]) -> int:
    """The HTTP status of a denial by its reasons (policy 3.3); MCP answers are authorize's business."""
    if DEVICE_UNAUTHORIZED in reasons:
        return 450
    if ROUTE_NOT_FOUND in reasons:
        return 404
    return 403 if reasons.isdisjoint(_CERTIFICATE) else 495

"""The criteria of date and time (policy 7): `now` comes with the facts, never from a clock."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from pomerium_agent.policy.compiling import Compiling, Place
from pomerium_agent.policy.complaints import did_you_mean, shown
from pomerium_agent.policy.document import Term
from pomerium_agent.policy.yaml_marks import Mapping

TimeTest = Callable[[datetime], bool]

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?", re.ASCII)
_TWELVE = re.compile(r"([0-9]{1,2})(?::([0-9]{2}))? ?([AP])M", re.ASCII | re.IGNORECASE)


def date_test(term: Term, ask: Compiling) -> TimeTest | None:
    """Strictly after and strictly before; a time without a zone is UTC."""
    bounds = _object(term, ask, ("after", "before"), "date: {after: 2030-01-02}")
    if bounds is None:
        return None
    moments: dict[str, datetime] = {}
    for name, value in bounds.items():
        moment = _moment(value)
        if moment is None:
            ask.refuse(_at(term, name), f"{shown(value)} is no date", "write it as 2030-01-02 or 2030-01-02T16:20:00Z")
        else:
            moments[name] = moment
    if len(moments) < len(bounds):
        return None
    after, before = moments.get("after"), moments.get("before")
    return lambda now: (after is None or now > after) and (before is None or now < before)


def day_test(term: Term, ask: Compiling) -> TimeTest | None:
    """`*`, a list with commas, or a range that may wrap; in UTC."""
    data = term.plain()
    days = _days(data) if isinstance(data, str) else None
    if days is None:
        ask.refuse(Place(term.line, term.path), f"{shown(data)} names no days", "write mon-fri, or mon,wed, or *")
        return None
    return lambda now: now.astimezone(UTC).weekday() in days


def time_test(term: Term, ask: Compiling) -> TimeTest | None:
    """Strictly after and strictly before by the wall clock of a time zone."""
    asked = _object(term, ask, ("timezone", "after", "before"), "time_of_day: {timezone: Europe/Berlin, after: 8 AM}")
    if asked is None:
        return None
    zone = _zone(asked.get("timezone"))
    if zone is None:
        reason = (
            "time_of_day needs a timezone"
            if "timezone" not in asked
            else f"there is no time zone {shown(asked['timezone'])}"
        )
        ask.refuse(_at(term, "timezone"), reason, "write, for example, timezone: Europe/Berlin, or UTC")
    bounds: dict[str, int] = {}
    for name in ("after", "before"):
        if name in asked:
            time = _nanoseconds(asked[name])
            if time is None:
                ask.refuse(
                    _at(term, name), f"{shown(asked[name])} is no time of day", "write 2:20 PM, 14:20 or 14:20:00"
                )
            else:
                bounds[name] = time
    if len(bounds) < len(asked) - 1 or zone is None:
        return None
    after, before, place = bounds.get("after", -1), bounds.get("before"), zone

    def test(now: datetime) -> bool:
        wall = now.astimezone(place)
        time = ((wall.hour * 60 + wall.minute) * 60 + wall.second) * 10**9 + wall.microsecond * 1000
        return time > after and (before is None or time < before)

    return test


def _object(term: Term, ask: Compiling, keys: tuple[str, ...], example: str) -> dict[str, object] | None:
    if not isinstance(term.data, Mapping) or not term.data.items:
        ask.refuse(Place(term.line, term.path), f"{term.name} needs an object", f"write, for example, {example}")
        return None
    data = term.plain()
    assert isinstance(data, dict)  # noqa: S101  # of a mapping
    unknown = [name for name in data if name not in keys]
    for name in unknown:
        ask.refuse(
            _at(term, name),
            f"{term.name} has no key {shown(name)}",
            did_you_mean(name, keys, otherwise=f"use {', '.join(keys)}"),
        )
    return None if unknown else data


def _at(term: Term, name: str) -> Place:
    lines = term.data.lines if isinstance(term.data, Mapping) else {}
    return Place(lines.get(name, term.line), f"{term.path}.{name}")


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _days(text: str) -> frozenset[int] | None:
    if text.strip() == "*":
        return frozenset(range(7))
    first, dash, last = text.partition("-")
    if dash:
        start, end = _day(first), _day(last)
        if start is None or end is None:
            return None
        return frozenset((start + i) % 7 for i in range((end - start) % 7 + 1))
    days = [_day(word) for word in text.split(",")]
    return frozenset(day for day in days if day is not None) if None not in days else None


def _day(word: str) -> int | None:
    name = word.strip().lower()
    return next((i for i, day in enumerate(DAYS) if name in (day, day[:3])), None)


def _zone(name: object) -> ZoneInfo | None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_+/-]*", name):
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # KeyError: not found; the others: a folder, or no time zone file
        return None


def _nanoseconds(value: object) -> int | None:
    """Since midnight."""
    if not isinstance(value, str):
        return None
    text = value.strip()
    if twelve := _TWELVE.fullmatch(text):
        hour, minute = int(twelve[1]), int(twelve[2] or 0)
        if not 1 <= hour <= 12 or minute > 59:
            return None
        return (hour % 12 + (12 if twelve[3].upper() == "P" else 0)) * 3600 * 10**9 + minute * 60 * 10**9
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        return None
    hour, minute, second = int(clock[1]), int(clock[2]), int(clock[3] or 0)
    if hour > 23 or minute > 59 or second > 59:
        return None
    return ((hour * 60 + minute) * 60 + second) * 10**9 + int((clock[4] or "").ljust(9, "0"))

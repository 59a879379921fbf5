"""Times in words, initials of people, colours of names: what pages say about values."""

import hashlib
import re
from datetime import UTC, datetime, timedelta

from pomerium_agent.look.markup import Html, join, tag
from pomerium_agent.look.style import HUES

HIDDEN = "(hidden)"
# A JSON web token, wherever it stands; what is opaque cannot be told from any other id.
_TOKEN = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]*")
_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def without_tokens(words: str) -> str:
    """`words` with whatever is plainly a token taken out: none belongs on a page, whoever put it there (N-33)."""
    return _TOKEN.sub(HIDDEN, words)


def in_words(distance: timedelta) -> str:
    """`in 3 hours`, `2 days ago`: one unit, rounded down, as people say it."""
    seconds = distance.total_seconds()
    for size, name in _UNITS:
        count = int(abs(seconds) // size)
        if count:
            amount = f"{count} {name}" + ("s" if count > 1 else "")
            return f"in {amount}" if seconds > 0 else f"{amount} ago"
    return "in less than a minute" if seconds > 0 else "just now"


def moment(when: datetime, now: datetime) -> Html:
    """A point in time in words, and exactly."""
    return join((in_words(when - now), " ", exactly(when, class_="soft small")))


def exactly(when: datetime, **attributes: str) -> Html:
    iso = when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return tag("time", iso, datetime=iso, **attributes)


def initials(name: str, email: str = "") -> str:
    """Up to two letters that stand for somebody without a picture."""
    words = [word for word in name.split() if word[0].isalnum()] or email.split("@")[0].split(".")
    letters = [word[0] for word in words if word[:1].isalnum()]
    return "".join(dict.fromkeys((letters[0], letters[-1]))).upper() if letters else "?"


def monogram(letters: str, name: str) -> Html:
    """Letters in a square whose colour is always the same for the same name."""
    hue = hashlib.sha256(name.encode("utf-8", "replace")).digest()[0] % len(HUES)
    return tag("span", letters, class_=f"mono h{hue}", aria_hidden="true")

"""Browsers that are sent to sign in again and again for the same route: the login works, and then does not count.

A browser is known by the cookie that its first login was given (handoff.nonce). A loop goes round once a second or
so; tabs that are opened together ask at once, so seconds are counted and not requests.
"""

from collections import OrderedDict
from datetime import datetime
from enum import Enum

from pomerium_agent.authorize.gather import Question
from pomerium_agent.authorize.rules import Rules
from pomerium_agent.handoff.nonce import COOKIE_SECONDS
from pomerium_agent.sessions.handle import Handle, HandleReader
from pomerium_agent.sessions.sources import Presented

WINDOW_SECONDS = 60
ALLOWED = 5  # different seconds of a minute in which a browser may be sent to sign in for one route
REMEMBERED = 4096  # browsers
CLOCK_SECONDS = 60


class Cause(Enum):
    """What may be wrong, as far as the request shows it, and what helps."""

    NO_COOKIE = (
        "The session cookie does not come back",
        "Allow cookies for this site and turn off extensions that remove them, and try again. Whoever runs the site: "
        "cookie_domain must cover this host, and a cookie above 4 KB is dropped by browsers.",
    )
    FOREIGN_COOKIE = (
        "The session cookie is not of this site",
        "Delete the cookies of this site and try again. Whoever runs the site: replicas with different shared secrets "
        "on one host, or another product with a cookie of the same name, do this.",
    )
    OTHER_PROVIDER = (
        "You are signed in with another identity provider",
        "This route wants its own sign-in. Whoever runs the site: the provider settings differ between the replica "
        "that signed you in and this one, or a route overrides idp_client_id.",
    )
    CLOCK = (
        "A clock is wrong",
        "Your new session looks as if it had expired, or were from the future. Whoever runs the site: compare the "
        "clocks of the replicas.",
    )
    NO_SESSION = (
        "Your session is not known here",
        "It was ended, or has not arrived here yet. Try again in a minute. Whoever runs the site: see whether the "
        "replicas share one databroker and can reach it.",
    )


class LoopDetector:
    """Counts logins that begin, by browser and route; the browsers seen least recently are forgotten first."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._seen: OrderedDict[tuple[str, str], list[int]] = OrderedDict()

    def loops(self, browser: str, route_id: str, now: datetime) -> bool:
        """Note that a login would begin; True when there were too many. A browser that is new cannot loop."""
        if not browser:
            return False
        second = int(now.timestamp())
        seconds = self._seen.setdefault((browser, route_id), [])
        self._seen.move_to_end((browser, route_id))
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)
        seconds[:] = [each for each in seconds if second - WINDOW_SECONDS < each <= second][-ALLOWED:]
        if second in seconds:
            return False
        if len(seconds) >= ALLOWED:
            return True
        seconds.append(second)
        return False


def causes_of(question: Question, presented: Presented, rules: Rules, idp_id: str, now: datetime) -> tuple[Cause, ...]:
    """What is most likely wrong with somebody who signs in and is a stranger still; the likeliest first."""
    if not presented.candidates:
        return (Cause.NO_COOKIE,)
    reader = HandleReader((rules.shared_key,)) if rules.shared_key else HandleReader(())
    handles = [handle for each in presented.candidates if (handle := reader.read(each.token)) is not None]
    if not handles:
        return (Cause.FOREIGN_COOKIE, Cause.NO_COOKIE)
    handle = handles[0]
    if handle.idp_id and handle.idp_id != idp_id:
        return (Cause.OTHER_PROVIDER,)
    return (Cause.CLOCK, Cause.NO_SESSION) if _strange_time(handle, rules, now) else (Cause.NO_SESSION, Cause.CLOCK)


def _strange_time(handle: Handle, rules: Rules, now: datetime) -> bool:
    if handle.issued_at is None:
        return False
    age = now.timestamp() - handle.issued_at
    lifetime = rules.handle_lifetime
    return age < -CLOCK_SECONDS or (lifetime is not None and age > lifetime.total_seconds() - COOKIE_SECONDS)

"""What the identity manager keeps of a session, and when it looks at the session next (authenticate 7.2). Pure."""

from dataclasses import dataclass
from hashlib import blake2b
from sys import intern

from google.protobuf.timestamp_pb2 import Timestamp

from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.records import Record, unpack
from pomerium_agent.sessions.entries import YEAR_1971

GRACE = 60.0  # seconds before a token expires
COOL_OFF = 10.0  # seconds after the last look, and after the first sight of the session
SPREAD = 60.0  # seconds that a refresh may come earlier still, so that those of one morning are not due at once
SPREAD_SHARE = 0.1  # of the time until it is due: short-lived tokens are spread less


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One session, without its tokens: those are read when they are needed. Times are seconds since the epoch."""

    user_id: str
    idp_id: str
    expires_at: float | None = None
    token_expires_at: float | None = None
    id_token_expires_at: float | None = None
    access_token: bool = False  # there is one, and asking with it is not forbidden
    refresh_token: bool = False

    @property
    def tokens_expire_at(self) -> tuple[float | None, float | None]:
        """What a refresh replaces."""
        return self.token_expires_at, self.id_token_expires_at


def read_facts(record: Record) -> Facts | None:
    """None for what is no session. Nothing is refreshed for a session that forbids it, or has no OAuth token."""
    session = unpack(record.data, session_pb2.Session)
    return None if session is None else facts_of(session)


def facts_of(session: session_pb2.Session) -> Facts:
    token, allowed = session.oauth_token, not session.refresh_disabled
    return Facts(
        user_id=session.user_id,
        idp_id=intern(session.idp_id),
        expires_at=moment(session.expires_at),
        token_expires_at=moment(token.expires_at),
        id_token_expires_at=moment(session.id_token.expires_at),
        access_token=allowed and bool(token.access_token),
        refresh_token=allowed and bool(token.refresh_token),
    )


def moment(timestamp: Timestamp) -> float | None:
    """A time before 1971, the unset one included, is how "none" is written (authenticate 3.10)."""
    return timestamp.seconds + timestamp.nanos / 1e9 if timestamp.seconds >= YEAR_1971 else None


def next_look(
    facts: Facts,
    *,
    last: float,
    refreshes: bool,
    with_id_token: bool = True,
    retry_at: float = 0.0,
    spread: float = 0.0,
) -> float | None:
    """When to look at a session again: to refresh it, or to remove it at its end; None: never (N-35).

    `last`: the last look, or the first sight. Without `refreshes` the tokens cannot be renewed and do not matter
    (N-37). `with_id_token`: they are renewed before the ID token expires, too. `retry_at`: no refresh before, since one
    failed. `spread`, from 0 to 1, brings the refresh forward by that part of what is allowed.
    """
    renew = renewal_time(facts, with_id_token=with_id_token) if refreshes else None
    if renew is not None:
        early = spread * min(SPREAD, max(0.0, renew - last) * SPREAD_SHARE)
        renew = max(renew - early, retry_at)
    times = [time for time in (renew, facts.expires_at) if time is not None]
    return max(min(times), last + COOL_OFF) if times else None


def renewal_time(facts: Facts, *, with_id_token: bool) -> float | None:
    """When the tokens have to be renewed at the latest; None when they do not expire."""
    times = [facts.token_expires_at]
    if with_id_token:
        times.append(facts.id_token_expires_at)
    known = [time for time in times if time is not None]
    return min(known) - GRACE if known else None


def spread_of(id: str) -> float:
    """A number from 0 to 1 that is always the same for a session, so that its time stays where it was set."""
    return int.from_bytes(blake2b(id.encode(), digest_size=4).digest()) / 2**32

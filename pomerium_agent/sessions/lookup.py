"""From what a request carries to whoever is signed in: each handle is tried until one leads to a valid session."""

from dataclasses import dataclass
from datetime import timedelta

from pomerium_agent.runtime.clock import Clock
from pomerium_agent.sessions.handle import Handle, HandleReader
from pomerium_agent.sessions.identity import Resolved, resolve
from pomerium_agent.sessions.live import WAIT_SECONDS, Sessions
from pomerium_agent.sessions.sources import Presented, Source


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A valid session, and how the request named it."""

    resolved: Resolved
    handle: Handle
    source: Source


async def find_session(
    presented: Presented,
    *,
    reader: HandleReader,
    sessions: Sessions,
    clock: Clock,
    idp_id: str,
    first_only: bool = False,
    handle_lifetime: timedelta | None = None,
    timeout: float = WAIT_SECONDS,
) -> SignedIn | None:
    """The session of the first handle that leads to a valid one (A-5 to A-8, W3); None when none does.

    `idp_id` is the identity provider of the requested route; a handle of another one is no handle here (A-6).
    `first_only` is the reference's way: the first source that is present decides. Raises DatabrokerUnavailable when
    it cannot be found out. It waits only for what a login just wrote.
    """
    for candidate in presented.candidates[:1] if first_only else presented.candidates:
        handle = reader.read(candidate.token)
        if handle is None or (handle.idp_id and handle.idp_id != idp_id):
            continue
        if not sessions.is_ready_for(handle):
            await sessions.ready_for(handle, timeout=timeout)
        resolved = resolve(sessions, handle, clock.now(), handle_lifetime=handle_lifetime)
        if resolved is not None:
            return SignedIn(resolved, handle, candidate.source)
    return None

"""The URL that a browser is sent to so that somebody logs in, in either flow (authenticate 4.2, 5.1). Pure."""

from dataclasses import dataclass
from datetime import datetime

from pomerium_agent.handoff.keys import hpke_key
from pomerium_agent.handoff.sealed import lifetime, seal_query
from pomerium_agent.handoff.signed import signed_url

SIGN_IN_PATH = "/.pomerium/sign_in"
MAX_ADDITIONAL_HOSTS = 5
REDIRECT_URI, CALLBACK_URI, IDP_ID = "pomerium_redirect_uri", "pomerium_callback_uri", "pomerium_idp_id"
PROGRAMMATIC, ADDITIONAL_HOSTS = "pomerium_programmatic", "pomerium_additional_hosts"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """What the login should know. `callback_uri`: of a callback on a route host, with its nonce (see `nonce`)."""

    redirect_uri: str
    idp_id: str
    callback_uri: str
    programmatic: bool = False
    additional_hosts: tuple[str, ...] = ()  # that the browser should be logged in to as well; not in the hosted flow
    trace: tuple[tuple[str, str], ...] = ()  # pomerium_traceparent and pomerium_tracestate, where there is a trace

    def parameters(self) -> list[tuple[str, str]]:
        return [
            (REDIRECT_URI, self.redirect_uri),
            (IDP_ID, self.idp_id),
            (CALLBACK_URI, self.callback_uri),
            *([(PROGRAMMATIC, "true")] if self.programmatic else []),
            *self.trace,
        ]


def stateful_url(authenticate_url: str, sign_in: SignIn, *, shared_secret: bytes, now: datetime) -> str:
    """Signed, for the login pages of this cluster itself. `authenticate_url` has no trailing slash."""
    hosts = sign_in.additional_hosts[:MAX_ADDITIONAL_HOSTS]
    chain = [(ADDITIONAL_HOSTS, ",".join(hosts))] if hosts else []
    return signed_url(f"{authenticate_url}{SIGN_IN_PATH}", [*sign_in.parameters(), *chain], shared_secret, now)


def stateless_url(
    authenticate_url: str,
    sign_in: SignIn,
    *,
    shared_secret: bytes,
    server_key: bytes,
    now: datetime,
    version: str,
    request_uuid: str,
) -> str:
    """Sealed, for the hosted service alone (N-13). Raises HandoffRejected when `server_key` is no usable key."""
    parameters = [
        *sign_in.parameters(),
        ("pomerium_version", version),
        ("pomerium_request_uuid", request_uuid),
        *lifetime(now),
    ]
    query = seal_query(parameters, sender=hpke_key(shared_secret), receiver=server_key)
    return f"{authenticate_url}{SIGN_IN_PATH}?{query}"

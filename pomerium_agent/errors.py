"""Everything that can go wrong, sorted by what the agent does about it.

AgentError
├── SettingsError      the operator's own words are wrong      → name the setting, exit 2
├── Refused            the other side knows us and says no     → exit 3, never retried
├── Retryable          may pass by itself                      → supervise() waits and tries again
│   ├── ControlPlaneUnavailable
│   ├── DatabrokerUnavailable
│   ├── ProviderUnavailable
│   └── EnvoyUnavailable
├── ProviderRefused    an identity provider says no for good   → log in again; name the setting if it is ours
│   └── GrantEnded     what it had granted is over             → the session ends, nobody is to blame
├── NotBelieved        its answer cannot be what it should be  → refuse the login, tell the operator
├── CursorExpired      our place in the change log is gone     → read it all again
├── ConfigRejected     a bundle does not hold together         → report it, keep the last good one
├── RecordNotFound     no such record
├── BearerRejected     a visitor's token is not valid      → 403, nothing else is tried
├── HandoffRejected    a browser brought what we cannot believe → an error page, no session
│   ├── HandoffExpired     it is too old, or from the future
│   ├── HandoffUsed        it was brought before
│   └── HandoffStrayed     it belongs to another browser, or our cookie did not come back
├── LeaseTaken         another replica does the job            → wait for our turn
└── InvalidRequest     a caller's arguments make no sense      → tell the caller, change nothing
    └── Unsupported    they would make sense, but nobody does it

Anything else is a bug: exit 1, with its traceback.
"""


class AgentError(Exception):
    """What the agent knows how to handle."""


class SettingsError(AgentError):
    """What the operator configured on this machine cannot work; the text names the setting and the remedy."""


class Refused(AgentError):
    """The control plane knows us and says no (zero link 4.3: HTTP 400 with a JSON body)."""


class Retryable(AgentError):
    """May pass by itself. `retry_after`: seconds that the other side asks us to wait at least."""

    def __init__(self, reason: str = "", retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class ControlPlaneUnavailable(Retryable):
    """The control plane cannot be reached, or does not answer as it should."""


class DatabrokerUnavailable(Retryable):
    """The store behind the databroker cannot be reached."""


class ProviderUnavailable(Retryable):
    """An identity provider, or the authenticate service that speaks for it, cannot be asked."""


class EnvoyUnavailable(Retryable):
    """Envoy does not run, or does not answer on its admin socket."""


class ProviderRefused(AgentError):
    """An identity provider understood the question and says no, for a reason that waiting does not mend."""


class GrantEnded(ProviderRefused):
    """A code, refresh token or access token is used up, expired or revoked (`invalid_grant`; authenticate 7.3)."""


class NotBelieved(AgentError):
    """An answer in the name of an identity provider fails a check (signature, nonce, subject, …)."""


class CursorExpired(AgentError):
    """Changes after this cursor were cleaned up, or the store is another one: read everything again (D-4)."""


class ConfigRejected(AgentError):
    """A bundle or a record cannot be read as a whole; whatever was in force before stays."""


class RecordNotFound(AgentError):
    """There is no such record."""


class BearerRejected(AgentError):
    """A bearer token, on a route that reads them, is not valid (A-9); the text never quotes it."""


class HandoffRejected(AgentError):
    """What a browser brought from another host is damaged, changed, or not from whom it should be (N-6)."""


class HandoffExpired(HandoffRejected):
    """It is genuine, and too old, or the clocks of two machines differ (N-4)."""


class HandoffUsed(HandoffRejected):
    """It is genuine, and was brought before: each works once (N-15)."""


class HandoffStrayed(HandoffRejected):
    """It is genuine, and not of a login that this browser began, as far as its cookies tell (G-3)."""


class LeaseTaken(AgentError):
    """Another holder has the lease and it has not expired."""


class InvalidRequest(AgentError):
    """The arguments of a call make no sense."""


class Unsupported(InvalidRequest):
    """A caller asks for something that the protocol knows and no backend can do (D-4: UNIMPLEMENTED)."""

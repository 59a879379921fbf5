"""Forms that carry the client's credentials, and what a refusal of one means (RFC 6749 2.3.1, 5.2)."""

import base64
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import aiohttp

from pomerium_agent.errors import AgentError, GrantEnded, ProviderRefused, ProviderUnavailable
from pomerium_agent.idp.fetch import Answer, ask
from pomerium_agent.settings import Secret

FORM = "application/x-www-form-urlencoded"
ENDED = frozenset(
    {
        "access_denied",
        "account_selection_required",
        "bad_refresh_token",
        "bad_verification_code",
        "consent_required",
        "expired_token",
        "interaction_required",
        "invalid_grant",
        "login_required",
    }
)
NOT_NOW = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
OUR_FAULT = frozenset({"invalid_client", "unauthorized_client", "incorrect_client_credentials"})
CODE = re.compile(r"[a-z_]{1,64}")
Assertion = Callable[[str], Mapping[str, str]]


class Style(StrEnum):
    """How a client says who it is."""

    BASIC = "client_secret_basic"
    POST = "client_secret_post"
    PUBLIC = "none"  # it has no secret
    ASSERTION = "private_key_jwt"


class Client:
    """A client of a provider, on the back channel. Basic first, then in the body; what works is remembered."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        *,
        provider: str,
        id: str,
        secret: Secret,
        style: Style | None = None,
        assertion: Assertion | None = None,
    ) -> None:
        self._http = http
        self._provider = provider
        self._id = id
        self._secret = secret
        self._style = style or (None if secret else Style.PUBLIC)
        self._assertion = assertion

    async def post(
        self, url: str, form: Mapping[str, str], methods: tuple[str, ...] | None = None, *, bare: bool = False
    ) -> dict[str, Any]:
        """The JSON that `url` answers; `methods` are the styles that the provider says it takes.

        `bare`: the status is the answer, its body does not matter. Raises what Provider promises.
        """
        refused: AgentError | None = None
        for style in self._styles(methods):
            answer = await self._send(url, form, style)
            error = refusal(answer, self._provider)
            if error is None:
                self._style = style
                return {} if bare else answer.json()
            if isinstance(error, GrantEnded):  # it knew who asked
                self._style = style
                raise error
            refused = error if refused is None or isinstance(error, ProviderRefused) else refused
        raise refused or ProviderUnavailable(f"{self._provider} was not asked")

    def _styles(self, methods: tuple[str, ...] | None) -> tuple[Style, ...]:
        if self._style is not None:
            return (self._style,)
        both = (Style.BASIC, Style.POST)
        return tuple(style for style in both if style in (methods or both)) or both

    async def _send(self, url: str, form: Mapping[str, str], style: Style) -> Answer:
        headers = {"Accept": "application/json", "Content-Type": FORM}
        credentials: Mapping[str, str] = {}
        if style is Style.BASIC:
            headers["Authorization"] = basic(self._id, self._secret)
        elif style is Style.POST:
            credentials = {"client_id": self._id, "client_secret": self._secret}
        elif style is Style.ASSERTION and self._assertion is not None:
            credentials = {"client_id": self._id, **self._assertion(url)}
        else:
            credentials = {"client_id": self._id}
        body = urlencode({**form, **credentials}, quote_via=quote).encode()
        return await ask(self._http, url, method="POST", headers=headers, body=body)


def basic(id: str, secret: str) -> str:
    """Both parts are form-escaped first (RFC 6749 2.3.1)."""
    return "Basic " + base64.b64encode(f"{quote_plus(id)}:{quote_plus(secret)}".encode()).decode()


def refusal(answer: Answer, provider: str) -> AgentError | None:
    """What an OAuth error means to us; None when it is none. Some providers send errors with status 200.

    Only a clear word ends a session: a bare 403 may come from whatever stands in the way (G-9).
    """
    try:
        error = answer.json().get("error")
    except ProviderUnavailable:
        error = None
    code = error if isinstance(error, str) and CODE.fullmatch(error) else ""
    if answer.status < 300 and not error:
        return None
    if code in ENDED:
        return GrantEnded(f"{provider} says that what it granted is over ({code}); log in again")
    if code in OUR_FAULT:
        return ProviderRefused(f"{provider} does not accept this client ({code}); check the client id and secret")
    if code in NOT_NOW or not code:
        return ProviderUnavailable(f"{provider} answered {answer.status}{f' ({code})' if code else ''} at {answer.url}")
    return ProviderRefused(f"{provider} refused the request ({code}); check how the client is registered there")

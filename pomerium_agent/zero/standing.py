"""What a refusal by the control plane means here: the end of the agent, or a long silence (Z-66, W18)."""

from collections.abc import Awaitable, Callable

import structlog

from pomerium_agent.errors import Refused
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.rerun import rerun_on_change
from pomerium_agent.zero.cluster_token import ClusterToken

log = structlog.get_logger(__name__)

SILENCE = 3600.0  # seconds after which a refused replica asks once more


class Standing:
    """Whether the control plane wants to hear from us, shared by everything that talks to it.

    With `exit`, Refused leaves through the caller's TaskGroup. With `serve`, one refusal stops all work with the
    control plane, what is in force goes on being served, and after an hour we ask once more. Either way another
    cluster token is looked for before, and one that comes later ends the silence.
    """

    def __init__(self, on_refused: str, token: ClusterToken, *, health: Health, clock: Clock) -> None:
        self._token = token
        self._serves_on = on_refused == "serve"
        self._health = health
        self._clock = clock
        self._refusal = Latest("")

    @property
    def welcome(self) -> bool:
        """Whether the control plane has not refused us."""
        return not self._refusal.value

    async def while_welcome(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run `run`, which never returns by itself, whenever the control plane has not refused us."""

        async def one(refusal: str) -> None:
            if refusal:
                await self._clock.sleep(SILENCE)
                if self._refusal.value == refusal:
                    self._refusal.set("")
                return
            while await self._run_with_present_token(run):
                pass

        await rerun_on_change(self._refusal, one)

    async def follow_token(self) -> None:
        """Another token is another chance."""
        async for _ in self._token.current.follow():
            if self._refusal.value:
                self._refusal.set("")

    async def _run_with_present_token(self, run: Callable[[], Awaitable[None]]) -> bool:
        """Whether it ended because of a token that has been replaced since, and so may run again."""
        token, refusal = self._token.current.value, list[BaseException]()
        try:
            await run()
        except* Refused as refused:
            refusal.append(refused)
        if not refusal:
            return False
        if await self._token.replaced(token):  # not above: what cancels us must not end up in a group
            return True
        if not self._serves_on:
            raise refusal[0]
        self._refuse(str(_first(refusal[0])))
        return False

    def _refuse(self, reason: str) -> None:
        log.error("refused by the control plane, serving on", reason=reason, ask_again_in=SILENCE)
        self._health.failed(Check.ZERO_CONNECT, f"refused: {reason}")
        self._refusal.set(reason)


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group

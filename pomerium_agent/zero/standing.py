"""What a refusal by the control plane means here: the end of the agent, or a long silence (Z-66, W18)."""

from collections.abc import Awaitable, Callable

import structlog

from pomerium_agent.errors import Refused
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.rerun import rerun_on_change

log = structlog.get_logger(__name__)

SILENCE = 3600.0  # seconds after which a refused replica asks once more


class Standing:
    """Whether the control plane wants to hear from us, shared by everything that talks to it.

    With `exit`, Refused leaves through the caller's TaskGroup. With `serve`, one refusal stops all work with the
    control plane, what is in force goes on being served, and after an hour we ask once more.
    """

    def __init__(self, on_refused: str, *, health: Health, clock: Clock) -> None:
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
            try:
                await run()
            except* Refused as refused:
                if not self._serves_on:
                    raise
                self._refuse(str(_first(refused)))

        await rerun_on_change(self._refusal, one)

    def _refuse(self, reason: str) -> None:
        log.error("refused by the control plane, serving on", reason=reason, ask_again_in=SILENCE)
        self._health.failed(Check.ZERO_CONNECT, f"refused: {reason}")
        self._refusal.set(reason)


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group

"""Who may call: whoever shows a token of this cluster; on the unix socket, whoever could open it (databroker 2).

A caller that is refused costs nothing but the refusal: what it sends is not read.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import structlog

from pomerium_agent.databroker.service.calls import Status
from pomerium_agent.databroker.service.token import InvalidToken, check_token
from pomerium_agent.runtime.clock import Clock

log = structlog.get_logger(__name__)

# What says nothing of anybody: whether we are well, and what the messages look like.
OPEN = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)
LOG_EVERY = 10.0  # seconds; strangers must not be able to fill the log

# Generic in its stub only, so it is written as a text.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]"


class Door(grpc.aio.ServerInterceptor):
    """Looks at each call before anything of it is read. `private` is the unix socket, which needs no token."""

    def __init__(self, key: bytes, clock: Clock, *, private: bool) -> None:
        self._key = key
        self._clock = clock
        self._private = private
        self._refused = 0
        self._logged_at = -LOG_EVERY

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        refusal = self._refusal(handler_call_details)
        if refusal is None:
            return await continuation(handler_call_details)
        code, text = refusal

        async def refuse(_requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await context.abort(code, text)

        # Of all kinds of handlers, this one reads no message that it does not ask for.
        handler: Handler = grpc.stream_unary_rpc_method_handler(refuse)
        return handler

    def _refusal(self, call: grpc.HandlerCallDetails) -> tuple[grpc.StatusCode, str] | None:
        """None for who may come in. A token that is shown must be good, also where none is needed."""
        if call.method.startswith(OPEN):
            return None
        shown = next((value for name, value in call.invocation_metadata if name == "jwt"), None)
        if shown is None and self._private:
            return None
        if not self._key:
            return Status.UNAVAILABLE, "no shared key defined"
        if shown is None:
            self._note("it shows no token")
            return Status.UNAUTHENTICATED, "unauthenticated"
        try:
            check_token(self._key, shown if isinstance(shown, str) else "", self._clock.now())
        except InvalidToken as error:
            self._note(str(error))
            return Status.UNAUTHENTICATED, "invalid JWT"
        return None

    def _note(self, reason: str) -> None:
        self._refused += 1
        if self._clock.monotonic() - self._logged_at >= LOG_EVERY:
            log.warning("databroker call refused", reason=reason, refused=self._refused)
            self._logged_at = self._clock.monotonic()

"""How one call ends: every error of ours is a status of gRPC, and what is a bug says nothing to strangers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from pomerium_agent.errors import (
    AgentError,
    CursorExpired,
    DatabrokerUnavailable,
    InvalidRequest,
    LeaseTaken,
    RecordNotFound,
    Unsupported,
)

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Status = grpc.StatusCode

# databroker 5 (D-4). The first that fits counts.
STATUSES: tuple[tuple[type[AgentError], grpc.StatusCode], ...] = (
    (RecordNotFound, Status.NOT_FOUND),
    (Unsupported, Status.UNIMPLEMENTED),
    (InvalidRequest, Status.INVALID_ARGUMENT),
    (LeaseTaken, Status.ALREADY_EXISTS),
    (CursorExpired, Status.ABORTED),
    (DatabrokerUnavailable, Status.UNAVAILABLE),
)
DOMAIN = "pomerium.com"
PATIENCE = 30.0  # seconds


class CallRefused(AgentError):
    """This call ends with this status; a `reason` goes along as a detail that programs can read (databroker 14)."""

    def __init__(self, code: grpc.StatusCode, text: str, *, reason: str = "") -> None:
        super().__init__(f"{reason}: {text}" if reason else text)
        self.code = code
        self.reason = reason


@asynccontextmanager
async def answering(context: Context, patience: float = PATIENCE) -> AsyncIterator[None]:
    """End the call with the right status, whatever the block raises. Cancellation goes through.

    The status waits behind what was not read yet; after `patience` seconds of that, the call is cut without it. A
    caller that has left while we were writing is no error of anybody's: the call ends as if cancelled.
    """
    try:
        async with _with_status(context, patience):
            yield
    except grpc.aio.AbortError:
        raise
    except grpc.aio.InternalError as error:  # nothing can be sent any more; that the caller left is said a moment later
        log.debug("databroker caller left", peer=context.peer())
        raise asyncio.CancelledError from error


@asynccontextmanager
async def _with_status(context: Context, patience: float) -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.BaseError:
        raise
    except CallRefused as error:
        await _abort(context, patience, error.code, str(error), error.reason)
    except AgentError as error:
        code = next((code for kind, code in STATUSES if isinstance(error, kind)), Status.UNKNOWN)
        await _abort(context, patience, code, str(error))
    except Exception:  # the edge of one call: a bug in it fails this call alone, and its text may hold anything
        log.exception("databroker call failed")
        await _abort(context, patience, Status.UNKNOWN, "the databroker failed; the agent's log says why")


async def _abort(context: Context, patience: float, code: grpc.StatusCode, text: str, reason: str = "") -> None:
    try:
        async with asyncio.timeout(patience):
            await context.abort(code, text, _details(code, text, reason))
    except TimeoutError:
        log.warning("databroker call cut without a status, since nobody reads it", peer=context.peer())


def _details(code: grpc.StatusCode, text: str, reason: str) -> tuple[tuple[str, bytes], ...]:
    if not reason:
        return ()
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    status = status_pb2.Status(code=code.value[0], message=text, details=[detail])
    return (("grpc-status-details-bin", status.SerializeToString()),)

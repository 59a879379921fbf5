"""Who may come in: a bearer, over HTTP or gRPC, for the cluster it stands for."""

import asyncio
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from pomerium_agent.console.bearers import Bearer, Signer, Unauthenticated
from pomerium_agent.console.store import Cluster, Store
from pomerium_agent.runtime.clock import Clock

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Gate:
    """Checks bearers: our signature, the time, and that the token behind it is still good."""

    store: Store
    signer: Signer
    clock: Clock

    async def admit(self, authorization: str) -> tuple[Cluster, Bearer]:
        """The cluster that an `authorization` header stands for, or Unauthenticated."""
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("a bearer is needed; get one with POST exchangeToken")
        bearer = self.signer.read_bearer(text.strip(), self.clock.now())
        cluster = await asyncio.to_thread(self.store.find, bearer.cluster_id)
        if cluster is None or bearer.generation not in cluster.generations(self.clock.now()):
            raise Unauthenticated("the cluster token behind this bearer was rotated, or the cluster is gone")
        return cluster, bearer

    async def admit_call(self, context: Context) -> Bearer:
        """The same for a gRPC call, which otherwise ends with UNAUTHENTICATED."""
        try:
            _, bearer = await self.admit(metadata(context).get("authorization", ""))
        except Unauthenticated as error:
            await refuse(context, str(error))
        return bearer

    def seconds_left(self, bearer: Bearer) -> float:
        """How long the bearer is still good for."""
        return max(bearer.expires - self.clock.now().timestamp(), 0.0)


async def refuse(context: Context, reason: str) -> NoReturn:
    """End a call with UNAUTHENTICATED."""
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, reason)


def metadata(context: Context) -> dict[str, str]:
    """The text metadata of a call; of a repeated key, the last."""
    found = context.invocation_metadata() or ()
    return {str(key).lower(): value for key, value in found if isinstance(value, str)}

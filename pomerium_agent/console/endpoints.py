"""Where a console is found: its defaults, and what a replica needs in its environment to find it."""

from pomerium_agent.console.store import Store

DEFAULT_ADDRESS = "127.0.0.1:8700"
DEFAULT_GRPC_ADDRESS = "127.0.0.1:8701"
PREFIX = "/cluster/v1"
_CLUSTER_API, _CONNECT = "cluster_api", "connect"  # facts in the store


def remember(store: Store, *, cluster_api: str, connect: str) -> None:
    """Keep where the console answers now, for verbs that run while it does not."""
    store.set_fact(_CLUSTER_API, cluster_api)
    store.set_fact(_CONNECT, connect)


def environment(store: Store) -> dict[str, str]:
    """The variables of a replica beside its token: where this console was last served, or would be by default."""
    connect = store.fact(_CONNECT, f"http://{DEFAULT_GRPC_ADDRESS}")
    return {
        "CLUSTER_API_ENDPOINT": store.fact(_CLUSTER_API, f"http://{DEFAULT_ADDRESS}{PREFIX}"),
        "CONNECT_SERVER_ENDPOINT": connect,
        "POMERIUM_OTEL_ENDPOINT": connect,
    }

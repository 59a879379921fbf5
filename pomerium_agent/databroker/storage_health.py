"""The one health check of the storage: what the store in use says of itself, and why it is not the one asked for.

While one store takes over from another, both are open and both speak. Only the one in use is heard, and what it says
does not cover up that a change cannot be made.
"""

from collections.abc import Mapping

from pomerium_agent.runtime.health import Check, Health


class StoreHealth(Health):
    """What one store says of itself: told above for as long as it is the one in use."""

    def __init__(self, storage: "StorageHealth", kind: str, error: str) -> None:
        super().__init__()
        self._storage = storage
        self.kind = kind
        self.error = error

    def running(self, check: str, /, **attributes: str) -> None:
        self._say("")

    def failed(self, check: str, error: str, attributes: Mapping[str, str] | None = None) -> None:
        self._say(error)

    def _say(self, error: str) -> None:
        self.error = error
        self._storage.tell(self)


class StorageHealth:
    """Composes the report of `Check.STORAGE` in `above`."""

    def __init__(self, above: Health) -> None:
        self._above = above
        self._used: StoreHealth | None = None
        self._trouble = ""

    def of_store(self, kind: str, error: str = "") -> StoreHealth:
        """For one store; `error` is what is wrong with it until it says something itself."""
        return StoreHealth(self, kind, error)

    def use(self, store: StoreHealth) -> None:
        """Hear this one from now on; whatever kept it from taking over is past."""
        self._used, self._trouble = store, ""
        self.tell(store)

    def set_trouble(self, trouble: str) -> None:
        """Why the store in use is not the one that is asked for; empty when it is."""
        self._trouble = trouble
        if self._used is not None:
            self.tell(self._used)

    def tell(self, store: StoreHealth) -> None:
        """Report, if it is about the store in use."""
        if store is not self._used:
            return
        error = "; ".join(filter(None, (self._trouble, store.error)))
        if error:
            self._above.failed(Check.STORAGE, error, {"backend": store.kind})
        else:
            self._above.running(Check.STORAGE, backend=store.kind)

    def terminating(self) -> None:
        """The last word."""
        self._used = None
        self._above.terminating(Check.STORAGE)

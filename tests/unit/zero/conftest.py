"""What holds for every test of the link."""

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is reached directly, whatever the machine that runs the tests is told."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """As everywhere, except that a gRPC channel may take the library's own lock when it is forgotten."""
    with blockbuster_ctx(scanned_modules=["pomerium_agent"]) as blocking:
        blocking.functions["os.stat"].deactivate()  # metadata of local files: microseconds
        blocking.functions["threading.Lock.acquire"].deactivate()
        yield

"""Every test that takes `open_store` runs once for each implementation of the Backend promise."""

import pytest

from tests.contract.stores import IMPLEMENTATIONS, OpenStore


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    """A factory of fresh, empty stores; the test opens them in its own body."""
    return IMPLEMENTATIONS[request.param]

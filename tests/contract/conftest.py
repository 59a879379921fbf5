"""Every test that takes `open_store` runs once for each implementation of the Backend promise."""

from functools import partial

import pytest

from tests.contract.stores import IMPLEMENTATIONS, ON_A_SERVER, OpenStore

SLOW = pytest.mark.timeout(240)  # long histories on a real server, on a machine that does other things as well


@pytest.fixture(params=[*IMPLEMENTATIONS, *(pytest.param(name, marks=SLOW) for name in ON_A_SERVER)])
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    """A factory of fresh, empty stores; the test opens them in its own body."""
    if request.param in ON_A_SERVER:
        return partial(ON_A_SERVER[request.param], request.getfixturevalue("postgres"))
    return IMPLEMENTATIONS[request.param]

"""Fixtures that every test may use: values and factories, no services (those are opened in the test's body)."""

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from pomerium_agent.demo import playground
from tests.fakes.postgres import Postgres, open_postgres_server

# No example is timed: the machine may be busy. CI draws the same examples every time, so that it judges the change
# and not its luck; everywhere else each run looks at new ones.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A factory of TCP ports that nobody on loopback listens on right now."""

    return playground.free_port


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server on loopback; tests that need one are skipped where there is none."""
    with open_postgres_server() as server:
        yield server

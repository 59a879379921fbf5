"""Which event loop the agent runs on."""

import asyncio
import sys
from types import ModuleType

import pytest

from pomerium_agent.runtime.loop import run_on_best_loop


class _Faster(asyncio.SelectorEventLoop):
    pass


async def _loop() -> type[asyncio.AbstractEventLoop]:
    return type(asyncio.get_running_loop())


def test_uvloop_is_used_when_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    uvloop = ModuleType("uvloop")
    uvloop.new_event_loop = _Faster  # type: ignore[attr-defined]  # a module of the test's own
    monkeypatch.setitem(sys.modules, "uvloop", uvloop)

    assert run_on_best_loop(_loop()) is _Faster


def test_without_uvloop_the_standard_loop_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert issubclass(run_on_best_loop(_loop()), asyncio.SelectorEventLoop)

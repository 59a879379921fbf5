"""Spans of bringing the configuration in: one for each try, and below it its steps (routes 7.7).

What is told of them is ids and numbers. The URLs of bundles are permissions, so that of an error only its kind is told.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import time_ns

from pomerium_agent.runtime.spans import Parent, Spans


@dataclass(frozen=True, slots=True)
class Step:
    """A span that is not over yet, and what is known of it so far; without `spans` nobody collects it."""

    at: Parent
    spans: Spans | None = None
    facts: dict[str, str | int | bool] = field(default_factory=dict)

    def tell(self, facts: Mapping[str, str | int | bool]) -> None:
        """Something to know of this step."""
        if self.spans is not None:
            self.facts.update(facts)

    @contextmanager
    def part(self, name: str) -> Iterator["Step"]:
        """A step of this one, over when the block is left."""
        if self.spans is None:
            yield self
            return
        with _open(self.spans, name, self.at) as step:
            yield step


UNTRACED = Step(Parent(b"", b""))


@contextmanager
def trace(spans: Spans | None, name: str) -> Iterator[Step]:
    """The first step of a trace that begins here, if that is one of those that are collected."""
    root = spans.root() if spans is not None else None
    if spans is None or root is None:
        yield UNTRACED
        return
    with _open(spans, name, root) as step:
        yield step


@contextmanager
def _open(spans: Spans, name: str, parent: Parent) -> Iterator[Step]:
    """What is broken off, as we stop or lose the lease, leaves no span."""
    step, began = Step(parent.child(), spans), time_ns()
    try:
        yield step
    except Exception as error:  # only looked at: whoever waits for the step gets it as it is
        spans.add(name, parent, began, step.facts, error=type(error).__name__.lstrip("_"), own=step.at)
        raise
    spans.add(name, parent, began, step.facts, own=step.at)

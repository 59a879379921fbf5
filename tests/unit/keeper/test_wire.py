"""What agent and keeper say to each other, as bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.keeper.wire import (
    LONGEST_LINE,
    Garbage,
    Held,
    Left,
    Lines,
    Prepared,
    Ready,
    Serving,
    StartEnvoy,
    parse,
)


def test_a_line_may_come_in_pieces_and_several_at_once() -> None:
    lines = Lines()
    envoy = json.dumps({"op": "envoy", "argv": ["envoy", "-c", "x"], "bootstrap": "/x", "request": 7}).encode()

    first = list(lines.feed(envoy[:10]))
    second = list(lines.feed(envoy[10:] + b'\n{"op":"ready"}\n{"op"'))

    assert first == []
    assert second == [StartEnvoy(("envoy", "-c", "x"), "/x", 7), Ready()]


def test_what_agents_say_while_one_replaces_another_is_understood_and_a_half_line_can_be_left() -> None:
    lines = Lines()
    said = [*lines.feed(b'{"op":"prepared"}\n{"op":"held"}\n{"op":"ser')]

    said += Lines(lines.pending).feed(b'ving"}\n{"op":"left"}\n')

    assert said == [Prepared(), Held(), Serving(), Left()]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "nonsense",
        "[" * 50_000,
        '{"op": "dance"}',
        '{"op": "envoy"}',
        '{"op": "envoy", "argv": [], "bootstrap": "/x"}',
        '{"op": "envoy", "argv": [1], "bootstrap": "/x"}',
        '{"op": "envoy", "argv": ["a\\u0000b"], "bootstrap": "/x"}',
        '{"op": "envoy", "argv": ["\\ud800"], "bootstrap": "/x"}',
        '{"op": "envoy", "argv": ["a"], "bootstrap": 1}',
    ],
)
def test_what_makes_no_sense_is_named_and_not_obeyed(line: str) -> None:
    assert isinstance(parse(line.encode()), Garbage)


@pytest.mark.parametrize("pieces", [1, 1000, LONGEST_LINE * 3])
def test_a_line_without_end_is_dropped_and_the_next_one_read(pieces: int) -> None:
    lines = Lines()
    data = b"x" * (2 * LONGEST_LINE) + b'\n{"op":"ready"}\n'
    size = max(1, len(data) // pieces)

    said = [message for at in range(0, len(data), size) for message in lines.feed(data[at : at + size])]

    assert [type(message) for message in said] == [Garbage, Ready]


@given(st.lists(st.binary(max_size=50)))
def test_no_bytes_crash_it(pieces: list[bytes]) -> None:
    lines = Lines()

    for piece in pieces:
        list(lines.feed(piece))

    assert list(lines.feed(b'\n{"op":"ready"}\n'))[-1] == Ready()

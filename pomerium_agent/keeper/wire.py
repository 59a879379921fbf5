"""What agent and keeper say to each other: JSON objects, one a line, over the socketpair between them."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class StartEnvoy:
    """`{"op": "envoy", "argv": [...], "bootstrap": "<path>", "hot": true}`: this Envoy should run.

    `request` is given back. `hot`: it may take over from another, and the keeper adds what that needs to `argv`.
    """

    argv: tuple[str, ...]
    bootstrap: str
    request: int | None
    hot: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """`{"op": "ready"}`: Envoy has acknowledged its first configuration."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """`{"op": "prepared"}`: an agent that came to replace another can take over."""


@dataclass(frozen=True, slots=True)
class Held:
    """`{"op": "held"}`: the agent that is to be replaced writes nothing any more."""


@dataclass(frozen=True, slots=True)
class Serving:
    """`{"op": "serving"}`: the agent that came has taken over."""


@dataclass(frozen=True, slots=True)
class Left:
    """`{"op": "left"}`: nothing keeps the agent that was replaced."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """A line that makes no sense."""

    reason: str


Message = StartEnvoy | Ready | Prepared | Held | Serving | Left | Garbage

PLAIN: Mapping[str, Message] = {
    "ready": Ready(),
    "prepared": Prepared(),
    "held": Held(),
    "serving": Serving(),
    "left": Left(),
}


class Lines:
    """Cuts a stream of bytes into messages. A line that is too long is dropped, and what follows it is read."""

    def __init__(self, heard: bytes = b"") -> None:
        self._buffer = bytearray(heard)
        self._dropping = False

    @property
    def pending(self) -> bytes:
        """The beginning of a line whose end has not come."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take bytes; yield what they complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if self._dropping:
                self._dropping = False
            elif len(line) > LONGEST_LINE:
                yield _too_long()
            else:
                yield parse(line)
        if len(self._buffer) > LONGEST_LINE:
            self._buffer.clear()
            if not self._dropping:
                self._dropping = True
                yield _too_long()


def parse(line: bytes) -> Message:
    """One line, without its end."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return Garbage("not JSON")
    if not isinstance(said, dict):
        return Garbage("not an object")
    match said:
        case {"op": str(op)} if op in PLAIN:
            return PLAIN[op]
        case {"op": "envoy", "argv": [_, *_] as argv, "bootstrap": str(bootstrap)} if _are_arguments(
            [*argv, bootstrap]
        ):
            request = said.get("request")
            return StartEnvoy(
                tuple(argv), bootstrap, request if isinstance(request, int) else None, said.get("hot") is True
            )
        case {"op": "envoy"}:
            return Garbage("the op envoy needs argv, a list of strings, and bootstrap, a path")
    return Garbage("an unknown op")


def envoy_event(pid: int, request: int | None) -> bytes:
    """Envoy was started, or runs already, as `pid`; 0: it has ended."""
    return _line({"event": "envoy", "pid": pid, **({} if request is None else {"request": request})})


def refusal_event(reason: str, request: int | None) -> bytes:
    """Envoy cannot be started as asked."""
    return _line({"event": "envoy-refused", "reason": reason, **({} if request is None else {"request": request})})


def draining_event() -> bytes:
    """We are about to stop: tell whoever asks that nobody should be sent here."""
    return _line({"event": "draining"})


def event(name: str) -> bytes:
    """What says nothing but its name: hold, resume and succeeded, to the agent that is to be replaced."""
    return _line({"event": name})


def charge_event(*, ready: bool, alone: bool) -> bytes:
    """You are in charge. `ready`: visitors were served before; `alone`: the agent before you is not there any more."""
    return _line({"event": "charge", "ready": ready, "alone": alone})


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _are_arguments(texts: list[object]) -> bool:
    """Whether these can be handed to a process: text that has bytes, none of them the NUL that ends an argument."""
    try:
        return all(isinstance(text, str) and b"\0" not in os.fsencode(text) for text in texts)
    except UnicodeEncodeError:
        return False


def _too_long() -> Garbage:
    return Garbage(f"longer than {LONGEST_LINE} bytes")

"""Where a person's command reaches the keeper: one JSON line in, and a line back for whatever becomes of it."""

import json
import selectors
import socket
from collections.abc import Iterator

MOST_CALLERS = 8
LONGEST_QUESTION = 4096


class Desk:
    """Callers on the keeper's own socket, which only its user can open; the selector's data for all is this object."""

    def __init__(self, listening: socket.socket, selector: selectors.BaseSelector) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._selector = selector
        self._callers: dict[int, tuple[socket.socket, bytearray]] = {}
        selector.register(listening, selectors.EVENT_READ, self)

    def read(self) -> Iterator[tuple[int, dict[str, object]]]:
        """What callers want, each question with the number to answer to."""
        self._let_in()
        for number, (caller, heard) in list(self._callers.items()):
            try:
                data = caller.recv(LONGEST_QUESTION)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            heard += data
            line, end, _ = bytes(heard).partition(b"\n")
            if end:
                heard.clear()
                yield number, _parse(line)
            elif not data or len(heard) > LONGEST_QUESTION:
                self.dismiss(number)

    def tell(self, number: int, **said: object) -> None:
        """One line to a caller, if it is still there."""
        if number not in self._callers:
            return
        try:
            self._callers[number][0].send(json.dumps(said).encode() + b"\n")
        except OSError:
            self.dismiss(number)

    def dismiss(self, number: int) -> None:
        """Nothing more is said to this one."""
        caller = self._callers.pop(number, None)
        if caller is not None:
            self._selector.unregister(caller[0])
            caller[0].close()

    def adopt(self, caller: socket.socket) -> int:
        """Somebody who asked already, perhaps a keeper before us."""
        caller.setblocking(False)
        caller.set_inheritable(False)
        self._callers[caller.fileno()] = (caller, bytearray())
        self._selector.register(caller, selectors.EVENT_READ, self)
        return caller.fileno()

    def close(self) -> None:
        """Leave all."""
        for number in list(self._callers):
            self.dismiss(number)

    def _let_in(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:  # nobody, or nobody any more
                return
            if len(self._callers) >= MOST_CALLERS:
                caller.close()
            else:
                self.adopt(caller)


def _parse(line: bytes) -> dict[str, object]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}

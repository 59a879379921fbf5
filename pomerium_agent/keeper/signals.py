"""Signals as bytes on a pipe, so that one loop can wait for them and for everything else."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@contextmanager
def signal_pipe() -> Iterator[int]:
    """A file descriptor from which each watched signal can be read as one byte. Main thread only."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, lambda *_: None) for number in WATCHED}
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)  # held back by a keeper that we replace
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


def read_signals(pipe: int) -> bytes:
    """The numbers of the signals that have come since the last time, oldest first."""
    try:
        return os.read(pipe, 4096)
    except BlockingIOError:
        return b""


@contextmanager
def held_back() -> Iterator[None]:
    """Hold signals back while a child is made.

    Until it becomes its own program a child shares our pipe, and a signal sent to it would look like one sent to us.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def reset_in_child(*ignored: signal.Signals) -> None:
    """In a child that is about to become its own program: no pipe, no handlers, nothing held back."""
    signal.set_wakeup_fd(-1)
    for number in WATCHED:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)

"""How a run may end before its last epoch, in an orderly way. Standard library only, so that signals are held from the start."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class RunEnded(Exception):  # noqa: N818 - the orderly end of a run, not an error
    """A run that ends before its last epoch; `status` is diverged, oom, terminated (SIGTERM) or interrupted (Ctrl-C)."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


STATUS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}


class Signals:
    """Holds SIGTERM and Ctrl-C as a context manager, so that `check` can end the run where it is safe to.

    The epoch under way is given up, not finished: the checkpoint of the last whole one exists, and a machine that is taken
    back leaves less time than an epoch may last. A second signal kills as it would have without us.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._note) for number in STATUS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, *_, **__) -> None:
        """Raise RunEnded if a signal has come; takes and ignores what Keras hands a callback."""
        if self.received:
            raise RunEnded(STATUS[self.received], f"{self.received.name} received")

    def _note(self, number: int, frame) -> None:
        if self.received == number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = signal.Signals(number)


class BadInput(ValueError):  # noqa: N818 - what the user gave, told in one line without a traceback
    """A value, file or folder that a run cannot start with; the message names it and the way out."""


@contextmanager
def input_checked() -> Iterator[None]:
    """Turns the ValueError, TypeError or OSError of a step that judges the user's input into BadInput."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise BadInput(str(error)) from error


@contextmanager
def memory_watched() -> Iterator[None]:
    """Turns the out-of-memory error of whatever backend into RunEnded("oom"); other errors pass."""
    try:
        yield
    except Exception as error:
        marks = ("ResourceExhausted", "OutOfMemory", "MemoryError", "RESOURCE_EXHAUSTED", "CUDA_ERROR_OUT_OF_MEMORY")
        if not any(mark in f"{type(error).__name__} {error}" for mark in marks):
            raise
        raise RunEnded("oom", f"out of memory; take a smaller batch_size ({type(error).__name__})") from error

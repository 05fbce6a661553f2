"""How a run may end before its last epoch, in an orderly way. Standard library only, so that signals are held from the start."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RunEnded(Exception):  # noqa: N818 - the orderly end of a run, not an error
    """A run that ends before its last epoch; `status` is diverged, oom, terminated (SIGTERM) or interrupted (Ctrl-C)."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


FINISH_SECONDS = (
    20.0  # for sending the last data after a signal; `wandb agent` kills 30 s after its SIGTERM
)

STATUS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}


class Signals:
    """Holds SIGTERM and Ctrl-C as a context manager, so that `check` can end the run where it is safe to.

    The epoch under way is given up, not finished: the checkpoint of the last whole one exists, and a machine that is taken
    back leaves less time than an epoch may last. A second signal kills as it would have without us.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._sending: Path | None = None

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._note) for number in STATUS}
        return self

    def __exit__(self, *_) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, *_, **__) -> None:
        """Raise RunEnded if a signal has come; takes and ignores what Keras hands a callback."""
        if self.received:
            raise RunEnded(STATUS[self.received], f"{self.received.name} received")

    def limit_finish(self, unsent: Path) -> None:
        """From now on the process ends FINISH_SECONDS after a signal, even if W&B still waits for its server.

        `unsent` is the folder that `wandb sync` sends later; it is named in the message.
        """
        self._sending = unsent
        signal.signal(signal.SIGALRM, self._give_up)
        if self.received:
            signal.setitimer(signal.ITIMER_REAL, FINISH_SECONDS)

    def _give_up(self, *_) -> None:
        print(
            f"W&B did not take all data within {FINISH_SECONDS:g} s; send it later: wandb sync {self._sending}",
            flush=True,
        )
        os._exit(128 + (self.received or signal.SIGTERM))

    def _note(self, number: int, frame) -> None:
        if self._sending and not self.received:
            signal.setitimer(signal.ITIMER_REAL, FINISH_SECONDS)
        elif self.received == number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = signal.Signals(number)


@contextmanager
def memory_watched() -> Iterator[None]:
    """Turns the out-of-memory error of whatever backend into RunEnded("oom"); other errors pass."""
    try:
        yield
    except Exception as error:
        marks = (
            "ResourceExhausted",
            "OutOfMemory",
            "MemoryError",
            "RESOURCE_EXHAUSTED",
            "CUDA_ERROR_OUT_OF_MEMORY",
        )
        if not any(mark in f"{type(error).__name__} {error}" for mark in marks):
            raise
        raise RunEnded(
            "oom", f"out of memory; take a smaller batch_size ({type(error).__name__})"
        ) from error

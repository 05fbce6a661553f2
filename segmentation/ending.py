"""How a run can end before its last epoch: by a signal, or because memory is exhausted.

Standard library only: signals must be handled before the slow imports.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

STATUS_OF_SIGNAL = {signal.SIGTERM: "preempted", signal.SIGINT: "interrupted"}

FINISH_SECONDS = 20.0
"""Time to send the last data after a signal. `wandb agent` sends SIGKILL 30 s after its SIGTERM."""

OUT_OF_MEMORY = (
    "ResourceExhausted",
    "OutOfMemory",
    "MemoryError",
    "RESOURCE_EXHAUSTED",
    "CUDA_ERROR_OUT_OF_MEMORY",
)
"""Words in the type or message of an out-of-memory error, on any Keras backend."""


class RunEnded(Exception):  # noqa: N818 - not an error
    """Ends a run before its last epoch. Not an error: the checkpoint stays usable.

    `status` is one of config.STATUSES: diverged, oom, interrupted (Ctrl-C) or preempted (SIGTERM).
    The message is the reason, for the terminal.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class Signals:
    """Delays SIGTERM and Ctrl-C until the next call of `check`. Use it as a context manager.

    The unfinished epoch is discarded: the checkpoint holds the last finished one, and a preempted
    machine leaves less time than an epoch may take. A second signal of the same kind terminates
    the process immediately.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._unsent: Path | None = None

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._receive) for number in STATUS_OF_SIGNAL}
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, *_: Any, **__: Any) -> None:
        """Raises RunEnded if a signal was received. Ignores the arguments of a Keras callback."""
        if self.received:
            raise RunEnded(STATUS_OF_SIGNAL[self.received], f"{self.received.name} received")

    def limit_finish(self, unsent: Path) -> None:
        """From now on, the process exits FINISH_SECONDS after a signal.

        It exits even if W&B's client still waits for its server. The message names `unsent`, the
        folder that `wandb sync` uploads later.
        """
        self._unsent = unsent
        signal.signal(signal.SIGALRM, self._exit)
        if self.received:
            signal.setitimer(signal.ITIMER_REAL, FINISH_SECONDS)

    def _exit(self, *_: object) -> None:
        print(
            f"W&B did not take all data within {FINISH_SECONDS:g} s; "
            f"send it later: wandb sync {self._unsent}",
            flush=True,
        )
        os._exit(128 + (self.received or signal.SIGTERM))

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._unsent and not self.received:
            signal.setitimer(signal.ITIMER_REAL, FINISH_SECONDS)
        elif self.received == number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = signal.Signals(number)


@contextmanager
def out_of_memory_caught() -> Iterator[None]:
    """Turns an out-of-memory error of any backend into RunEnded("oom"). Other errors pass."""
    try:
        yield
    except Exception as error:
        if not any(word in f"{type(error).__name__} {error}" for word in OUT_OF_MEMORY):
            raise
        raise RunEnded(
            "oom", f"out of memory; use a smaller batch_size ({type(error).__name__})"
        ) from error

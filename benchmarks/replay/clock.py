"""A simulated clock: agents train at their own pace, and a search sees values only when they exist.

An engine is anything with the three methods of `Engine`. It gets the value of an epoch when the
clock has reached the end of that epoch, and nothing else.
"""

import heapq
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.replay.tasks import WORST, Task


class Engine(Protocol):
    """A search, as the clock drives it.

    An engine that holds a process has `close()` too; whoever made the engine calls it.
    """

    def ask(self) -> tuple[str, dict[str, Any], int]:
        """The next run: its key, its hyperparameters and its budget in epochs."""
        ...

    def report(self, key: str, epoch: int, value: float) -> bool:
        """Take the objective of one more epoch of a run; True stops the run here."""
        ...

    def ended(self, key: str, status: str) -> None:
        """Take the status with which a run ended: finished, stopped or diverged."""
        ...


@dataclass
class Trace:
    """What a search reached when; the first three lists have one entry per epoch spent.

    Attributes:
        epochs: Epochs spent by all agents together: 1, 2, 3, ...
        seconds: Time on the clock.
        best: Lowest true loss of all runs so far.
        asked: Real seconds that each proposal took.
        runs: Key, hyperparameters, epochs done and start on the clock of each run.
    """

    epochs: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)

    def until(self, loss: float) -> int | None:
        """Epochs spent when the true loss of a run was first at most `loss`; None if never."""
        reached = np.flatnonzero(np.array(self.best) <= loss)
        return self.epochs[reached[0]] if len(reached) else None


@dataclass
class _Run:
    key: str
    params: dict[str, Any]
    values: NDArray[np.float64]
    diverges: bool
    truth: NDArray[np.float64]
    done: int = 0


def replay(engine: Engine, task: Task, agents: int = 4, budget: int = 1944) -> Trace:
    """Run a search until its agents have spent the budget.

    Args:
        engine: The search.
        task: Where values, truths and durations come from.
        agents: Runs at the same time.
        budget: Epochs of all agents together.
    """
    trace, best = Trace(), WORST
    queue: list[tuple[float, int, int, _Run]] = []

    def start(agent: int, now: float) -> None:
        began = time.perf_counter()
        key, params, epochs = engine.ask()
        trace.asked.append(time.perf_counter() - began)
        values, diverges = task.run(params, repeat=len(trace.runs))
        whole = len(values) <= epochs  # else its budget ends before it would diverge
        run = _Run(key, params, values[:epochs], diverges and whole, task.truth(params))
        trace.runs.append({"key": key, "params": params, "epochs": 0, "start": now})
        heapq.heappush(queue, (now + task.seconds(params), agent, len(trace.runs) - 1, run))

    for agent in range(agents):
        start(agent, 0.0)
    while len(trace.epochs) < budget:
        now, agent, number, run = heapq.heappop(queue)
        run.done += 1
        trace.runs[number]["epochs"] = run.done
        last = run.done == len(run.values)
        diverged = run.diverges and last
        if not diverged:
            best = min(best, float(run.truth[run.done - 1]))
        trace.epochs.append(len(trace.epochs) + 1)
        trace.seconds.append(now)
        trace.best.append(best)
        stop = engine.report(run.key, run.done, float(run.values[run.done - 1]))
        if last or stop:
            engine.ended(run.key, "diverged" if diverged else "finished" if last else "stopped")
            start(agent, now)
        else:
            heapq.heappush(queue, (now + task.seconds(run.params), agent, number, run))
    return trace

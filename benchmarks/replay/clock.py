"""A simulated clock with k agents that work at their own pace, and what a search reached when.

An engine is anything with these three methods. It hears of an epoch when the clock has reached its end, and of nothing else:

    ask() -> (key, params, epochs)        the next run: a name for it, its hyperparameters, and its budget
    report(key, epoch, value) -> bool     one more epoch of a run; True stops the run here
    ended(key, status)                    a run's end: finished, stopped or diverged

One that holds a process has close() too, for whoever made it to call.
"""

import heapq
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from benchmarks.replay.tasks import WORST, Task


class Engine(Protocol):
    """A search, as the clock drives it."""

    def ask(self) -> tuple[str, dict[str, Any], int]: ...

    def report(self, key: str, epoch: int, value: float) -> bool: ...

    def ended(self, key: str, status: str) -> None: ...


@dataclass
class Trace:
    """After each epoch: epochs spent by all agents, seconds, lowest true loss so far. And what each proposal took."""

    epochs: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)  # seconds of real time a proposal
    runs: list[dict[str, Any]] = field(default_factory=list)

    def until(self, loss: float) -> int | None:
        """Epochs spent when a run first truly was that low; None if none was."""
        reached = np.flatnonzero(np.array(self.best) <= loss)
        return self.epochs[reached[0]] if len(reached) else None

    def at(self, epochs: int) -> float:
        """Lowest true loss after so many epochs."""
        return self.best[min(epochs, len(self.best)) - 1]


@dataclass
class _Run:
    key: str
    params: dict[str, Any]
    values: np.ndarray
    diverges: bool
    truth: np.ndarray
    done: int = 0


def replay(engine: Engine, task: Task, agents: int = 4, budget: int = 1944) -> Trace:
    """Runs the search until the agents have spent `budget` epochs together."""
    trace, best, queue = Trace(), WORST, []

    def start(agent: int, now: float) -> None:
        begun = time.perf_counter()
        key, params, epochs = engine.ask()
        trace.asked.append(time.perf_counter() - begun)
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
        last, diverged = run.done == len(run.values), run.diverges and run.done == len(run.values)
        best = best if diverged else min(best, float(run.truth[run.done - 1]))
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

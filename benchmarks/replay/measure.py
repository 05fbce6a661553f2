"""One replay measured: the work of one process of the comparison."""

import importlib.metadata
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.replay.clock import Trace, replay
from benchmarks.replay.engines import ENGINES
from benchmarks.replay.lines import AFTER, CHECKPOINTS, KEY, WITHIN, Line
from benchmarks.replay.tasks import TASKS

# First word of an engine's name -> the package whose version decides its results.
PACKAGES = {"ours": "optuna", "optuna": "optuna", "wandb": "sweeps"}
POINTS = 60  # of a stored curve, evenly spaced on a logarithmic scale of epochs


def measure(task: str, seed: int, engine: str, agents: int, budget: int) -> Line:
    """Make one replay and return its line: when it reached what, and its thinned curve.

    A distance that was not reached, and a checkpoint beyond the budget, is None.
    """
    truth = TASKS[task](seed)
    with threadpool_limits(1):
        search = ENGINES[engine](seed)
        try:
            trace = replay(search, truth, agents, budget)
        finally:
            getattr(search, "close", lambda: None)()
    line: Line = dict(zip(KEY, (task, seed, engine, agents, budget), strict=True))
    line |= {
        "version": version(engine),
        "optimum": truth.optimum,
        "oracle": truth.oracle(WITHIN[0]),
    }
    line |= {"runs": len(trace.runs), "seconds": trace.seconds[-1]}
    for within in WITHIN:
        reached = trace.until(truth.optimum * (1 + within))
        line |= {
            f"epochs {within:g}": reached,
            f"seconds {within:g}": reached and trace.seconds[reached - 1],
        }
    regret = np.array(trace.best) / truth.optimum - 1
    line |= {
        f"regret {epochs}": float(regret[epochs - 1]) if epochs <= budget else None
        for epochs in CHECKPOINTS
    }
    line |= {f"milliseconds {runs}": milliseconds(trace, runs) for runs in AFTER}
    epochs = np.unique(np.geomspace(1, budget, POINTS).round().astype(int))
    return line | {
        "curve": {
            "epochs": epochs.tolist(),
            "regret": [float(f"{regret[at - 1]:.5g}") for at in epochs],
        }
    }


def milliseconds(trace: Trace, runs: int) -> float | None:
    """Mean time per proposal, over the 10 % of proposals around number `runs`; None without it."""
    if len(trace.asked) <= runs:
        return None
    around = trace.asked[runs - runs // 10 : runs + runs // 10 + 1]
    return 1000 * float(np.mean(around))


def version(engine: str) -> str | None:
    """Package and version behind an engine; None for an engine of another environment."""
    package = PACKAGES.get(engine.split()[0])
    return package and f"{package} {importlib.metadata.version(package)}"


def one_thread() -> None:
    """Keep this process to one thread: matrices this small are slower on several.

    The variables are for libraries not yet loaded and for child processes.
    """
    os.environ.update(
        dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    )
    threadpool_limits(1)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _initialize() -> None:
    one_thread()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


@contextmanager
def workers(jobs: int) -> Iterator[Executor]:
    """A pool of processes of one thread each; they exit when the command is killed.

    Replays that have not started when the block ends are cancelled.
    """
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _initialize)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)

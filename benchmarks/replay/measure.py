"""One replay measured: what a process of the comparison does."""

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

PACKAGES = {
    "ours": "optuna",
    "optuna": "optuna",
    "wandb": "sweeps",
}  # an engine's first word -> what it runs on
POINTS = 60  # of a stored curve


def measure(task: str, seed: int, engine: str, agents: int, budget: int) -> Line:
    """One replay, as a line: what it reached when, None for what it did not, and its thinned curve."""
    truth = TASKS[task](seed)
    with threadpool_limits(1):
        search = ENGINES[engine](seed)
        try:
            trace = replay(search, truth, agents, budget)
        finally:
            getattr(search, "close", lambda: None)()
    line = dict(zip(KEY, (task, seed, engine, agents, budget), strict=True))
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
    """The mean of the proposals a tenth around the one that follows so many runs; None where there is no such one."""
    around = trace.asked[runs - runs // 10 : runs + runs // 10 + 1]
    return 1000 * float(np.mean(around)) if len(trace.asked) > runs else None


def version(engine: str) -> str | None:
    """The package that an engine of this environment runs on; None for one of another environment."""
    package = PACKAGES.get(engine.split()[0])
    return package and f"{package} {importlib.metadata.version(package)}"


def one_thread() -> None:
    """Matrices this small are slower on many threads; the variables hold for libraries and processes that are still to come."""
    os.environ.update(
        dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    )
    threadpool_limits(1)


def _end_with_the_command() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _begin() -> None:
    one_thread()
    threading.Thread(target=_end_with_the_command, daemon=True).start()


@contextmanager
def workers(jobs: int) -> Iterator[Executor]:
    """Processes of one thread each, which end when the command is killed; what waits for one at the end is given up."""
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)

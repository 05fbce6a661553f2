"""Runs of an earlier sweep as data for a search. No other file of this package imports wandb."""

from collections.abc import Iterable

import wandb

from search.history import RunHistory, WandbRun, worst_objective
from search.space import Space

FIRST_NUMBER = 10**9  # of an earlier sweep's runs, beyond all numbers of this sweep's


def histories(runs: Iterable[WandbRun], space: Space) -> list[RunHistory]:
    """The histories of W&B runs; runs with a configuration outside the space are left out."""
    worst = worst_objective(space.fixed)
    found: list[RunHistory] = []
    for run in runs:
        params = {name: run.config.get(name) for name in space.distributions}
        if space.contains(params):
            number = FIRST_NUMBER + len(found)
            found.append(RunHistory.from_wandb(run, number, params, worst))
    return found


def earlier_histories(path: str, space: Space) -> list[RunHistory]:
    """The histories of the runs of an earlier sweep.

    Args:
        path: ENTITY/PROJECT/SWEEP_ID.
        space: Of the sweep that is to learn from them.
    """
    sweep = wandb.Api().sweep(path)  # type: ignore[no-untyped-call]  # wandb annotates it in part
    return histories(sweep.runs, space)

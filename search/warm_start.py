"""Runs of an earlier sweep as data for a search. No other file of this package imports wandb."""

from collections.abc import Iterable

import wandb

from search.history import RunHistory, WandbRun, objective_of, worst_objective
from search.space import Space

FIRST_NUMBER = 10**9  # of an earlier sweep's runs, beyond all numbers of this sweep's


def histories(runs: Iterable[WandbRun], space: Space, objective: str) -> list[RunHistory]:
    """The histories of W&B runs; runs with a configuration outside the space are left out."""
    worst = worst_objective(objective, space.fixed)
    found: list[RunHistory] = []
    for run in runs:
        params = {name: run.config.get(name) for name in space.distributions}
        if space.contains(params):
            number = FIRST_NUMBER + len(found)
            found.append(RunHistory.from_wandb(run, number, params, objective, worst))
    return found


def earlier_histories(path: str, space: Space, objective: str) -> list[RunHistory]:
    """The histories of the runs of an earlier sweep.

    Args:
        path: ENTITY/PROJECT/SWEEP_ID.
        space: Of the sweep that is to learn from them.
        objective: Name of the metric of that sweep.

    Raises:
        ValueError: The earlier sweep has another metric. W&B's scheduler prints the message as
            one line.
    """
    sweep = wandb.Api().sweep(path)  # type: ignore[no-untyped-call]  # wandb annotates it in part
    metric = objective_of(sweep.config)
    if metric != objective:
        raise ValueError(
            f"warm_start: sweep {path} minimises {metric}, but this sweep minimises {objective}; "
            f"their values cannot be compared. Name a sweep that minimises {objective}, or remove "
            "warm_start"
        )
    return histories(sweep.runs, space, objective)

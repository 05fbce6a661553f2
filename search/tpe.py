"""Optuna's multivariate TPE as a function of run histories."""

import math
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.history import RunHistory
from search.space import Space


class Score(NamedTuple):
    """A run as TPE ranks it.

    Attributes:
        run: The run.
        value: Its objective at the budget that is compared; None if it has not reached it.
        epoch: Epoch of the value or, without one, the last epoch of the run.
    """

    run: RunHistory
    value: float | None
    epoch: int


def propose(
    space: Space, scores: Iterable[Score], random: np.random.Generator, **settings: Any
) -> dict[str, Any]:
    """The configuration that Optuna's multivariate TPE proposes.

    TPE ranks runs with a value first, then those that were stopped, by their last epoch; runs that
    are infeasible come last. Runs that ended before their first epoch are ignored.

    Args:
        space: Of the sweep.
        scores: Runs to learn from.
        random: Source of the sampler's seed.
        settings: Further arguments of `optuna.samplers.TPESampler`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)  # of `gamma`, which BOHB needs
        sampler = optuna.samplers.TPESampler(
            multivariate=True, seed=int(random.integers(2**31)), **settings
        )
    study = _quiet_study(sampler)
    for score in scores:
        if trial := _trial(space, score):
            study.add_trial(trial)
    return study.ask(space.distributions).params


def _trial(space: Space, score: Score) -> FrozenTrial | None:
    """A run as a trial of Optuna; None for a run that says nothing."""
    run, value, epoch = score

    def trial(state: TrialState, **results: Any) -> FrozenTrial:
        params, distributions = dict(run.params), space.distributions
        return create_trial(state=state, params=params, distributions=distributions, **results)

    if run.infeasible:
        return trial(TrialState.PRUNED, intermediate_values={0: math.inf})
    if value is not None:
        return trial(TrialState.COMPLETE, value=value)
    if run.running:
        return trial(TrialState.RUNNING)
    if epoch:
        return trial(TrialState.PRUNED, intermediate_values={epoch: run.value(epoch)})
    return None


def _quiet_study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """An empty study. Optuna logs each creation, and every proposal creates one, so it is muted."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(sampler=sampler)
    finally:
        optuna.logging.set_verbosity(verbosity)

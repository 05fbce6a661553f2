"""search/history.py: which trials are infeasible, and what their parameters are."""

import math

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial
from search_helpers import DISTRIBUTIONS

from search.history import RunHistory, objective_of, worst_objective
from segmentation.config import OBJECTIVE, WORST


@pytest.mark.parametrize(
    ("values", "infeasible"),
    [
        ({1: 0.9, 2: WORST["dice_focal"] + 1e-7}, True),
        ({1: 0.9, 2: 0.8}, False),
        ({1: math.nan}, True),
    ],
)
def test_a_trial_with_the_worst_value_or_nan_is_infeasible(values, infeasible):
    params = {"batch_size": 4, "learning_rate": 0.01, "activation": "linear", "epochs": 27}
    trial = create_trial(
        params=params,
        distributions=DISTRIBUTIONS | {"epochs": IntDistribution(1, 27)},
        value=0.5,
        intermediate_values=values,
    )
    run = RunHistory.from_trial(trial, 27, WORST["dice_focal"])
    assert run.infeasible == infeasible
    assert run.params == {name: value for name, value in params.items() if name != "epochs"}


def test_the_worst_objective_is_that_of_the_sweeps_loss():
    assert worst_objective(OBJECTIVE, {"loss": "cross_entropy"}) == WORST["cross_entropy"]
    assert worst_objective(OBJECTIVE, {}) == WORST["dice_focal"]


def test_the_worst_error_is_1_whatever_the_loss_and_other_metrics_have_no_worst_value():
    for constants in ({}, {"loss": "cross_entropy"}):
        assert worst_objective("best_val_error", constants) == 1
        assert worst_objective("seconds", constants) == math.inf


def test_a_running_run_may_have_the_worst_error_for_some_epochs():
    """It predicts no class right yet. A run that ended like this reached nothing."""

    def history(values, state):
        value = 0.5 if state == TrialState.COMPLETE else None
        trial = create_trial(intermediate_values=values, state=state, value=value)
        return RunHistory.from_trial(trial, 27, 1.0)

    start = history({1: 1.0}, TrialState.RUNNING)
    assert (start.infeasible, start.epoch) == (False, 0)
    assert history({1: 1.0}, TrialState.COMPLETE).infeasible
    recovered = history({1: 1.0, 2: 0.8}, TrialState.COMPLETE)
    assert not recovered.infeasible and recovered.value(2) == 0.8
    assert history({1: math.nan}, TrialState.RUNNING).infeasible


def test_the_objective_of_a_sweep_is_its_metric():
    assert objective_of({"metric": {"name": "best_val_error"}}) == "best_val_error"
    assert objective_of({}) == objective_of({"metric": None}) == OBJECTIVE

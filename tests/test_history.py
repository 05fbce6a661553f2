"""search/history.py: which trials are infeasible, and what their parameters are."""

import math

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import create_trial
from search_helpers import DISTRIBUTIONS

from search.history import RunHistory, worst_objective
from segmentation.config import WORST


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
    assert worst_objective({"loss": "cross_entropy"}) == WORST["cross_entropy"]
    assert worst_objective({}) == WORST["dice_focal"]

"""search/warm_start.py: runs of an earlier sweep as data for the model."""

import math

import numpy as np
from search_helpers import SPACE

from search.multifidelity import Multifidelity
from search.warm_start import histories
from segmentation.config import OBJECTIVE, WORST


class Run:
    """What is read of a W&B run; the best learning rate is 0.001."""

    def __init__(self, rate, activation="relu", last=None):
        self.config = {"batch_size": 4, "learning_rate": rate, "activation": activation}
        self.curve = {e: 0.3 + 0.3 * (math.log10(rate) + 3) ** 2 + 0.2 / e for e in (1, 2, 3)}
        self.curve |= {4: last} if last else {}

    def scan_history(self, keys):
        return ({"epoch": epoch, OBJECTIVE: value} for epoch, value in self.curve.items())


def test_the_model_learns_from_an_earlier_sweep_and_ignores_runs_outside_the_space():
    rates = np.geomspace(1e-4, 0.03, 8)
    runs = [*map(Run, rates), Run(0.01, "gelu"), Run(5.0), Run(0.09, last=WORST["dice_focal"])]
    earlier = histories(runs, SPACE)
    assert [run.params["learning_rate"] for run in earlier] == [*rates, 0.09]
    assert [run.infeasible for run in earlier] == [False] * 8 + [True]
    assert earlier[0].value(3) == runs[0].curve[3]
    policy = Multifidelity(SPACE, 0, earlier)
    assert 3e-4 < policy.propose(0, [])["learning_rate"] < 3e-3

"""search/warm_start.py: runs of an earlier sweep as data for the model."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import wandb
from search_helpers import SPACE

from search.multifidelity import Multifidelity
from search.warm_start import earlier_histories, histories
from segmentation.config import OBJECTIVE, WORST


class Run:
    """What is read of a W&B run; the best learning rate is 0.001."""

    def __init__(self, rate, activation="relu", last=None, objective=OBJECTIVE):
        self.objective = objective
        self.config = {"batch_size": 4, "learning_rate": rate, "activation": activation}
        self.curve = {e: 0.3 + 0.3 * (math.log10(rate) + 3) ** 2 + 0.2 / e for e in (1, 2, 3)}
        self.curve |= {4: last} if last else {}

    def scan_history(self, keys):
        rows = [{"epoch": epoch, self.objective: value} for epoch, value in self.curve.items()]
        return [row for row in rows if row.keys() == set(keys)]


def test_the_model_learns_from_an_earlier_sweep_and_ignores_runs_outside_the_space():
    rates = np.geomspace(1e-4, 0.03, 8)
    runs = [*map(Run, rates), Run(0.01, "gelu"), Run(5.0), Run(0.09, last=WORST["dice_focal"])]
    earlier = histories(runs, SPACE, OBJECTIVE)
    assert [run.params["learning_rate"] for run in earlier] == [*rates, 0.09]
    assert [run.infeasible for run in earlier] == [False] * 8 + [True]
    assert earlier[0].value(3) == runs[0].curve[3]
    policy = Multifidelity(SPACE, 0, earlier)
    assert 3e-4 < policy.propose(0, [])["learning_rate"] < 3e-3


def test_it_reads_the_rows_of_the_objective():
    """An error of 1 is the worst one; as a loss it would be an ordinary value."""
    runs = [Run(1e-3, objective="best_val_error"), Run(0.09, last=1.0, objective="best_val_error")]
    read = histories(runs, SPACE, "best_val_error")
    assert read[0].value(3) == runs[0].curve[3]
    assert [run.infeasible for run in read] == [False, True]


@pytest.mark.parametrize("metric", [{"metric": {"name": "best_val_loss"}}, {}])
def test_a_sweep_with_another_objective_is_refused(metric, monkeypatch):
    sweep = SimpleNamespace(config=metric, runs=[])
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(sweep=lambda path: sweep))
    assert earlier_histories("a/b/c", SPACE, "best_val_loss") == []
    with pytest.raises(ValueError, match=r"a/b/c minimises best_val_loss.* minimises best_val_err"):
        earlier_histories("a/b/c", SPACE, "best_val_error")

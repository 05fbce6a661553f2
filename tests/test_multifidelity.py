"""search/multifidelity.py: the initial design, early stopping, and data of an earlier sweep."""

import math
from dataclasses import replace

import numpy as np
import pytest
from search_helpers import DISTRIBUTIONS, SPACE, some_histories

from search.multifidelity import Multifidelity
from search.space import Prior, Space


def test_it_starts_at_the_center_then_at_the_priors_with_every_activation():
    space = Space(DISTRIBUTIONS, {"learning_rate": Prior(0.0004, 2)}, uniform_fraction=0.25)
    design = [Multifidelity(space, 3).propose(number, []) for number in range(8)]
    for part, rate in ((design[:4], math.sqrt(1e-4 * 0.1)), (design[4:], 0.0004)):
        assert {params["activation"] for params in part} == {"relu", "tanh", "swish", "linear"}
        assert [params["learning_rate"] for params in part] == pytest.approx([rate] * 4)


@pytest.mark.parametrize("seen", [1, 2])
def test_it_stops_none_of_the_better_half_and_some_of_the_worse_once_per_rung(seen):
    """Also where the scheduler sees a run only beyond the rung. The answer repeats; a run that
    was asked about at this rung is not stopped there any more."""
    histories = some_histories(40)
    policy = Multifidelity(SPACE, 0)
    reached = [run for run in histories if run.epoch >= seen]
    stopped = []
    for run in reached:
        curve = {epoch: run.curve[epoch] for epoch in range(1, seen + 1)}
        early = replace(run, curve=curve, running=True)
        others = [early if other is run else other for other in histories]
        if policy.should_stop(early, others):
            assert policy.should_stop(early, others)
            stopped.append(run.curve[1])
        assert not policy.should_stop(replace(early, asked_at=seen), others)
    assert stopped and min(stopped) >= np.median([run.curve[1] for run in histories if run.curve])

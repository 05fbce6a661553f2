"""Shared by the tests of `search`: one space, its searches and histories of runs."""

import math

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.history import RunHistory
from search.multifidelity import Multifidelity
from search.policies import Bohb, Hyperband, Tpe
from search.space import Space

DISTRIBUTIONS = {
    "batch_size": IntDistribution(1, 32, log=True),
    "learning_rate": FloatDistribution(1e-4, 0.1, log=True),
    "activation": CategoricalDistribution(["relu", "tanh", "swish", "linear"]),
    "epochs": CategoricalDistribution([27]),
}
SPACE = Space(DISTRIBUTIONS)
POLICIES = {
    "tpe": Tpe,
    "tpe_halving": lambda space, seed: Tpe(space, seed, first_rung=3),
    "hyperband": Hyperband,
    "bohb": Bohb,
    "multifidelity": Multifidelity,
}


def curve(params: dict, epochs: int) -> dict[int, float]:
    """A smooth objective with its optimum at learning rate 0.003."""
    final = (
        0.3 + 0.1 * (math.log10(params["learning_rate"]) + 2.5) ** 2 + 0.002 * params["batch_size"]
    )
    return {epoch: final + 0.7 / epoch for epoch in range(1, epochs + 1)}


def some_histories(count: int, seed: int = 0) -> list[RunHistory]:
    """Runs in all states: stopped at a rung, finished, running, infeasible."""
    random = np.random.default_rng(seed)
    found = []
    for number, point in enumerate(SPACE.draw(random, count)):
        params, epochs = SPACE.decode(point), int(random.choice([0, 1, 1, 3, 9, 27]))
        infeasible = params["learning_rate"] > 0.05
        values = {} if infeasible else curve(params, epochs)
        running = not infeasible and not epochs
        found.append(RunHistory(number, params, 27, values, running, infeasible))
    return found

"""Entry points of `wandb sweep-scheduler`: functions that sweeps/*.yaml name under `scheduler`.

W&B loads this file by its path and calls `optimizer` with the sweep; the searches themselves are
in the package `search`. A sweep sets them by a constant parameter that no run receives:

    search: {value: {seed: 1, beliefs: {learning_rate: {median: 0.002, spread: 3}},
                     warm_start: ENTITY/PROJECT/SWEEP_ID}}
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # W&B's loader does not add it

import optuna
from threadpoolctl import threadpool_limits
from wandb.sdk.sweeps.scheduler.optuna import search_space_from_sweep_config
from wandb.sdk.sweeps.sweep_info import SweepInfo

from search.history import objective_of
from search.multifidelity import Multifidelity
from search.optuna_bridge import make_study, search_space
from search.policies import Bohb, Hyperband, PolicyFactory, Tpe
from search.space import Prior, Space
from search.warm_start import earlier_histories

__all__ = ["bohb", "hyperband", "multifidelity", "search_space", "tpe", "tpe_halving"]

OPTIONS = "search"  # the constant parameter of a sweep that is for the search, not for the runs


def _entry_point(make_policy: PolicyFactory) -> Callable[[SweepInfo], optuna.Study]:
    """What a YAML names as `optimizer`: a function from W&B's view of a sweep to a study."""

    def study(sweep: SweepInfo) -> optuna.Study:
        threadpool_limits(1)  # many times faster: threads cost more than matrices this small
        parameters = dict(sweep.config["parameters"])
        options = parameters.pop(OPTIONS, {}).get("value", {})
        priors = {name: Prior(**prior) for name, prior in options.get("beliefs", {}).items()}
        space = Space(search_space_from_sweep_config(parameters), priors)
        warm_start = options.get("warm_start")
        objective = objective_of(sweep.config)
        earlier = earlier_histories(warm_start, space, objective) if warm_start else []
        policy = make_policy(space, int(options.get("seed", 0)), earlier)
        return make_study(policy, objective)

    return study


tpe = _entry_point(Tpe)
tpe_halving = _entry_point(partial(Tpe, first_rung=3))
hyperband = _entry_point(Hyperband)
bohb = _entry_point(Bohb)
multifidelity = _entry_point(Multifidelity)

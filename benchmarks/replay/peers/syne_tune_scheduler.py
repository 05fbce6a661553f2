"""Syne Tune's stopping schedulers, called as in its `Tuner`: `asha` or `mobster`."""

import contextlib
import io
import sys
from datetime import datetime

import numpy as np
from protocol import Dimension, main, parse

with contextlib.redirect_stdout(io.StringIO()):  # it prints which of its extras are missing
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import choice, lograndint, loguniform
    from syne_tune.optimizer.baselines import ASHA, MOBSTER
    from syne_tune.optimizer.scheduler import SchedulerDecision

SCHEDULERS = {"asha": ASHA, "mobster": MOBSTER}


def domain(one: Dimension):
    """The dimension in the terms of Syne Tune."""
    if one.labels:
        return choice(list(one.labels))
    return (lograndint if one.whole else loguniform)(one.low, one.high)


class SyneTune:
    """Rungs at 1, 3, 9, ... epochs; a run outside the best third of a rung is stopped."""

    def __init__(self, space: dict, seed: int, full: int, variant: str):
        np.random.seed(seed)  # the package draws from the global state too
        self.dimensions, self.full, self.trials, self.results = parse(space), full, {}, {}
        self.scheduler = SCHEDULERS[variant](
            {name: domain(one) for name, one in self.dimensions.items()},
            metric="loss",
            mode="min",
            resource_attr="epoch",
            type="stopping",
            grace_period=1,
            reduction_factor=3,
            max_t=full,
            random_seed=seed,
            search_options={"debug_log": False},
        )
        self.asked = 0

    def ask(self):
        """The next trial, added as in the tuner."""
        number, self.asked = self.asked, self.asked + 1
        suggestion = self.scheduler.suggest(number)
        trial = Trial(number, suggestion.config, datetime.now())
        self.scheduler.on_trial_add(trial)
        self.trials[str(number)] = trial
        return (
            str(number),
            {name: one.value(trial.config[name]) for name, one in self.dimensions.items()},
            self.full,
        )

    def report(self, key, epoch, value):
        """The scheduler's decision. A stopped trial is removed at once, as after its last epoch."""
        self.results[key] = {"loss": value, "epoch": epoch}
        stop = (
            self.scheduler.on_trial_result(self.trials[key], self.results[key])
            == SchedulerDecision.STOP
        )
        if stop:
            self.scheduler.on_trial_remove(self.trials.pop(key))
        return stop

    def ended(self, key, status):
        """A trial that the scheduler did not stop, because its run diverged, is complete."""
        result = self.results.pop(key)
        if key in self.trials:
            self.scheduler.on_trial_complete(self.trials.pop(key), result)


if __name__ == "__main__":
    main(lambda space, seed, full: SyneTune(space, seed, full, sys.argv[1]))

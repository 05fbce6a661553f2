"""hpbandster's BOHB: the steps of its `Master.run`, one at a time, without workers."""

import ConfigSpace
import hpbandster.core.master
import numpy as np
from hpbandster.core.dispatcher import Job
from hpbandster.optimizers import BOHB
from protocol import AtEnd, Dimension, main


class NoDispatcher:
    """Replaces the network of workers that the master starts."""

    def __init__(self, *args, **kwargs):
        pass

    def run(self) -> None:
        """Nothing to dispatch."""


def hyperparameter(name: str, one: Dimension):
    """The dimension in the terms of ConfigSpace."""
    if one.labels:
        return ConfigSpace.CategoricalHyperparameter(name, one.labels)
    kind = (
        ConfigSpace.UniformIntegerHyperparameter
        if one.whole
        else ConfigSpace.UniformFloatHyperparameter
    )
    return kind(name, one.low, one.high, log=True)


class Bohb(AtEnd):
    """Budgets 1, 3, 9, ... up to the full one. A promoted run trains from the start.

    BOHB draws from NumPy's global state, which is seeded here.
    """

    def __init__(self, space: dict, seed: int, full: int):
        super().__init__(space, full)
        hpbandster.core.master.Dispatcher = NoDispatcher
        np.random.seed(seed)
        configurations = ConfigSpace.ConfigurationSpace(seed=seed)
        configurations.add_hyperparameters(
            [hyperparameter(name, one) for name, one in self.dimensions.items()]
        )
        self.master = BOHB(
            configspace=configurations, run_id="replay", eta=3, min_budget=1, max_budget=full
        )

    def propose(self):
        """The next run of the oldest iteration that has one, as in the master's loop.

        While all iterations wait, another one starts.
        """
        for number in self.master.active_iterations():
            if (run := self.master.iterations[number].get_next_run()) is not None:
                return self.started(*run)
        self.master.iterations.append(
            self.master.get_next_iteration(len(self.master.iterations), {})
        )
        return self.propose()

    def started(self, identity, configuration, budget):
        """A run as `propose` returns it; the master counts it as running."""
        self.master.num_running_jobs += 1
        return Job(identity, config=configuration, budget=budget), configuration, budget

    def tell(self, handle, loss, status):
        """Call the master's callback."""
        handle.result = {"loss": loss, "info": None}
        self.master.job_callback(handle)


if __name__ == "__main__":
    main(Bohb)

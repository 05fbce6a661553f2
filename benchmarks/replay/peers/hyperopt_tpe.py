"""hyperopt's TPE at full budget: `suggest`, called as in `fmin`, with the running trials."""

import numpy as np
from hyperopt import JOB_STATE_DONE, JOB_STATE_RUNNING, STATUS_OK, Trials, hp, tpe
from hyperopt.base import Domain
from hyperopt.pyll import as_apply
from protocol import AtEnd, Dimension, main


def expression(name: str, one: Dimension):
    """The dimension in the terms of hyperopt."""
    if one.labels:
        return hp.choice(name, list(one.labels))
    bounds = np.log(one.low), np.log(one.high)
    return hp.qloguniform(name, *bounds, 1) if one.whole else hp.loguniform(name, *bounds)


class Hyperopt(AtEnd):
    """One `Trials`, asked for one trial at a time."""

    def __init__(self, space: dict, seed: int, full: int):
        super().__init__(space, full)
        self.domain = Domain(
            None, as_apply({name: expression(name, one) for name, one in self.dimensions.items()})
        )
        self.trials, self.random = Trials(), np.random.default_rng(seed)

    def propose(self):
        """The suggestion, entered as a running trial."""
        ids = self.trials.new_trial_ids(1)
        self.trials.refresh()
        documents = tpe.suggest(ids, self.domain, self.trials, self.random.integers(2**31 - 1))
        documents[0]["state"] = JOB_STATE_RUNNING
        self.trials.insert_trial_docs(documents)
        self.trials.refresh()
        raw = {name: values[0] for name, values in documents[0]["misc"]["vals"].items()}
        raw |= {name: one.labels[raw[name]] for name, one in self.dimensions.items() if one.labels}
        return ids[0], raw, self.full

    def tell(self, handle, loss, status):
        """A run that diverged has a large loss; TPE would learn nothing from a failed trial."""
        trial = next(one for one in self.trials._dynamic_trials if one["tid"] == handle)
        trial["state"], trial["result"] = JOB_STATE_DONE, {"status": STATUS_OK, "loss": loss}
        self.trials.refresh()


if __name__ == "__main__":
    main(Hyperopt)

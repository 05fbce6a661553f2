"""Optuna's Gaussian process with asynchronous Successive Halving from the third epoch."""

import optuna
from protocol import main, parse

optuna.logging.set_verbosity(optuna.logging.ERROR)


class OptunaGp:
    """A study driven by ask and tell."""

    def __init__(self, space: dict, seed: int, full: int):
        self.dimensions, self.full, self.trials, self.losses = parse(space), full, {}, {}
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=3, reduction_factor=3)
        self.study = optuna.create_study(
            sampler=optuna.samplers.GPSampler(seed=seed), pruner=pruner
        )

    def ask(self):
        """The next trial."""
        trial, params = self.study.ask(), {}
        for name, one in self.dimensions.items():
            if one.labels:
                raw = trial.suggest_categorical(name, one.labels)
            else:
                raw = (trial.suggest_int if one.whole else trial.suggest_float)(
                    name, one.low, one.high, log=True
                )
            params[name] = one.value(raw)
        self.trials[str(trial.number)] = trial
        return str(trial.number), params, self.full

    def report(self, key, epoch, value):
        """The pruner's decision."""
        self.losses[key] = value
        self.trials[key].report(value, epoch)
        return self.trials[key].should_prune()

    def ended(self, key, status):
        """A pruned trial counts with its last loss."""
        trial, loss = self.trials.pop(key), self.losses.pop(key)
        if status == "stopped":
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, loss)


if __name__ == "__main__":
    main(OptunaGp)

"""The Optuna studies that `wandb sweep-scheduler` drives: `source` and `optimizer` of a sweep's YAML name a function here.

Each search is a policy: `propose` makes the next run's hyperparameters, `hopeless` says whether a run should stop, both from the
records alone (trials.py). The seed of a proposal is the sweep's seed and the number of the run. So a scheduler that was
killed goes on as if it had not been, from what the server holds; our own alone remembers which runs it has judged.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # W&B loads this file by its path, outside its package

import numpy as np
import optuna
import wandb
from optuna.trial import TrialState, create_trial
from threadpoolctl import threadpool_limits
from wandb.sdk.sweeps.scheduler.optuna import search_space_from_sweep_config

from segmentation.config import OBJECTIVE, WORST, Config
from segmentation.gaussian import expected_improvement
from segmentation.halving import brackets, falls_behind, next_budget, rung_of, rungs
from segmentation.multifidelity import Forecast
from segmentation.trials import EPOCHS, Belief, Record, Space, read, record

SETTINGS = "search"  # the constant of a sweep's parameters that is for the search, not for the run
EARLIER = 10**9  # the first number of a run of another sweep, beyond those of this one
UNIFORM_SHARE = 0.25  # of the draws, where beliefs are given


class Policy:
    """What all searches share: the space, the full budget, the seed. One that stops runs overrides `hopeless`."""

    def __init__(self, space: Space, seed: int):
        self.space, self.seed, self.full = space, seed, space.fixed[EPOCHS]
        self.earlier: list[
            Record
        ] = []  # runs of another sweep: data for a model, never in a bracket or a rank

    def random(self, number: int) -> np.random.Generator:
        """The randomness of the run of that number."""
        return np.random.default_rng([self.seed, number])

    def propose(self, number: int, records: list[Record]) -> dict[str, Any]:
        """The next run's searched hyperparameters and its epochs."""
        raise NotImplementedError

    def hopeless(self, run: Record, records: list[Record]) -> bool:
        """Whether the run should be stopped now."""
        return False


class Tpe(Policy):
    """Multivariate TPE with the constant liar (Bergstra et al. 2011, as Optuna has it), alone or with successive halving."""

    STARTUP = 10  # random configurations before the model

    def __init__(self, space: Space, seed: int, first_rung: int | None = None):
        super().__init__(space, seed)
        self.levels = [self.full] if first_rung is None else rungs(first_rung, self.full)

    def propose(self, number, records):
        random = self.random(number)
        scores = [(run, run.value(self.full), run.epoch) for run in self.earlier + records]
        params = ask_tpe(
            self.space, scores, random, n_startup_trials=self.STARTUP, constant_liar=True
        )
        return self.space.fresh(params, records, random) | {EPOCHS: self.full}

    def hopeless(self, run, records):
        return falls_behind(run, records, self.levels)


class Hyperband(Policy):
    """Random configurations in Hyperband's brackets; every run is given its bracket's epochs, and trains them."""

    WHOLE = False  # how the sizes of the brackets are rounded

    def propose(self, number, records):
        epochs, promoted = next_budget(records, self.space, brackets(self.full, whole=self.WHOLE))
        random = self.random(number)
        return (
            promoted or self.space.fresh(self.configuration(records, random), records, random)
        ) | {EPOCHS: epochs}

    def configuration(self, records: list[Record], random: np.random.Generator) -> dict[str, Any]:
        """A new configuration."""
        return self.space.decode(self.space.points(random, 1)[0])


class Bohb(Hyperband):
    """Hyperband whose new configurations come from a TPE model of the largest budget with enough runs (Falkner et al. 2018)."""

    WHOLE = True
    RANDOM_SHARE, GOOD_SHARE, CANDIDATES = 1 / 3, 0.15, 64  # the paper's defaults

    def configuration(self, records, random):
        fewest = len(self.space) + 1
        for epochs in reversed(rungs(1, self.full)):
            latest = {
                self.space.key(run.params): run
                for run in self.earlier + records
                if run.value(epochs) is not None
            }
            if len(latest) < fewest + 2 or random.random() < self.RANDOM_SHARE:
                continue
            scores = [(run, run.value(epochs), epochs) for run in latest.values()]
            settings = {
                "n_startup_trials": 0,
                "gamma": partial(self.good, fewest),
                "n_ei_candidates": self.CANDIDATES,
            }
            return ask_tpe(self.space, scores, random, **settings)
        return super().configuration(records, random)

    def good(self, fewest: int, count: int) -> int:
        """How many of `count` runs the model of good ones is made from; both models keep `fewest` where they can."""
        return min(max(fewest, math.ceil(self.GOOD_SHARE * count)), count - 1)


class Multifidelity(Policy):
    """Ours: expected improvement at full budget by a Gaussian process over all learning curves.

    A run goes on while what it may still gain, for each epoch that it has to go, is worth a share of what a new run promises:
    a share, for a stop is for ever, and a new run may be stopped too. The better half of a rung goes on in any case: the model
    can be too sure of itself, above all where many runs agree by chance. A run is judged once a rung, when it is first seen there
    or beyond, for a scheduler may see several epochs at once; each further look would be one more chance to be unlucky.
    """

    FIRST = 4  # runs of the initial design in the middle of the space, and as many at the beliefs where there are any
    CANDIDATES, CENTERS, LOCAL, NEAR = (
        600,
        5,
        40,
        0.08,
    )  # draws from everywhere; around so many runs; each; their spread
    LOYALTY = 0.5  # that share
    HALF = 2  # of the runs at a rung, one in so many goes on whatever the model says
    FADE = 25  # runs after which beliefs weigh as one draw of theirs (Hvarfner et al. 2022, the exponent beta / n)

    def __init__(self, space: Space, seed: int):
        super().__init__(space, seed)
        self.levels = rungs(1, self.full)
        self._forecast = None, None
        self._judged: dict[
            int, int
        ] = {}  # run -> its last rung; after a restart each is judged once more

    def forecast(self, records: list[Record]) -> Forecast:
        """Kept from call to call while the data are the same."""
        records = self.earlier + records
        data = [
            (run.number, run.running, run.infeasible, run.epoch, run.value(run.epoch))
            for run in records
        ]
        if self._forecast[0] != data:
            self._forecast = data, Forecast(self.space, records, self.levels)
        return self._forecast[1]

    def propose(self, number, records):
        random, designed = self.random(number), self.FIRST * (2 if self.space.beliefs else 1)
        known = number + len(self.earlier) >= designed
        point = self.promising(self.forecast(records), random)[0] if known else self.first(number)
        return self.space.fresh(self.space.decode(point), records, random) | {EPOCHS: self.full}

    def first(self, number: int) -> np.ndarray:
        """A point of the initial design: each category in the middle of all numbers, then each at what is believed of them.

        In this order a wrong belief is seen for what it is after an epoch, by those in the middle.
        """
        chosen = np.zeros((0, len(self.space)))
        for k in range(number + 1):
            draws = self.space.points(self.random(k), 50)
            draws[:, : len(self.space.numbers)] = self.space.middle(believed=k >= self.FIRST)
            chosen = np.vstack([chosen, draws[self.space.distances(draws, chosen).argmax()]])
        return chosen[-1]

    def promising(
        self, forecast: Forecast, random: np.random.Generator, but: int | None = None
    ) -> tuple[np.ndarray, float]:
        """The point of the highest expected improvement among draws from everywhere and from around the best runs, and it."""
        points, split = self.space.points(random, self.CANDIDATES), len(self.space.numbers)
        for row in np.argsort(forecast.finals[0], kind="stable")[: self.CENTERS]:
            near = np.tile(forecast.points[row], (self.LOCAL, 1))
            near[:, :split] = np.clip(
                near[:, :split] + random.normal(0, self.NEAR, (self.LOCAL, split)), 0, 1
            )
            points = np.vstack([points, near])
        points = self.space.rounded(points)
        gain = expected_improvement(*forecast.new(points), forecast.bar(but)) * forecast.feasible(
            points
        )
        belief = self.space.log_belief(points) * self.FADE / max(1, len(forecast.records))
        best = (gain * np.exp(belief)).argmax()
        return points[best], float(gain[best])

    def hopeless(self, run, records):
        rung = rung_of(run, self.levels)
        judged, self._judged[run.number] = self._judged.get(run.number, 0), rung
        if (
            run.infeasible
            or rung == judged
            or not falls_behind(run, records, self.levels, self.HALF)
        ):
            return run.infeasible
        forecast = self.forecast(records)
        row = forecast.row[run.number]
        mean, deviation = (part[row] for part in forecast.finals)
        gain = expected_improvement(mean, deviation, forecast.bar(row)) / (self.full - run.epoch)
        return bool(
            gain
            < self.LOYALTY * self.promising(forecast, self.random(run.number), row)[1] / self.full
        )


Scores = list[
    tuple[Record, float | None, int]
]  # runs, each with its value (None: it was stopped before) and epoch


def ask_tpe(
    space: Space, scores: Scores, random: np.random.Generator, **settings
) -> dict[str, Any]:
    """What Optuna's multivariate TPE proposes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # `gamma`, which BOHB's share of good runs is given by
        sampler = optuna.samplers.TPESampler(
            multivariate=True, seed=int(random.integers(2**31)), **settings
        )
    study = _quiet_study(sampler)
    for run, value, epoch in scores:
        common = {"params": dict(run.params), "distributions": space.distributions}
        if run.infeasible:  # last in TPE's order, behind those that were stopped first
            study.add_trial(
                create_trial(state=TrialState.PRUNED, intermediate_values={0: math.inf}, **common)
            )
        elif value is not None:
            study.add_trial(create_trial(state=TrialState.COMPLETE, value=value, **common))
        elif run.running:
            study.add_trial(create_trial(state=TrialState.RUNNING, **common))
        elif epoch:
            seen = {epoch: run.value(epoch)}
            study.add_trial(
                create_trial(state=TrialState.PRUNED, intermediate_values=seen, **common)
            )
    return study.ask(space.distributions).params


def _quiet_study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """An empty study whose creation is not told to the log: one is made for every proposal."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(sampler=sampler)
    finally:
        optuna.logging.set_verbosity(verbosity)


class _Sampler(optuna.samplers.BaseSampler):
    """A policy as Optuna's sampler."""

    def __init__(self, policy: Policy, worst: float):
        self.policy, self.space, self.worst = policy, policy.space, worst
        self.independent = optuna.samplers.RandomSampler(policy.seed)

    def infer_relative_search_space(self, study, trial):
        return self.space.distributions | {
            EPOCHS: optuna.distributions.IntDistribution(1, self.policy.full)
        }

    def sample_relative(self, study, trial, search_space):
        if set(self.space.distributions) <= set(trial.system_attrs.get("fixed_params", ())):
            return {}  # a run that the server holds already
        records = read(study, self.policy.full, self.worst)
        return self.policy.propose(
            trial.number, [run for run in records if run.number != trial.number]
        )

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self.independent.sample_independent(study, trial, param_name, param_distribution)


class _Pruner(optuna.pruners.BasePruner):
    """A policy as Optuna's pruner."""

    def __init__(self, policy: Policy, worst: float):
        self.policy, self.worst = policy, worst

    def prune(self, study, trial):
        run = record(trial, self.policy.full, self.worst)
        return run.epoch < run.budget and self.policy.hopeless(
            run, read(study, self.policy.full, self.worst)
        )


def earlier(runs: Iterable[Any], space: Space, worst: float) -> list[Record]:
    """W&B's runs of another sweep as records, numbered from EARLIER; those with a value that this space has not are left out."""
    records = []
    for run in runs:
        params = {name: run.config.get(name) for name in space.distributions}
        if not space.holds(params):
            continue
        rows = run.scan_history(keys=["epoch", OBJECTIVE])
        curve = {int(row["epoch"]): float(row[OBJECTIVE]) for row in rows}
        number, budget = EARLIER + len(records), max(curve, default=1)
        records.append(Record.of(curve, worst, number=number, params=params, budget=budget))
    return records


def make_study(
    make_policy: Callable[[Space, int], Policy], sweep: Mapping[str, Any]
) -> optuna.Study:
    """The study of a sweep's configuration (its YAML as a mapping), with the policy in it."""
    threadpool_limits(
        1
    )  # matrices this small are many times slower where threads wait for busy cores
    parameters = dict(sweep["parameters"])
    settings = parameters.pop(SETTINGS, {}).get("value", {})
    beliefs = {name: Belief(**belief) for name, belief in settings.get("beliefs", {}).items()}
    space = Space(
        search_space_from_sweep_config(parameters), beliefs, UNIFORM_SHARE if beliefs else 1.0
    )
    policy = make_policy(space, int(settings.get("seed", 0)))
    worst = WORST[space.fixed.get("loss", Config().loss)]
    if warm_start := settings.get("warm_start"):
        policy.earlier = earlier(wandb.Api().sweep(warm_start).runs, space, worst)
    return optuna.create_study(
        direction="minimize", sampler=_Sampler(policy, worst), pruner=_Pruner(policy, worst)
    )


def search_space(trial: optuna.Trial) -> dict[str, Any]:
    """The configuration of a trial of any study made here. W&B tries it on an empty study first; that one has no space."""
    space = getattr(trial.study.sampler, "space", None)
    return space.suggest(trial) if space else {}


def _optimizer(make_policy: Callable[[Space, int], Policy]) -> Callable[[Any], optuna.Study]:
    """What a YAML names as `optimizer`: a function that takes W&B's SweepInfo and gives the study."""
    return lambda sweep: make_study(make_policy, sweep.config)


tpe = _optimizer(Tpe)
tpe_halving = _optimizer(lambda space, seed: Tpe(space, seed, first_rung=3))
hyperband = _optimizer(Hyperband)
bohb = _optimizer(Bohb)
multifidelity = _optimizer(Multifidelity)

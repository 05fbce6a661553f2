"""What a search knows: the space it searches, and one record a run. Everything here is a value; nothing remembers.

A proposal is a function of these records alone, so a search goes on after a restart where it was, and the order in which runs
report cannot matter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

EPOCHS = "epochs"  # the hyperparameter that is a run's budget
TRIES = 200  # draws in search of a configuration that no run has had


@dataclass(frozen=True)
class Record:
    """One run: its configuration without the budget, its budget in epochs, and its objective so far."""

    number: int
    params: Mapping[str, Any]
    budget: int
    curve: Mapping[int, float] = field(
        default_factory=dict
    )  # epoch -> objective, finite values only
    running: bool = False
    infeasible: bool = (
        False  # it diverged or ran out of memory: worse than any number, and no number
    )

    @classmethod
    def of(cls, values: Mapping[int, float], worst: float, **rest) -> "Record":
        """A record of all reported values; one that reaches `worst`, or is not finite, marks the run as infeasible."""
        good = {epoch: value for epoch, value in values.items() if value < worst}
        return cls(curve=good, infeasible=len(good) < len(values), **rest)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return max(self.curve, default=0)

    def value(self, epoch: int) -> float | None:
        """Lowest objective up to `epoch`; None if the run has not got there, infinite if it never can."""
        if self.infeasible:
            return math.inf
        if self.epoch < epoch:
            return None
        return min((value for at, value in self.curve.items() if at <= epoch), default=None)


def read(study: optuna.Study, full: int, worst: float) -> list[Record]:
    """The records of a study by number."""
    return [record(trial, full, worst) for trial in study.get_trials(deepcopy=False)]


def record(trial: optuna.trial.FrozenTrial, full: int, worst: float) -> Record:
    """The record of one trial; without an `epochs` of its own it has the `full` budget."""
    return Record.of(
        trial.intermediate_values,
        worst,
        number=trial.number,
        params={name: value for name, value in trial.params.items() if name != EPOCHS},
        budget=int(trial.params.get(EPOCHS, full)),
        running=trial.state == TrialState.RUNNING,
    )


@dataclass(frozen=True)
class Belief:
    """What the user holds likely of a number: its median, and the factor (or, without a log scale, the distance) of one sigma."""

    median: float
    spread: float


class Space:
    """The searched parameters of a sweep, seen as a unit cube: numbers on their own scale, categories as indices.

    Integers own an interval of length one on their scale, so that rounding gives each its due.
    """

    def __init__(
        self,
        distributions: Mapping[str, Any],
        beliefs: Mapping[str, Belief] | None = None,
        uniform: float = 1.0,
    ):
        """`uniform` is the share of draws that ignore the beliefs (Mallik et al. 2023: it keeps a wrong belief from harm)."""
        self.distributions = {n: d for n, d in distributions.items() if not d.single()}
        self.fixed = {n: _only(d) for n, d in distributions.items() if d.single()}
        self.numbers = [
            n for n, d in self.distributions.items() if not isinstance(d, CategoricalDistribution)
        ]
        self.categories = [
            n for n, d in self.distributions.items() if isinstance(d, CategoricalDistribution)
        ]
        self.beliefs, self.uniform = dict(beliefs or {}), uniform
        if unknown := set(self.beliefs) - set(self.numbers):
            raise ValueError(
                f"a belief about {', '.join(sorted(unknown))}, which is no searched number of this sweep"
            )

    def __len__(self) -> int:
        return len(self.distributions)

    def key(self, params: Mapping[str, Any]) -> tuple:
        """Equal for equal configurations."""
        return tuple(params.get(name) for name in self.distributions)

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether every searched hyperparameter is there, with a value that the space has."""
        return all(
            _holds(distribution, params.get(name))
            for name, distribution in self.distributions.items()
        )

    def encode(self, params: Mapping[str, Any]) -> np.ndarray:
        """(numbers + categories,) float: positions in [0, 1], then indices of categories."""
        places = [_place(self.distributions[name], params[name]) for name in self.numbers]
        return np.array(
            places
            + [self.distributions[name].to_internal_repr(params[name]) for name in self.categories]
        )

    def decode(self, point: np.ndarray) -> dict[str, Any]:
        """The configuration at a point; what lies outside the cube is moved to its face."""
        split = len(self.numbers)
        params = {}
        for name, place in zip(self.numbers, point[:split], strict=True):
            kind = int if isinstance(self.distributions[name], IntDistribution) else float
            params[name] = kind(_at(self.distributions[name], place))
        for name, index in zip(self.categories, point[split:], strict=True):
            params[name] = self.distributions[name].to_external_repr(index)
        return {name: params[name] for name in self.distributions}

    def rounded(self, points: np.ndarray) -> np.ndarray:
        """(n, dimensions): where the configurations lie that points are decoded to."""
        columns = [
            _place(self.distributions[name], _at(self.distributions[name], points[:, i]))
            for i, name in enumerate(self.numbers)
        ]
        return np.column_stack([*columns, points[:, len(self.numbers) :]])

    def points(self, random: np.random.Generator, count: int) -> np.ndarray:
        """(count, dimensions): draws from the beliefs, but for the share that is uniform."""
        columns = [random.random(count) for _ in self.numbers]
        columns += [
            random.integers(len(self.distributions[name].choices), size=count)
            for name in self.categories
        ]
        cube = np.column_stack(columns).astype(float)
        informed = random.random(count) >= self.uniform
        for name, belief in self.beliefs.items():
            drawn = random.normal(*self._normal(name, belief), size=count)
            cube[:, self.numbers.index(name)] = np.where(
                informed, np.clip(drawn, 0, 1), cube[:, self.numbers.index(name)]
            )
        return cube

    def middle(self, believed: bool) -> np.ndarray:
        """(numbers,): the middle of the cube, or the medians of the beliefs where there are any."""
        middle = np.full(len(self.numbers), 0.5)
        for name, belief in self.beliefs.items() if believed else ():
            middle[self.numbers.index(name)] = np.clip(self._normal(name, belief)[0], 0, 1)
        return middle

    def distances(self, points: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(n,): from each point to the nearest of `others`, a differing category counting as half a side; 1 without others."""
        if not len(others):
            return np.ones(len(points))
        split = len(self.numbers)
        apart = np.abs(points[:, None, :split] - others[None, :, :split]).sum(-1)
        return (apart + 0.5 * (points[:, None, split:] != others[None, :, split:]).sum(-1)).min(1)

    def log_belief(self, points: np.ndarray) -> np.ndarray:
        """(n,): log density of the beliefs mixed with the uniform share, up to a constant; 0 everywhere without beliefs."""
        density = np.ones(len(points))
        for name, belief in self.beliefs.items():
            mean, sigma = self._normal(name, belief)
            density *= np.exp(-0.5 * ((points[:, self.numbers.index(name)] - mean) / sigma) ** 2)
        return (
            np.log((1 - self.uniform) * density + self.uniform)
            if self.beliefs
            else np.zeros(len(points))
        )

    def _normal(self, name: str, belief: Belief) -> tuple[float, float]:
        distribution = self.distributions[name]
        low, high = _ends(distribution)
        sigma = math.log(belief.spread) if distribution.log else belief.spread
        return _place(distribution, belief.median), sigma / (high - low)

    def fresh(
        self, params: Mapping[str, Any], records: list[Record], random: np.random.Generator
    ) -> dict[str, Any]:
        """`params` if no run has had them, else a draw that none has had; at last a repetition, where the space is used up."""
        known = {self.key(record.params) for record in records}
        for _ in range(TRIES):
            if self.key(params) not in known:
                break
            params = self.decode(self.points(random, 1)[0])
        return dict(params)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """The whole configuration of a trial, constants included; called by W&B's scheduler through `search_space`."""
        full = self.fixed[EPOCHS]
        chosen = {name: _SUGGEST[type(d)](trial, name, d) for name, d in self.distributions.items()}
        return self.fixed | chosen | {EPOCHS: trial.suggest_int(EPOCHS, 1, full)}


_SUGGEST = {
    IntDistribution: lambda trial, name, d: trial.suggest_int(
        name, d.low, d.high, step=d.step, log=d.log
    ),
    FloatDistribution: lambda trial, name, d: trial.suggest_float(
        name, d.low, d.high, step=d.step, log=d.log
    ),
    CategoricalDistribution: lambda trial, name, d: trial.suggest_categorical(name, d.choices),
}


def _holds(distribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def _only(distribution) -> Any:
    return (
        distribution.choices[0]
        if isinstance(distribution, CategoricalDistribution)
        else distribution.low
    )


def _ends(distribution) -> tuple[float, float]:
    """The ends of a number's interval on its own scale."""
    margin = (
        0.5 * (distribution.step or 0)
        if not isinstance(distribution, FloatDistribution) or distribution.step
        else 0.0
    )
    low, high = distribution.low - margin, distribution.high + margin
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


def _place(distribution, values: float | np.ndarray) -> float | np.ndarray:
    low, high = _ends(distribution)
    return ((np.log(values) if distribution.log else values) - low) / (high - low)


def _at(distribution, places: np.ndarray) -> np.ndarray:
    """The values at places, rounded where the distribution has steps."""
    low, high = _ends(distribution)
    values = low + np.clip(places, 0, 1) * (high - low)
    values = np.exp(values) if distribution.log else values
    if distribution.step:
        values = (
            distribution.low
            + np.round((values - distribution.low) / distribution.step) * distribution.step
        )
    return np.clip(values, distribution.low, distribution.high)

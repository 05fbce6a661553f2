"""The search space as a unit cube, and the user's priors on it.

Numbers lie on their own scale (linear or logarithmic) in [0, 1]; categories are indices. An
integer k owns the interval [k - 1/2, k + 1/2] on its scale, so a uniform draw from the cube
returns it with a probability proportional to the length of that interval.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search.history import BUDGET, Configuration, RunHistory

Floats: TypeAlias = NDArray[np.float64]
Number: TypeAlias = IntDistribution | FloatDistribution

MAX_DRAWS = 200  # random draws in search of a configuration that no run has had
UNIFORM_FRACTION = 0.25  # of draws that ignore the priors; ours, after Mallik et al. 2023


@dataclass(frozen=True)
class Prior:
    """What a user believes about a number: a normal distribution on the number's own scale.

    Attributes:
        median: In the units of the hyperparameter.
        spread: One standard deviation: a factor on a logarithmic scale, else a distance in the
            units of the hyperparameter.
    """

    median: float
    spread: float


@dataclass(frozen=True)
class CubePriors:
    """Independent normal distributions of some columns of the unit cube, mixed with a uniform one.

    The uniform part bounds the harm of a wrong prior (Mallik et al. 2023, PriorBand).

    Attributes:
        columns: Column in the cube -> (mean, standard deviation), in units of the cube.
        uniform_fraction: Weight of the uniform distribution, in [0, 1].
    """

    columns: Mapping[int, tuple[float, float]]
    uniform_fraction: float

    def __bool__(self) -> bool:
        return bool(self.columns)

    def applied(self, cube: Floats, random: np.random.Generator) -> Floats:
        """Uniform draws (n, dimensions) with the share that follows the priors redrawn."""
        informed = random.random(len(cube)) >= self.uniform_fraction
        drawn = cube.copy()
        for column, (mean, sigma) in self.columns.items():
            values = np.clip(random.normal(mean, sigma, size=len(cube)), 0, 1)
            drawn[:, column] = np.where(informed, values, cube[:, column])
        return drawn

    def log_density(self, points: Floats) -> Floats:
        """(n,): log density of the mixture up to a constant; 0 everywhere without priors."""
        if not self:
            return np.zeros(len(points))
        density = np.ones(len(points))
        for column, (mean, sigma) in self.columns.items():
            density *= np.exp(-0.5 * ((points[:, column] - mean) / sigma) ** 2)
        logs: Floats = np.log((1 - self.uniform_fraction) * density + self.uniform_fraction)
        return logs


@dataclass(frozen=True)
class Space:
    """The parameters of a sweep, seen as a unit cube of those that are searched.

    A point of the cube holds the numbers first, in [0, 1], then the categories as indices.

    Attributes:
        parameters: Name -> distribution. Those with a single value are constants.
        user_priors: Searched number -> the user's prior.
        uniform_fraction: Fraction of draws that ignore the priors.

    Raises:
        ValueError: If a prior names a parameter that is not a searched number.
    """

    parameters: Mapping[str, BaseDistribution]
    user_priors: Mapping[str, Prior] = field(default_factory=dict)
    uniform_fraction: float = UNIFORM_FRACTION

    def __post_init__(self) -> None:
        if unknown := set(self.user_priors) - set(self.numbers):
            raise ValueError(
                f"`beliefs` names {', '.join(sorted(unknown))}, which this sweep does not search "
                f"as a number; it searches {', '.join(self.numbers)}"
            )

    def __len__(self) -> int:
        return len(self.distributions)

    @cached_property
    def fixed(self) -> dict[str, Any]:
        """Constant parameter -> its value."""
        return {
            name: d.choices[0] if isinstance(d, CategoricalDistribution) else d.low
            for name, d in self.parameters.items()
            if isinstance(d, Number | CategoricalDistribution) and d.single()
        }

    @cached_property
    def numbers(self) -> dict[str, Number]:
        """Searched number -> distribution; the first columns of the cube."""
        return {
            name: d
            for name, d in self.parameters.items()
            if isinstance(d, Number) and not d.single()
        }

    @cached_property
    def categories(self) -> dict[str, CategoricalDistribution]:
        """Searched category -> distribution; the last columns of the cube."""
        return {
            name: d
            for name, d in self.parameters.items()
            if isinstance(d, CategoricalDistribution) and not d.single()
        }

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Searched parameter -> distribution, in the sweep's order."""
        return {name: d for name, d in self.parameters.items() if not d.single()}

    @cached_property
    def priors(self) -> CubePriors:
        """The user's priors in units of the cube."""
        names = list(self.numbers)
        return CubePriors(
            {
                names.index(name): _cube_normal(self.numbers[name], prior)
                for name, prior in self.user_priors.items()
            },
            self.uniform_fraction,
        )

    @property
    def full_budget(self) -> int:
        """Epochs of a run that trains to the end: the sweep's constant `epochs`."""
        return int(self.fixed[BUDGET])

    def key(self, params: Configuration) -> tuple[Any, ...]:
        """The values of the searched hyperparameters: equal if and only if configurations are."""
        return tuple(params.get(name) for name in self.distributions)

    def contains(self, params: Configuration) -> bool:
        """Whether `params` holds every searched hyperparameter with a value inside the space."""
        return all(params.get(name) in d.choices for name, d in self.categories.items()) and all(
            _within(d, params.get(name)) for name, d in self.numbers.items()
        )

    def encode(self, params: Configuration) -> Floats:
        """(dimensions,): the point of a configuration."""
        numbers = [_to_unit(d, params[name]) for name, d in self.numbers.items()]
        indices = [d.to_internal_repr(params[name]) for name, d in self.categories.items()]
        return np.array([*numbers, *indices], dtype=float)

    def encode_all(self, histories: Iterable[RunHistory]) -> Floats:
        """(runs, dimensions): the points of the runs' configurations."""
        points = [self.encode(run.params) for run in histories]
        return np.array(points, dtype=float).reshape(-1, len(self))

    def decode(self, point: Floats) -> dict[str, Any]:
        """The configuration at a point; a point outside the cube is clipped to it."""
        params: dict[str, Any] = {}
        split = len(self.numbers)
        for (name, number), place in zip(self.numbers.items(), point[:split], strict=True):
            kind = int if isinstance(number, IntDistribution) else float
            params[name] = kind(_from_unit(number, place))
        for (name, category), index in zip(self.categories.items(), point[split:], strict=True):
            params[name] = category.to_external_repr(index)
        return {name: params[name] for name in self.distributions}

    def snap(self, points: Floats) -> Floats:
        """(n, dimensions): each point moved to the point of the configuration it decodes to."""
        columns = [
            _to_unit(number, _from_unit(number, points[:, i]))
            for i, number in enumerate(self.numbers.values())
        ]
        return np.column_stack([*columns, points[:, len(self.numbers) :]])

    def draw(self, random: np.random.Generator, count: int) -> Floats:
        """(count, dimensions): random points, by the priors except for the uniform fraction."""
        numbers = [random.random(count) for _ in self.numbers]
        indices = [random.integers(len(d.choices), size=count) for d in self.categories.values()]
        cube: Floats = np.column_stack([*numbers, *indices]).astype(float)
        return self.priors.applied(cube, random)

    def center(self, at_priors: bool) -> Floats:
        """(numbers,): the centre of the cube, at the priors' medians instead if `at_priors`."""
        center = np.full(len(self.numbers), 0.5)
        for column, (mean, _) in self.priors.columns.items() if at_priors else ():
            center[column] = np.clip(mean, 0, 1)
        return center

    def distances(self, points: Floats, others: Floats) -> Floats:
        """(n,): city-block distance from each point to the nearest of `others`; 1 without others.

        Categories that differ count as half a side of the cube.
        """
        if not len(others):
            return np.ones(len(points))
        split = len(self.numbers)
        numbers = np.abs(points[:, None, :split] - others[None, :, :split]).sum(-1)
        categories = (points[:, None, split:] != others[None, :, split:]).sum(-1)
        nearest: Floats = (numbers + 0.5 * categories).min(1)
        return nearest

    def unused(
        self, params: Configuration, histories: Iterable[RunHistory], random: np.random.Generator
    ) -> dict[str, Any]:
        """`params` if no run has had them, else a random configuration that no run has had.

        Returns a repeat only if `MAX_DRAWS` draws found none: the space is exhausted.
        """
        known = {self.key(run.params) for run in histories}
        for _ in range(MAX_DRAWS):
            if self.key(params) not in known:
                break
            params = self.decode(self.draw(random, 1)[0])
        return dict(params)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """All parameters of a trial's run, constants and budget included."""
        chosen = {name: _suggest(trial, name, d) for name, d in self.distributions.items()}
        return self.fixed | chosen | {BUDGET: trial.suggest_int(BUDGET, 1, self.full_budget)}


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """Ask a trial for the value of one parameter by the method for its kind."""
    match distribution:
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise TypeError(f"{name}: no search over a {type(distribution).__name__}")


def _within(number: Number, value: Any) -> bool:
    return isinstance(value, int | float) and number.low <= value <= number.high


def _cube_normal(number: Number, prior: Prior) -> tuple[float, float]:
    """(mean, standard deviation) of a prior in units of the cube."""
    low, high = _ends(number)
    sigma = math.log(prior.spread) if number.log else prior.spread
    return float(_to_unit(number, prior.median)), sigma / (high - low)


def _ends(number: Number) -> tuple[float, float]:
    """(low, high) on the number's own scale; half a step wider than its bounds if it has steps."""
    margin = 0.5 * (number.step or 0)
    low, high = number.low - margin, number.high + margin
    return (math.log(low), math.log(high)) if number.log else (low, high)


def _to_unit(number: Number, values: float | Floats) -> Floats:
    """Values -> places in [0, 1]."""
    low, high = _ends(number)
    places: Floats = ((np.log(values) if number.log else np.asarray(values)) - low) / (high - low)
    return places


def _from_unit(number: Number, places: float | Floats) -> Floats:
    """Places in [0, 1] -> values, rounded to steps where the number has them."""
    low, high = _ends(number)
    values = low + np.clip(places, 0, 1) * (high - low)
    values = np.exp(values) if number.log else values
    if number.step:
        values = number.low + np.round((values - number.low) / number.step) * number.step
    clipped: Floats = np.clip(values, number.low, number.high)
    return clipped

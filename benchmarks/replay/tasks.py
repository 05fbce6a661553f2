"""Tasks with known learning curves: synthetic ones with the shapes of real ones, and real ones.

A task holds the truth. An engine never sees the task; it sees the space and the values that the
clock has reached.
"""

import csv
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segmentation import config

Floats: TypeAlias = NDArray[np.float64]

FULL = 27  # epochs
WORST = config.WORST["dice_focal"]  # the objective that a diverged run reports
ACTIVATIONS = ("relu", "tanh", "swish", None)

# `parameters` of multifidelity.yaml, with null for linear. bayes_hyperband.yaml and
# random_hyperband.yaml differ: they search the batch size on a linear scale.
SPACE: dict[str, dict[str, Any]] = {
    "batch_size": {"distribution": "q_log_uniform_values", "min": 1, "max": 32, "q": 1},
    "learning_rate": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.1},
    "activation": {"values": list(ACTIVATIONS)},
    "epochs": {"value": FULL},
}


class Task(ABC):
    """Learning curves for the clock, and the optimum that a search is measured against."""

    @abstractmethod
    def run(self, params: Mapping[str, Any], repeat: int) -> tuple[Floats, bool]:
        """One run of a configuration.

        Args:
            params: The configuration.
            repeat: Number of the run in its replay, from 0.

        Returns:
            (objective reported after each epoch, whether the run diverges in the last of them).
        """

    @abstractmethod
    def truth(self, params: Mapping[str, Any]) -> Floats:
        """(FULL,): lowest loss up to each epoch without noise; WORST throughout if it diverges."""

    @abstractmethod
    def seconds(self, params: Mapping[str, Any]) -> float:
        """Duration of an epoch in seconds."""

    @property
    @abstractmethod
    def grid(self) -> list[tuple[dict[str, Any], Floats]]:
        """(configuration, truth) over the whole space; the optimum is read from it."""

    @cached_property
    def optimum(self) -> float:
        """Lowest true loss of the grid at full budget."""
        return min(float(truth[-1]) for _, truth in self.grid)

    def oracle(self, within: float) -> int:
        """Fewest epochs in which one run comes within this fraction of the optimum."""
        reached = np.min([truth for _, truth in self.grid], axis=0) <= self.optimum * (1 + within)
        return int(reached.argmax()) + 1


@dataclass(frozen=True)
class Synthetic(Task):
    """A synthetic task; `seed` draws its shape.

    Let u be the distance of the learning rate above its best value, in decades.

    - The final loss grows with u^2 and with the distance from the best batch size.
    - The time constant decreases with u: large rates train fast and end badly.
    - A run whose u exceeds a margin diverges within four epochs.
    - Small batches overfit late.
    - The best learning rate depends on the batch size and on the activation.
    """

    seed: int

    @cached_property
    def shape(self) -> dict[str, Any]:
        """The drawn constants. Losses have no unit; rates are in decades, batches in octaves."""
        r = np.random.default_rng([20_181, self.seed])
        return {
            "floor": r.uniform(0.25, 0.5),  # the best final loss
            "start": r.uniform(1.0, 1.3),  # the loss before any training
            "rate": r.uniform(-3.2, -2.0),  # best log10 learning rate at the middle batch size
            "tilt": r.uniform(0.05, 0.25),  # decades of best rate per octave of batch size
            "curvature": r.uniform(0.6, 1.6),  # relative loss per squared decade
            "octave": r.uniform(1.0, 4.0),  # best log2 batch size
            "batch": r.uniform(0.01, 0.05),  # relative loss per squared octave
            "margin": r.uniform(0.5, 1.0),  # decades above the best rate where runs diverge
            "tau": r.uniform(1.5, 5.0),  # time constant in epochs
            "power": r.uniform(1.0, 1.8),
            "hurry": r.uniform(0.3, 0.7),  # decades of time constant per decade of rate
            "overfit": r.uniform(0.0, 0.3),
            "quality": dict(
                zip(
                    ACTIVATIONS,
                    r.permutation([0.0, 0.05, 0.12, 0.4]) * r.uniform(0.6, 1.4),
                    strict=True,
                )
            ),
            "shift": dict(zip(ACTIVATIONS, r.normal(0, 0.25, 4), strict=True)),
            "noise_epoch": r.uniform(0.005, 0.02),
            "noise_repeat": r.uniform(0.003, 0.01),
        }

    def losses(self, params: Mapping[str, Any]) -> Floats:
        """(FULL,): noise-free validation loss per epoch; NaN from the epoch where it diverges."""
        c, octave = self.shape, math.log2(params["batch_size"])
        best = c["rate"] + c["tilt"] * (octave - 2.5) + c["shift"][params["activation"]]
        u = math.log10(params["learning_rate"]) - best
        epoch = np.arange(1, FULL + 1)
        final = c["floor"] * (
            1
            + c["quality"][params["activation"]]
            + c["curvature"] * u**2
            + c["batch"] * (octave - c["octave"]) ** 2
        )
        tau = c["tau"] * 10 ** (-c["hurry"] * u + 0.06 * (octave - 2.5))
        loss: Floats = final + max(c["start"] - final, 0.02) * (1 + epoch / tau) ** -c["power"]
        loss = loss + c["floor"] * c["overfit"] * np.maximum(epoch - 8 - 2 * octave, 0) / FULL
        if u > c["margin"]:
            loss[max(0, 3 - int(6 * (u - c["margin"]))) :] = np.nan
        return loss

    def truth(self, params: Mapping[str, Any]) -> Floats:
        """(FULL,): lowest noise-free loss up to each epoch; WORST throughout if it diverges."""
        losses = self.losses(params)
        return np.full(FULL, WORST) if np.isnan(losses).any() else np.minimum.accumulate(losses)

    def run(self, params: Mapping[str, Any], repeat: int) -> tuple[Floats, bool]:
        """(objective reported after each epoch, whether it diverges); `repeat` draws its noise."""
        r, c = np.random.default_rng([20_182, self.seed, repeat]), self.shape
        losses = self.losses(params)
        noisy = losses * np.exp(
            r.normal(0, c["noise_repeat"]) + r.normal(0, c["noise_epoch"], FULL)
        )
        if not np.isnan(losses).any():
            return np.minimum.accumulate(noisy), False
        finite = int(np.isnan(losses).argmax())
        return np.append(np.minimum.accumulate(noisy[:finite]), WORST), True

    def seconds(self, params: Mapping[str, Any]) -> float:
        """Duration of an epoch in seconds; longer for small batches, which use a GPU badly."""
        return 1.0 + 4.0 / float(params["batch_size"])

    @cached_property
    def grid(self) -> list[tuple[dict[str, Any], Floats]]:
        """(configuration, truth) over the whole space; the optimum is read from it."""
        rates = np.logspace(-4, -1, 61)
        configurations = [
            {"batch_size": batch, "learning_rate": float(rate), "activation": activation}
            for batch in (1, 2, 3, 4, 6, 8, 11, 16, 23, 32)
            for rate in rates
            for activation in ACTIVATIONS
        ]
        return [(params, self.truth(params)) for params in configurations]


class Curve(NamedTuple):
    """One run of the table.

    Attributes:
        lowest: Lowest loss up to each epoch that the run finished.
        diverged: Whether it diverged.
        seconds: Median duration of an epoch; None if it finished none.
    """

    lowest: Floats
    diverged: bool
    seconds: float | None


class TableConfiguration(NamedTuple):
    """A configuration of the table."""

    batch_size: int
    learning_rate: float
    activation: str

    @property
    def unit(self) -> tuple[float, float]:
        """Position in the unit square of the two numbers, both on logarithmic scales."""
        return math.log2(self.batch_size) / 5, (math.log10(self.learning_rate) + 4) / 3


def _configuration(params: Mapping[str, Any]) -> TableConfiguration:
    return TableConfiguration(
        int(params["batch_size"]), float(params["learning_rate"]), params["activation"] or "linear"
    )


def _curve(row: Mapping[str, str]) -> Curve:
    values = [float(row[str(epoch)]) for epoch in range(1, FULL + 1) if row[str(epoch)]]
    if row["status"] not in ("finished", "diverged") or (row["status"] == "finished") != (
        len(values) == FULL
    ):
        raise ValueError(
            f"a run with status {row['status']} after {len(values)} epochs is not a curve: "
            f"{dict(row)}; delete its row"
        )
    seconds = float(row["seconds"]) if row["seconds"] else None
    return Curve(np.minimum.accumulate(values), row["status"] == "diverged", seconds)


@dataclass(frozen=True)
class Curves(Task):
    """Real curves from a file that benchmarks/replay/curves.py wrote.

    A proposal gets the curve of the nearest configuration with its activation (Euclidean distance
    in log2 batch size / 5 and log10 learning rate / 3). If that has several curves, successive
    runs take them in turn. The truth is the mean over the curves of the lowest loss so far, so it
    contains the noise of a configuration that has only one curve.

    Attributes:
        file: The CSV file.
        seed: Which of several curves comes first. All seeds replay the same table.
        turns: Configuration -> runs that took one of its curves in this replay.
    """

    file: Path
    seed: int = 0
    turns: Counter[TableConfiguration] = field(
        default_factory=Counter, init=False, repr=False, compare=False
    )

    @cached_property
    def table(self) -> dict[TableConfiguration, list[Curve]]:
        """The curves of each configuration, sorted; the order in the file does not matter."""
        made: dict[TableConfiguration, list[Curve]] = {}
        makes = "python -m benchmarks.replay.curves makes it, run by run"
        if not self.file.exists():
            raise FileNotFoundError(f"there is no {self.file}; {makes}")
        with self.file.open(newline="") as file:
            for row in sorted(csv.DictReader(file), key=lambda row: int(row["repeat"])):
                made.setdefault(_configuration(row), []).append(_curve(row))
        wanted = {activation or "linear" for activation in ACTIVATIONS}
        if lacking := wanted - {one.activation for one in made}:
            names = ", ".join(sorted(lacking))
            raise ValueError(f"{self.file} has no curve with activation {names} yet; {makes}")
        return dict(sorted(made.items()))

    @cached_property
    def by_activation(self) -> dict[str, tuple[list[TableConfiguration], Floats]]:
        """Activation -> (its n configurations, their positions (n, 2) in the unit square)."""
        names = {one.activation for one in self.table}
        of = {name: [one for one in self.table if one.activation == name] for name in names}
        return {
            name: (configurations, np.array([one.unit for one in configurations]))
            for name, configurations in of.items()
        }

    @cached_property
    def truths(self) -> dict[TableConfiguration, Floats]:
        """The truth of each configuration, (FULL,)."""
        worst = np.full(FULL, WORST)
        return {
            one: np.mean([worst if curve.diverged else curve.lowest for curve in curves], axis=0)
            for one, curves in self.table.items()
        }

    @cached_property
    def durations(self) -> dict[TableConfiguration, float]:
        """Seconds per epoch: the mean over a configuration's curves.

        A configuration without a finished epoch gets the mean over all curves.
        """
        known = {
            one: [curve.seconds for curve in curves if curve.seconds is not None]
            for one, curves in self.table.items()
        }
        overall = float(np.mean([seconds for of in known.values() for seconds in of]))
        return {one: float(np.mean(of)) if of else overall for one, of in known.items()}

    def nearest(self, params: Mapping[str, Any]) -> TableConfiguration:
        """The configuration of the table whose curves a proposal gets."""
        proposed = _configuration(params)
        configurations, units = self.by_activation[proposed.activation]
        squares = np.sum((units - np.array(proposed.unit)) ** 2, axis=1)
        return configurations[int(squares.argmin())]

    def run(self, params: Mapping[str, Any], repeat: int) -> tuple[Floats, bool]:
        """The next curve of the nearest configuration; a `repeat` of 0 starts a new replay."""
        if repeat == 0:
            self.turns.clear()
        nearest = self.nearest(params)
        curves = self.table[nearest]
        curve = curves[(self.seed + self.turns[nearest]) % len(curves)]
        self.turns[nearest] += 1
        return (np.append(curve.lowest, WORST), True) if curve.diverged else (curve.lowest, False)

    def truth(self, params: Mapping[str, Any]) -> Floats:
        """(FULL,): lowest loss up to each epoch, averaged over curves; diverged ones are WORST."""
        return self.truths[self.nearest(params)]

    def seconds(self, params: Mapping[str, Any]) -> float:
        """Duration of an epoch in seconds, as measured."""
        return self.durations[self.nearest(params)]

    @cached_property
    def grid(self) -> list[tuple[dict[str, Any], Floats]]:
        """(configuration, truth) of the whole table."""
        return [(one._asdict(), truth) for one, truth in self.truths.items()]


TASKS: dict[str, Callable[[int], Task]] = {  # name -> seed -> task
    "synthetic": Synthetic,
    "dubai": partial(Curves, Path(__file__).parent / "dubai.csv"),
}

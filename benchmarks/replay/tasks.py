"""Tasks whose learning curves are known beforehand: a family of made-up ones with the shapes of real ones, and real ones.

A task holds the truth; an engine never sees the task, only its space and the values that the clock has reached.
"""

import csv
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from segmentation import config

FULL = 27  # epochs
WORST = config.WORST["dice_focal"]  # what a run that diverges reports
ACTIVATIONS = ("relu", "tanh", "swish", None)
SPACE = {  # as in the sweeps' YAML
    "batch_size": {"distribution": "q_log_uniform_values", "min": 1, "max": 32, "q": 1},
    "learning_rate": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.1},
    "activation": {"values": list(ACTIVATIONS)},
    "epochs": {"value": FULL},
}


class Task(ABC):
    """What the clock, and nobody else, asks of a task; and what the report measures a search against."""

    space: ClassVar[dict[str, dict[str, Any]]] = SPACE

    @abstractmethod
    def run(self, params: Mapping[str, Any], repeat: int) -> tuple[np.ndarray, bool]:
        """(what a run reports after each epoch, whether it diverges in the last of them); `repeat` counts a replay's runs."""

    @abstractmethod
    def truth(self, params: Mapping[str, Any]) -> np.ndarray:
        """(FULL,) lowest loss up to each epoch, without luck; WORST for ever for a run that diverges."""

    @abstractmethod
    def seconds(self, params: Mapping[str, Any]) -> float:
        """What an epoch lasts."""

    @property
    @abstractmethod
    def grid(self) -> list[tuple[dict[str, Any], np.ndarray]]:
        """(configuration, truth) all over the space, from which the optimum is read."""

    @cached_property
    def optimum(self) -> float:
        """The lowest loss that the space holds at full budget."""
        return min(float(truth[-1]) for _, truth in self.grid)

    def oracle(self, within: float) -> int:
        """The fewest epochs in which one run gets so near the optimum, as a share of it."""
        reached = np.min([truth for _, truth in self.grid], axis=0) <= self.optimum * (1 + within)
        return int(reached.argmax()) + 1


@dataclass(frozen=True)
class Synthetic(Task):
    """One task of the family; `seed` draws its shape.

    With u the distance of the learning rate from its best, in decades: the final loss grows with u^2 and with the distance from
    the best batch size; the time constant falls with u (a large step is fast and ends badly, a small one slow and well); a
    run whose u exceeds a margin diverges within four epochs; small batches overfit late. The best learning rate moves
    with the batch size and differs between activations.
    """

    seed: int

    @cached_property
    def shape(self) -> dict[str, Any]:
        """The drawn constants. Losses are dimensionless, rates in decades, batch sizes in octaves, times in epochs."""
        r = np.random.default_rng([20_181, self.seed])
        return {
            "floor": r.uniform(0.25, 0.5),  # the best final loss
            "start": r.uniform(1.0, 1.3),  # the loss before any training
            "rate": r.uniform(-3.2, -2.0),  # best log10 learning rate at the middle batch size
            "tilt": r.uniform(0.05, 0.25),  # decades an octave of batch size
            "curvature": r.uniform(0.6, 1.6),  # relative loss a squared decade
            "octave": r.uniform(1.0, 4.0),  # best log2 batch size
            "batch": r.uniform(0.01, 0.05),  # relative loss a squared octave
            "margin": r.uniform(0.5, 1.0),  # decades above the best rate where runs diverge
            "tau": r.uniform(1.5, 5.0),
            "power": r.uniform(1.0, 1.8),
            "hurry": r.uniform(0.3, 0.7),  # decades of time constant a decade of learning rate
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

    def losses(self, params: Mapping[str, Any]) -> np.ndarray:
        """(FULL,) noise-free validation losses, one an epoch; NaN from the epoch in which the run diverges."""
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
        loss = final + (max(c["start"] - final, 0.02)) * (1 + epoch / tau) ** -c["power"]
        loss = loss + c["floor"] * c["overfit"] * np.maximum(epoch - 8 - 2 * octave, 0) / FULL
        if u > c["margin"]:
            loss[max(0, 3 - int(6 * (u - c["margin"]))) :] = np.nan
        return loss

    def truth(self, params: Mapping[str, Any]) -> np.ndarray:
        """(FULL,) lowest noise-free loss up to each epoch, WORST for ever for a run that diverges."""
        losses = self.losses(params)
        return np.full(FULL, WORST) if np.isnan(losses).any() else np.minimum.accumulate(losses)

    def run(self, params: Mapping[str, Any], repeat: int) -> tuple[np.ndarray, bool]:
        """(what a run reports after each epoch, whether it diverges in the last of them); `repeat` draws its noise."""
        r, c = np.random.default_rng([20_182, self.seed, repeat]), self.shape
        losses = self.losses(params)
        noisy = losses * np.exp(
            r.normal(0, c["noise_repeat"]) + r.normal(0, c["noise_epoch"], FULL)
        )
        if not np.isnan(losses).any():
            return np.minimum.accumulate(noisy), False
        lives = int(np.isnan(losses).argmax())
        return np.append(np.minimum.accumulate(noisy[:lives]), WORST), True

    def seconds(self, params: Mapping[str, Any]) -> float:
        """What an epoch lasts: small batches keep a GPU waiting."""
        return 1.0 + 4.0 / params["batch_size"]

    @cached_property
    def grid(self) -> list[tuple[dict[str, Any], np.ndarray]]:
        """(configuration, truth) all over the space, from which the optimum is read."""
        rates = np.logspace(-4, -1, 61)
        configurations = [
            {"batch_size": batch, "learning_rate": float(rate), "activation": activation}
            for batch in (1, 2, 3, 4, 6, 8, 11, 16, 23, 32)
            for rate in rates
            for activation in ACTIVATIONS
        ]
        return [(params, self.truth(params)) for params in configurations]


class Curve(NamedTuple):
    """One run of the table: the lowest loss up to each epoch, as far as it got."""

    lowest: np.ndarray
    diverged: bool
    seconds: float | None


class Place(NamedTuple):
    """A configuration of the table."""

    batch_size: int
    learning_rate: float
    activation: str

    @property
    def unit(self) -> tuple[float, float]:
        """Where it lies in the unit square of its activation."""
        return math.log2(self.batch_size) / 5, (math.log10(self.learning_rate) + 4) / 3


def _place(params: Mapping[str, Any]) -> Place:
    return Place(
        int(params["batch_size"]), float(params["learning_rate"]), params["activation"] or "linear"
    )


def _curve(row: Mapping[str, str]) -> Curve:
    values = [float(row[str(epoch)]) for epoch in range(1, FULL + 1) if row[str(epoch)]]
    if row["status"] not in ("finished", "diverged") or (row["status"] == "finished") != (
        len(values) == FULL
    ):
        raise ValueError(
            f"a run that {row['status']} after {len(values)} epochs is no curve: {dict(row)}; delete its row"
        )
    seconds = float(row["seconds"]) if row["seconds"] else None
    return Curve(np.minimum.accumulate(values), row["status"] == "diverged", seconds)


@dataclass(frozen=True)
class Curves(Task):
    """Real curves, from a file as benchmarks/replay/curves.py writes it.

    A proposal is answered by the nearest configuration of its activation (Euclid's distance in log2 batch size / 5 and
    log10 learning rate / 3); where that has several curves, its runs take them in turn. There is one table: `seed` only chooses
    which of the curves comes first (and, as everywhere, seeds the engine). A truth is the mean over the curves of the lowest
    loss so far, so where a configuration has one curve its luck is part of it.
    """

    file: Path
    seed: int = 0
    turns: Counter = field(default_factory=Counter, init=False, repr=False, compare=False)

    @cached_property
    def table(self) -> dict[Place, list[Curve]]:
        """The curves of each configuration, in an order that is not the file's."""
        made, makes = {}, "python -m benchmarks.replay.curves makes it, run by run"
        if not self.file.exists():
            raise FileNotFoundError(f"there is no {self.file}; {makes}")
        with self.file.open(newline="") as file:
            for row in sorted(csv.DictReader(file), key=lambda row: int(row["repeat"])):
                made.setdefault(_place(row), []).append(_curve(row))
        lacking = {activation or "linear" for activation in ACTIVATIONS} - {
            place.activation for place in made
        }
        if lacking:
            raise ValueError(
                f"{self.file} has no curve with activation {', '.join(sorted(lacking))} yet; {makes}"
            )
        return dict(sorted(made.items()))

    @cached_property
    def places(self) -> dict[str, tuple[list[Place], np.ndarray]]:
        """Each activation's configurations, and where they lie."""
        names = {place.activation for place in self.table}
        of = {name: [place for place in self.table if place.activation == name] for name in names}
        return {
            name: (places, np.array([place.unit for place in places]))
            for name, places in of.items()
        }

    @cached_property
    def truths(self) -> dict[Place, np.ndarray]:
        """The truth of each configuration."""
        worst = np.full(FULL, WORST)
        return {
            place: np.mean([worst if curve.diverged else curve.lowest for curve in curves], axis=0)
            for place, curves in self.table.items()
        }

    @cached_property
    def paces(self) -> dict[Place, float]:
        """Seconds an epoch of each configuration: the mean of its curves, and of all where none of its own got through one."""
        known = {
            place: [curve.seconds for curve in curves if curve.seconds is not None]
            for place, curves in self.table.items()
        }
        overall = float(np.mean([seconds for of in known.values() for seconds in of]))
        return {place: float(np.mean(of)) if of else overall for place, of in known.items()}

    def nearest(self, params: Mapping[str, Any]) -> Place:
        """The configuration that answers a proposal."""
        proposed = _place(params)
        places, units = self.places[proposed.activation]
        return places[int(np.sum((units - proposed.unit) ** 2, axis=1).argmin())]

    def run(self, params: Mapping[str, Any], repeat: int) -> tuple[np.ndarray, bool]:
        """The configuration's next curve; turns begin anew with the first run of a replay, whose `repeat` is 0."""
        if repeat == 0:
            self.turns.clear()
        place = self.nearest(params)
        curves = self.table[place]
        curve = curves[(self.seed + self.turns[place]) % len(curves)]
        self.turns[place] += 1
        return (np.append(curve.lowest, WORST), True) if curve.diverged else (curve.lowest, False)

    def truth(self, params: Mapping[str, Any]) -> np.ndarray:
        """(FULL,) lowest loss up to each epoch, the mean over its curves; WORST for ever for a curve that diverges."""
        return self.truths[self.nearest(params)]

    def seconds(self, params: Mapping[str, Any]) -> float:
        """The table's own."""
        return self.paces[self.nearest(params)]

    @cached_property
    def grid(self) -> list[tuple[dict[str, Any], np.ndarray]]:
        """(configuration, truth) all over the table."""
        return [(place._asdict(), truth) for place, truth in self.truths.items()]


TASKS: dict[str, Callable[[int], Task]] = {  # name -> seed -> task
    "synthetic": Synthetic,
    "dubai": partial(Curves, Path(__file__).parent / "dubai.csv"),
}

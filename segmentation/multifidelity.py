"""Values at full budget, foreseen from all epochs: an auto-regressive Gaussian process over rungs (Kennedy & O'Hagan 2000).

The value at a rung is rho times the value at the rung below plus a Gaussian process of its own. Runs go through the rungs
in order, so the data are nested and the rungs are fitted one after the other (Le Gratiet & Garnier 2014). A run under way is
foreseen from its own last value, a new configuration from the bottom.
"""

from functools import cached_property

import numpy as np
from scipy.special import ndtr

from segmentation.gaussian import Inputs, Process, fit
from segmentation.trials import Record, Space

MOST = 300  # runs that a rung's process is given
MOST_FITTED = 60  # runs that its parameters are fitted to
AMPLITUDE = 1.0  # expected of a rung's process, in standard deviations of the lowest rung's values
SPREADS = 2.0  # values worse than the median by so many times the distance from the best to the median are cut there


class Forecast:
    """What the records say about values at full budget. Values are on a scale of its own: logarithms, standardized."""

    def __init__(self, space: Space, records: list[Record], levels: list[int]):
        """`levels` are the rungs; the last one is the full budget."""
        self.levels, self.split = levels, len(space.numbers)
        self.records = [run for run in records if run.running or run.infeasible or run.epoch >= levels[0]]
        points = np.array([space.encode(run.params) for run in self.records]).reshape(len(self.records), -1)
        self.inputs = self.configurations(points)
        self.values = self._scaled(np.array([[_number(run.value(level)) for level in levels] for run in self.records]))
        self.row = {run.number: i for i, run in enumerate(self.records)}
        self.processes: list[Process] = []
        self._build(np.array([run.running for run in self.records], dtype=bool))

    def configurations(self, points: np.ndarray) -> Inputs:
        """Points of the unit cube as inputs of the lowest rung."""
        return Inputs(points[:, : self.split], points[:, self.split :])

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        """(n, rungs): logarithms, cut off above, shifted and scaled by the lowest rung's; NaN where there is no value."""
        values = np.where(np.isinf(values), np.nan, values).reshape(len(self.records), len(self.levels))
        logs = np.log(np.maximum(values, 1e-12)) if np.nanmin(values, initial=np.inf) > 0 else values
        for column in logs.T:
            known = column[~np.isnan(column)]
            if len(known) >= 3:
                np.minimum(column, np.median(known) + SPREADS * (np.median(known) - known.min()), out=column)
        first = logs[~np.isnan(logs[:, 0]), 0]
        center, scale = (first.mean(), max(first.std(), 1e-6)) if len(first) > 1 else (first.sum(), 1.0)
        return (logs - center) / scale

    def _build(self, running: np.ndarray) -> None:
        """Fits each rung's process, then gives it the foreseen values of the runs under way as if they had come."""
        foreseen = self.values.copy()
        for k in range(len(self.levels)):
            below = foreseen[:, k - 1] if k else None
            inputs = Inputs(self.inputs.numbers, self.inputs.categories, below)
            seen = np.flatnonzero(~np.isnan(self.values[:, k]) & (True if below is None else ~np.isnan(below)))
            seen = _thinned(seen, self.values[seen, k], MOST)
            chosen = _thinned(seen, self.values[seen, k], MOST_FITTED)
            parameters = fit(inputs[chosen], self.values[chosen, k], AMPLITUDE)
            process = Process(inputs[seen], self.values[seen, k], parameters)
            pending = np.flatnonzero(np.isnan(self.values[:, k]) & running)
            if len(pending):
                foreseen[pending, k] = process.predict(inputs[pending])[0]
                both = np.concatenate([seen, pending])
                process = Process(inputs[both], foreseen[both, k], parameters)
            self.processes.append(process)

    def new(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(means, standard deviations) at full budget of configurations that have not run; points (n, dimensions)."""
        inputs = self.configurations(points)
        mean, variance = self.processes[0].predict(inputs)
        return self._upwards(inputs, mean, variance, 1)

    @cached_property
    def _feasibility(self) -> Process | None:
        """A process of labels, 1 for runs that live and -1 for those that diverged or ran out of memory; None if all live."""
        dead = np.array([run.infeasible for run in self.records], dtype=bool)
        rows = np.flatnonzero(dead | ~np.isnan(self.values[:, 0]))
        if not dead.any():
            return None
        labels = np.where(dead, -1.0, 1.0)
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, MOST_FITTED).astype(int))] if len(rows) > MOST_FITTED else rows
        kept = rows[-MOST:]
        return Process(self.inputs[kept], labels[kept], fit(self.inputs[chosen], labels[chosen], AMPLITUDE))

    def feasible(self, points: np.ndarray) -> np.ndarray:
        """(n,): probabilities that configurations run to their end."""
        if self._feasibility is None:
            return np.ones(len(points))
        mean, variance = self._feasibility.predict(self.configurations(points))
        return ndtr(mean / np.sqrt(variance + self._feasibility.parameters.noise**2))

    @cached_property
    def finals(self) -> tuple[np.ndarray, np.ndarray]:
        """(means, standard deviations) of what each record's run will have, or would have, reached at full budget.

        From its own value at its last rung, so that it is the run's and not its configuration's; infinite mean without a value.
        """
        means, deviations = np.full(len(self.records), np.inf), np.zeros(len(self.records))
        last = (~np.isnan(self.values)).cumsum(axis=1).argmax(axis=1)
        for k in range(len(self.levels)):
            rows = np.flatnonzero((last == k) & ~np.isnan(self.values[:, k]))
            if len(rows):
                start = self.values[rows, k]
                means[rows], deviations[rows] = self._upwards(self.inputs[rows], start, np.zeros(len(rows)), k + 1, noise=True)
        return means, deviations

    def _upwards(self, inputs: Inputs, mean, variance, level: int, noise: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """From values at one rung below `level` to full budget."""
        for process in self.processes[level:]:
            mean, own = process.predict(Inputs(inputs.numbers, inputs.categories, mean))
            variance = own + process.slope**2 * variance + noise * process.parameters.noise**2
        return mean, np.sqrt(variance)

    @cached_property
    def best(self) -> float:
        """The lowest value at full budget so far; where none is there yet, the lowest foreseen."""
        done = self.values[:, -1]
        lowest = np.min(self.finals[0], initial=np.inf) if np.isnan(done).all() else np.nanmin(done)
        return float(lowest) if np.isfinite(lowest) else 0.0

    def chance(self, row: int) -> float:
        """The probability that a record's run would beat the best one that is done; 1 where none is."""
        mean, deviation = (part[row] for part in self.finals)
        return 1.0 if np.isnan(self.values[:, -1]).all() else float(ndtr((self.best - mean) / max(deviation, 1e-9)))


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _thinned(rows: np.ndarray, values: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows: the better half of the quota is the best ones, the rest is spread evenly over the others."""
    if len(rows) <= most:
        return rows
    order = rows[np.argsort(values, kind="stable")]
    best, rest = order[: most // 2], order[most // 2 :]
    return np.sort(np.concatenate([best, rest[np.linspace(0, len(rest) - 1, most - len(best)).astype(int)]]))

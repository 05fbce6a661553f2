"""Values at full budget, foreseen from all epochs of all runs: what our own search knows (gaussian.py is the model).

A run under way is foreseen from its own values so far, a new configuration from everybody's.
"""

from functools import cached_property

import numpy as np
from scipy.special import ndtr

from segmentation.gaussian import NOBODY, Inputs, Parameters, Process, fit, prior
from segmentation.trials import Record, Space

MOST = 400  # observations that the process is given
MOST_FITTED = 80  # observations that its parameters are fitted to
SPREADS = 8.0  # values worse than the median of their epoch by so many times the distance from the best to it are cut there
APART = 0.1  # how far, in logarithms, values are thought to lie apart at least; the first ones often agree by chance
LOST = 0.8  # a run that diverged or ran out of memory counts as this quantile of all values: bad, and no outlier
MARGIN, SETTLED = (
    0.05,
    20,
)  # a relative gain below this is none, until so many runs; then it shrinks as 1 / runs


class Forecast:
    """What the records say about values at full budget. Values are on a scale of its own: logarithms, standardized."""

    def __init__(self, space: Space, records: list[Record], levels: list[int]):
        """`levels` are the epochs at which curves are read, beside their last ones; the last level is the full budget."""
        self.space, self.full = space, levels[-1]
        self.infeasible = [run for run in records if run.infeasible]
        self.records = [run for run in records if not run.infeasible and (run.running or run.epoch)]
        self.row = {run.number: i for i, run in enumerate(self.records)}
        self.points = np.array([space.encode(run.params) for run in self.records]).reshape(
            len(self.records), len(space)
        )
        seen = [(i, epoch) for i, run in enumerate(self.records) for epoch in _looks(run, levels)]
        rows, epochs = (
            (np.array(part, dtype=int) for part in zip(*seen, strict=True))
            if seen
            else np.zeros((2, 0), int)
        )
        raw = np.array([self.records[i].value(epoch) for i, epoch in seen])
        self.values = self._scaled(raw, epochs)
        self.inputs = self.observed(
            self.points[rows], epochs, np.array([self.records[i].number for i in rows], dtype=int)
        )
        last = {i: k for k, (i, _) in enumerate(seen)}
        self.lowest = np.array(
            [self.values[last[i]] if i in last else np.inf for i in range(len(self.records))]
        )
        if self.infeasible and seen:
            numbers = np.array([run.number for run in self.infeasible])
            self.inputs = self.inputs.and_(self.observed(self._lost_points, self.full, numbers))
            self.values = np.append(
                self.values, np.full(len(numbers), np.quantile(self.values, LOST))
            )
        kept, chosen = _thinned(self.values, MOST), _thinned(self.values, MOST_FITTED)
        self.kept = self.values[kept]
        self.process = Process(
            self.inputs[kept], self.kept, fit(self.inputs[chosen], self.values[chosen])
        )

    @cached_property
    def _lost_points(self) -> np.ndarray:
        return np.array([self.space.encode(run.params) for run in self.infeasible]).reshape(
            -1, len(self.space)
        )

    def observed(
        self, points: np.ndarray, epochs: int | np.ndarray, runs: int | np.ndarray = NOBODY
    ) -> Inputs:
        """Points of the unit cube (n, dimensions) at epochs, as inputs of the process."""
        split, shape = len(self.space.numbers), len(points)
        return Inputs(
            points[:, :split],
            points[:, split:],
            np.broadcast_to(epochs, shape),
            np.broadcast_to(runs, shape),
        )

    def _scaled(self, values: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """Logarithms, cut off above epoch by epoch, shifted and scaled."""
        logs = (
            np.log(np.maximum(values, 1e-12))
            if np.min(values, initial=np.inf) > 0
            else values.copy()
        )
        for epoch in np.unique(epochs):
            at = epochs == epoch
            if at.sum() >= 3:
                middle = np.median(logs[at])
                logs[at] = np.minimum(logs[at], middle + SPREADS * (middle - logs[at].min()))
        self.scale = max(logs.std(), APART) if len(logs) else 1.0
        return (logs - logs.mean()) / self.scale if len(logs) else logs

    @cached_property
    def finals(self) -> tuple[np.ndarray, np.ndarray]:
        """(means, standard deviations) of what each record's run has, or would have, reached at full budget."""
        numbers = np.array([run.number for run in self.records], dtype=int)
        return self.process.predict(self.observed(self.points, self.full, numbers))

    @cached_property
    def bests(self) -> np.ndarray:
        """(records,): the lowest value that each run has, or is foreseen to have if it goes on."""
        going = np.array([run.running for run in self.records], dtype=bool)
        return np.where(going, np.minimum(self.finals[0], self.lowest), self.lowest)

    def bar(self, but: int | None = None) -> float:
        """What a run must come below to gain anything: the lowest of them without row `but`, less the margin; 0 without any."""
        others = np.delete(self.bests, [] if but is None else but)
        margin = MARGIN * min(1.0, SETTLED / max(1, len(self.records))) / self.scale
        return float(others.min()) - margin if np.isfinite(others).any() else 0.0

    @cached_property
    def _awaited(self) -> Process:
        """The process as if the runs under way had come to what is foreseen of them."""
        going = np.array([i for i, run in enumerate(self.records) if run.running], dtype=int)
        numbers = np.array([self.records[i].number for i in going], dtype=int)
        inputs = self.process.inputs.and_(self.observed(self.points[going], self.full, numbers))
        return Process(inputs, np.append(self.kept, self.finals[0][going]), self.process.parameters)

    def new(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(means, standard deviations) at full budget of configurations that have not run; points (n, dimensions)."""
        return self._awaited.predict(self.observed(points, self.full))

    @cached_property
    def _feasibility(self) -> Process | None:
        """A process of labels, 1 for runs that live and -1 for those that diverged or ran out of memory; None if all live."""
        if not self.infeasible:
            return None
        dead = self._lost_points[-MOST // 4 :]
        alive = self.points[[i for i, run in enumerate(self.records) if run.epoch]][-MOST // 4 :]
        inputs = self.observed(np.concatenate([dead, alive]), self.full)
        labels = np.repeat([-1.0, 1.0], [len(dead), len(alive)])
        return Process(inputs, labels, Parameters.of_logs(prior(len(self.space.numbers))[0]))

    def feasible(self, points: np.ndarray) -> np.ndarray:
        """(n,): probabilities that configurations run to their end."""
        if self._feasibility is None:
            return np.ones(len(points))
        mean, deviation = self._feasibility.predict(self.observed(points, self.full))
        return ndtr(mean / np.hypot(deviation, self._feasibility.parameters["noise"]))


def _looks(run: Record, levels: list[int]) -> list[int]:
    """The epochs at which a run's curve is read: the levels that it has reached, and its last one."""
    return sorted(
        {level for level in levels if level <= run.epoch} | ({run.epoch} if run.epoch else set())
    )


def _thinned(values: np.ndarray, most: int) -> np.ndarray:
    """Rows, at most so many: half of them the lowest values, the rest spread evenly over the others."""
    if len(values) <= most:
        return np.arange(len(values))
    order = np.argsort(values, kind="stable")
    low, rest = order[: most // 2], order[most // 2 :]
    return np.sort(
        np.concatenate([low, rest[np.linspace(0, len(rest) - 1, most - len(low)).astype(int)]])
    )

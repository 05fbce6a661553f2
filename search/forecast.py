"""From run histories to predicted final values: what our own search knows.

Two steps: `observations` reads the histories (a pure function), and `Forecast` predicts the value
of each run and of new configurations at full budget by a Gaussian process (gaussian.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr

from search.gaussian import NO_RUN, Floats, Inputs, Integers, Process, prior_medians
from search.history import RunHistory
from search.settings import Settings
from search.space import Space

TINY = 1e-12  # smallest value whose logarithm is taken


@dataclass(frozen=True)
class Observations:
    """The histories of a sweep in the units of the process.

    Attributes:
        runs: Feasible runs that are running or have reported; the rows below.
        points: (runs, dimensions) their configurations in the unit cube.
        failed: (failed, dimensions) configurations of the infeasible runs.
        inputs: The n observations.
        values: (n,) standardized logarithms of the objective, outliers cut.
        lowest: (runs,) lowest value of each run, in the same units; infinity before its first.
        scale: Standard deviation of the logarithms before they were standardized.
    """

    runs: list[RunHistory]
    points: Floats
    failed: Floats
    inputs: Inputs
    values: Floats
    lowest: Floats
    scale: float


def observations(
    space: Space,
    histories: Sequence[RunHistory],
    levels: Sequence[int],
    settings: Settings,
) -> Observations:
    """Read the histories of a sweep as observations of a Gaussian process.

    Args:
        space: Of the sweep.
        histories: Of all its runs.
        levels: Epochs at which curves are read, beside their last ones. The last level is the
            full budget, where infeasible runs are observed with a bad value.
        settings: How values are cut and scaled.
    """
    infeasible = [run for run in histories if run.infeasible]
    runs = [run for run in histories if not run.infeasible and (run.running or run.epoch)]
    points, failed = space.encode_all(runs), space.encode_all(infeasible)
    readings = [
        (row, epoch, run.value(epoch))
        for row, run in enumerate(runs)
        for epoch in reading_epochs(run, levels)
    ]
    rows = np.array([row for row, _, _ in readings], dtype=int)
    epochs = np.array([epoch for _, epoch, _ in readings], dtype=int)
    raw = np.array([value for _, _, value in readings], dtype=float)
    values, scale = standardized(raw, epochs, settings)
    lowest = np.full(len(runs), np.inf)
    # per run the readings are in order of epochs: the last one, the lowest, remains
    lowest[rows] = values
    inputs = inputs_at(space, points[rows], epochs, _numbers(runs)[rows])
    if infeasible and readings:
        bad = np.full(len(infeasible), np.quantile(values, settings.infeasible_quantile))
        inputs = inputs.concatenate(inputs_at(space, failed, levels[-1], _numbers(infeasible)))
        values = np.append(values, bad)
    return Observations(runs, points, failed, inputs, values, lowest, scale)


def reading_epochs(run: RunHistory, levels: Sequence[int]) -> list[int]:
    """Epochs at which a run's curve is read: the levels that it has reached, and its last epoch."""
    reached = {level for level in levels if level <= run.epoch}
    return sorted(reached | ({run.epoch} if run.epoch else set()))


def standardized(values: Floats, epochs: Integers, settings: Settings) -> tuple[Floats, float]:
    """(values, scale): logarithms, cut above per epoch, shifted to mean 0 and divided by scale.

    Values that are not all positive are not replaced by their logarithms.
    """
    if not len(values):
        return values, 1.0
    logs = np.log(np.maximum(values, TINY)) if values.min() > 0 else values.copy()
    for epoch in np.unique(epochs):
        at = epochs == epoch
        if at.sum() >= 3:
            middle = np.median(logs[at])
            logs[at] = np.minimum(
                logs[at], middle + settings.max_spreads * (middle - logs[at].min())
            )
    scale = max(float(logs.std()), settings.min_deviation)
    return (logs - logs.mean()) / scale, scale


def inputs_at(
    space: Space, points: Floats, epochs: int | Integers, runs: int | Integers = NO_RUN
) -> Inputs:
    """Points of the unit cube (n, dimensions) at epochs, as inputs of the process."""
    split, n = len(space.numbers), len(points)
    return Inputs(
        points[:, :split],
        points[:, split:],
        np.broadcast_to(epochs, n),
        np.broadcast_to(runs, n),
    )


@dataclass(frozen=True)
class Forecast:
    """Predicted values at full budget, in the units of `Observations.values`.

    Attributes:
        space: Of the sweep.
        full: The full budget in epochs.
        settings: Numbers of the method.
        observations: What the histories say.
        process: Conditioned on them.
    """

    space: Space
    full: int
    settings: Settings
    observations: Observations
    process: Process

    @classmethod
    def of(
        cls,
        space: Space,
        histories: Sequence[RunHistory],
        levels: Sequence[int],
        settings: Settings,
    ) -> "Forecast":
        """The forecast of a sweep; see `observations` for the arguments."""
        seen = observations(space, histories, levels, settings)
        process = Process.fitted(
            seen.inputs, seen.values, settings.max_observations, settings.max_fitted
        )
        return cls(space, levels[-1], settings, seen, process)

    def row(self, number: int) -> int:
        """Row of the run with this number in `observations.runs`."""
        return next(i for i, run in enumerate(self.observations.runs) if run.number == number)

    @cached_property
    def finals(self) -> tuple[Floats, Floats]:
        """(means, standard deviations), each (runs,): value of each run at full budget.

        For a run that was stopped: the value that it would have reached.
        """
        seen = self.observations
        at = inputs_at(self.space, seen.points, self.full, _numbers(seen.runs))
        return self.process.predict(at)

    @cached_property
    def bests(self) -> Floats:
        """(runs,): lowest value that each run has reached or, while it runs, is predicted to."""
        seen = self.observations
        running = np.array([run.running for run in seen.runs], dtype=bool)
        return np.where(running, np.minimum(self.finals[0], seen.lowest), seen.lowest)

    def target(self, exclude: int | None = None) -> float:
        """Target of expected improvement: the best value minus the margin; 0 without any value.

        Args:
            exclude: Row of a run that does not count.
        """
        bests = np.delete(self.bests, [] if exclude is None else exclude)
        if not np.isfinite(bests).any():
            return 0.0
        whole = min(1.0, self.settings.margin_runs / max(1, len(self.observations.runs)))
        return float(bests.min()) - self.settings.margin * whole / self.observations.scale

    @cached_property
    def _with_running_finished(self) -> Process:
        """The process with running runs at their predicted final values (kriging believer)."""
        seen = self.observations
        rows = np.array([i for i, run in enumerate(seen.runs) if run.running], dtype=int)
        at = inputs_at(self.space, seen.points[rows], self.full, _numbers(seen.runs)[rows])
        return self.process.extended(at, self.finals[0][rows])

    def new(self, points: Floats) -> tuple[Floats, Floats]:
        """(means, standard deviations), each (n,), at full budget of points not yet run."""
        return self._with_running_finished.predict(inputs_at(self.space, points, self.full))

    @cached_property
    def _feasibility(self) -> Process | None:
        """A process of labels, 1 for feasible and -1 for infeasible runs; None without the latter.

        Its parameters are the priors' medians: two labels say too little to fit them.
        """
        seen, most = self.observations, self.settings.max_labels
        if not len(seen.failed):
            return None
        failed = seen.failed[-most:]
        reported = np.array([bool(run.epoch) for run in seen.runs], dtype=bool)
        succeeded = seen.points[reported][-most:]
        inputs = inputs_at(self.space, np.concatenate([failed, succeeded]), self.full)
        labels = np.repeat([-1.0, 1.0], [len(failed), len(succeeded)])
        return Process.given(inputs, labels, prior_medians(len(self.space.numbers)))

    def feasible(self, points: Floats) -> Floats:
        """(n,): probability of each point that its run is feasible."""
        if self._feasibility is None:
            return np.ones(len(points))
        mean, deviation = self._feasibility.predict(inputs_at(self.space, points, self.full))
        probability: Floats = ndtr(mean / np.hypot(deviation, self._feasibility.parameters.noise))
        return probability


def _numbers(runs: Sequence[RunHistory]) -> Integers:
    return np.array([run.number for run in runs], dtype=int)

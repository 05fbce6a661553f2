"""Our own search: expected improvement at full budget, from whole learning curves."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from search.forecast import Forecast
from search.gaussian import Floats, expected_improvement
from search.halving import outside_top, rung_at, rungs
from search.history import BUDGET, RunHistory
from search.policies import Seeded
from search.settings import Settings


class Candidate(NamedTuple):
    """A point of the unit cube (dimensions,), and its expected improvement at full budget."""

    point: Floats
    gain: float


@dataclass(frozen=True)
class Multifidelity(Seeded):
    """Expected improvement at full budget by a Gaussian process over all learning curves.

    Proposal: of many random points, the one of the highest expected improvement, weighted by the
    probability that its run is feasible and by the user's priors.

    Early stopping: a run is judged once per rung (1, 3, 9, ... epochs), the first time that it is
    seen there or beyond, because a scheduler may see several epochs at once; and only once, because
    each further look would be one more chance to be unlucky. It stops if both hold:

    - it is outside the `protected_fraction` of its rung;
    - its expected improvement per remaining epoch is below `stop_ratio` of that of a new run per
      epoch of the full budget.

    Attributes:
        settings: The numbers of the method.
    """

    settings: Settings = field(default_factory=Settings)

    @cached_property
    def levels(self) -> list[int]:
        """Rungs in epochs; the last one is the full budget."""
        return rungs(self.first, self.full)

    def forecast(self, histories: Sequence[RunHistory]) -> Forecast:
        """Predicted final values, from these runs and those of the earlier sweep."""
        known = [*self.earlier, *histories]
        return Forecast.of(self.space, known, self.levels, self.settings)

    def propose(self, number: int, histories: Sequence[RunHistory]) -> dict[str, Any]:
        """A run of full budget at the best candidate, or a run of the initial design."""
        random = self.random(number)
        designed = self.settings.initial_runs * (2 if self.space.priors else 1)
        if number + len(self.earlier) < designed:
            point = self.initial_point(number)
        else:
            point = self.best_candidate(self.forecast(histories), random).point
        params = self.space.unused(self.space.decode(point), histories, random)
        return params | {BUDGET: self.full}

    def initial_point(self, number: int) -> Floats:
        """(dimensions,): point of run `number` of the initial design.

        The numbers are at the centre of the cube, then at the medians of the user's priors. The
        categories are as different as possible from those of the points before. Runs at the
        centre come first, so that after one epoch they show whether a prior is wrong.
        """
        chosen = np.zeros((0, len(self.space)))
        for k in range(number + 1):
            draws = self.space.draw(self.random(k), 50)
            at_priors = k >= self.settings.initial_runs
            draws[:, : len(self.space.numbers)] = self.space.center(at_priors)
            farthest = self.space.distances(draws, chosen).argmax()
            chosen = np.vstack([chosen, draws[farthest]])
        last: Floats = chosen[-1]
        return last

    def candidates(self, forecast: Forecast, random: np.random.Generator) -> Floats:
        """(n, dimensions): random points of the whole space and points around the best runs."""
        settings, split = self.settings, len(self.space.numbers)
        points = [self.space.draw(random, settings.candidates)]
        for row in np.argsort(forecast.finals[0], kind="stable")[: settings.local_centers]:
            near = np.tile(forecast.observations.points[row], (settings.local_draws, 1))
            steps = random.normal(0, settings.local_spread, (settings.local_draws, split))
            near[:, :split] = np.clip(near[:, :split] + steps, 0, 1)
            points.append(near)
        return self.space.snap(np.vstack(points))

    def best_candidate(
        self, forecast: Forecast, random: np.random.Generator, exclude: int | None = None
    ) -> Candidate:
        """The candidate of the highest expected improvement.

        Args:
            forecast: Of the sweep.
            random: Draws the candidates.
            exclude: Row of a run whose value does not count in the target.
        """
        points = self.candidates(forecast, random)
        gain = expected_improvement(*forecast.new(points), forecast.target(exclude))
        gain = gain * forecast.feasible(points)
        runs = max(1, len(forecast.observations.runs))
        log_prior = self.space.priors.log_density(points) * self.settings.prior_strength / runs
        best = (gain * np.exp(log_prior)).argmax()
        return Candidate(points[best], float(gain[best]))

    def should_stop(self, run: RunHistory, histories: Sequence[RunHistory]) -> bool:
        """Whether the run is infeasible, or promises too little; see the class."""
        if run.infeasible or run.epoch >= self.full:
            return run.infeasible
        if rung_at(run.epoch, self.levels) == rung_at(run.asked_at, self.levels):
            return False
        if not outside_top(run, histories, self.levels, self.settings.protected_fraction):
            return False
        forecast = self.forecast(histories)
        row = forecast.row(run.number)
        mean, deviation = (part[row] for part in forecast.finals)
        gain = expected_improvement(mean, deviation, forecast.target(exclude=row))
        new = self.best_candidate(forecast, self.random(run.number), exclude=row)
        per_epoch, new_per_epoch = gain / (self.full - run.epoch), new.gain / self.full
        return bool(per_epoch < self.settings.stop_ratio * new_per_epoch)

"""What a search is (`Policy`), and the published searches: TPE, Hyperband and BOHB.

Policies are immutable. Both questions, `propose` and `should_stop`, are pure functions of the run
histories and of the seed, so they may be asked again and after a restart, with the same answers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol

import numpy as np

from search import tpe
from search.halving import brackets, next_budget, outside_top, rungs
from search.history import BUDGET, RunHistory
from search.space import Space
from search.tpe import Score


class Policy(Protocol):
    """A search: proposes the hyperparameters of each run and decides which runs stop early."""

    @property
    def space(self) -> Space:
        """The search space of the sweep."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the sweep; with a run's number, the seed of its proposal."""
        ...

    def propose(self, number: int, histories: Sequence[RunHistory]) -> dict[str, Any]:
        """The searched hyperparameters of run `number`, and its budget as `epochs`."""
        ...

    def should_stop(self, run: RunHistory, histories: Sequence[RunHistory]) -> bool:
        """Whether `run`, one of `histories`, should stop now."""
        ...


PolicyFactory = Callable[[Space, int, Sequence[RunHistory]], Policy]
"""(space, seed, histories of an earlier sweep) -> policy."""


@dataclass(frozen=True)
class Seeded:
    """What all policies here share.

    Attributes:
        space: The search space of the sweep.
        seed: Seed of the sweep.
        earlier: Runs of an earlier sweep. Models learn from them; ranks and brackets ignore them.
    """

    space: Space
    seed: int
    earlier: Sequence[RunHistory] = ()

    @property
    def full(self) -> int:
        """The full budget in epochs."""
        return self.space.full_budget

    @property
    def first(self) -> int:
        """The smallest budget and first rung in epochs: one more than the sweep's warm-up.

        During the warm-up, learning rates are still lower than those that the sweep compares.
        """
        return min(self.full, 1 + int(self.space.fixed.get("warmup_epochs", 0)))

    def random(self, number: int) -> np.random.Generator:
        """The random numbers of the run with this number."""
        return np.random.default_rng([self.seed, number])


@dataclass(frozen=True)
class Tpe(Seeded):
    """Multivariate TPE with the constant liar (Bergstra et al. 2011, as implemented in Optuna).

    Attributes:
        first_rung: First epoch at which asynchronous Successive Halving stops runs; None trains
            all runs to the end.
    """

    STARTUP_RUNS: ClassVar[int] = 10  # random configurations first; the default of Optuna

    first_rung: int | None = None

    @cached_property
    def levels(self) -> list[int]:
        """Rungs in epochs; the last one is the full budget."""
        return [self.full] if self.first_rung is None else rungs(self.first_rung, self.full)

    def propose(self, number: int, histories: Sequence[RunHistory]) -> dict[str, Any]:
        """A run of full budget with the configuration that TPE proposes."""
        random = self.random(number)
        known = [*self.earlier, *histories]
        scores = [Score(run, run.value(self.full), run.epoch) for run in known]
        params = tpe.propose(
            self.space, scores, random, n_startup_trials=self.STARTUP_RUNS, constant_liar=True
        )
        return self.space.unused(params, histories, random) | {BUDGET: self.full}

    def should_stop(self, run: RunHistory, histories: Sequence[RunHistory]) -> bool:
        """Whether the run is outside the top third of its rung."""
        return outside_top(run, histories, self.levels)


@dataclass(frozen=True)
class Hyperband(Seeded):
    """Random configurations in Hyperband's brackets (Li et al. 2018).

    Each run trains the budget of its stage from the start; none is stopped early. A promoted
    configuration is a new run.
    """

    EQUAL_PARTS: ClassVar[bool] = False  # see `brackets`

    def propose(self, number: int, histories: Sequence[RunHistory]) -> dict[str, Any]:
        """The next run of the oldest bracket that does not wait."""
        epochs, promoted = next_budget(
            histories, self.space, brackets(self.full, self.first, equal_parts=self.EQUAL_PARTS)
        )
        random = self.random(number)
        params = promoted or self.space.unused(
            self.configuration(histories, random), histories, random
        )
        return params | {BUDGET: epochs}

    def configuration(
        self, histories: Sequence[RunHistory], random: np.random.Generator
    ) -> dict[str, Any]:
        """A new configuration, drawn at random."""
        return self.space.decode(self.space.draw(random, 1)[0])

    def should_stop(self, run: RunHistory, histories: Sequence[RunHistory]) -> bool:
        """False: the budget of a run is its end."""
        return False


@dataclass(frozen=True)
class Bohb(Hyperband):
    """BOHB: Hyperband whose new configurations come from TPE (Falkner et al. 2018).

    TPE learns from the runs at the largest budget that enough runs have reached.
    """

    EQUAL_PARTS: ClassVar[bool] = True
    RANDOM_FRACTION: ClassVar[float] = 1 / 3  # of new configurations; rho of the paper
    GOOD_FRACTION: ClassVar[float] = 0.15  # of the runs, in the model of good ones; the paper's
    CANDIDATES: ClassVar[int] = 64  # draws from the model of good runs; N_s of the paper

    def configuration(
        self, histories: Sequence[RunHistory], random: np.random.Generator
    ) -> dict[str, Any]:
        """A new configuration from TPE, or at random for lack of runs and by RANDOM_FRACTION."""
        fewest = len(self.space) + 1
        for epochs in reversed(rungs(1, self.full)):
            latest = {
                self.space.key(run.params): run
                for run in [*self.earlier, *histories]
                if run.value(epochs) is not None
            }
            if len(latest) < fewest + 2 or random.random() < self.RANDOM_FRACTION:
                continue
            return tpe.propose(
                self.space,
                [Score(run, run.value(epochs), epochs) for run in latest.values()],
                random,
                n_startup_trials=0,
                gamma=partial(self.good_runs, fewest),
                n_ei_candidates=self.CANDIDATES,
            )
        return super().configuration(histories, random)

    def good_runs(self, fewest: int, count: int) -> int:
        """How many of `count` runs are good; at least `fewest`, and one run is always bad."""
        return min(max(fewest, math.ceil(self.GOOD_FRACTION * count)), count - 1)

"""Budgets: Successive Halving's rungs and Hyperband's brackets, as functions of run histories.

Asynchronous Successive Halving: Li et al. 2020, A System for Massively Parallel Hyperparameter
Tuning. Hyperband: Li et al. 2018, Algorithm 1. Brackets overlap as in BOHB (Falkner et al. 2018):
while one waits for its runs, the next one starts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from search.history import RunHistory
from search.space import Space

ETA = 3  # budgets grow by this factor from rung to rung; the value of both papers


def rungs(first: int, full: int, eta: int = ETA) -> list[int]:
    """Epochs at which runs are compared: first, first * eta, ... below `full`, then `full`."""
    levels = []
    while first < full:
        levels.append(first)
        first *= eta
    return [*levels, full]


def rung_at(epoch: int, levels: Sequence[int]) -> int:
    """The highest rung up to `epoch`, the full budget (the last level) excluded; 0 for none."""
    return max((level for level in levels[:-1] if level <= epoch), default=0)


def outside_top(
    run: RunHistory,
    histories: Sequence[RunHistory],
    levels: Sequence[int],
    fraction: float = 1 / ETA,
) -> bool:
    """Whether a run is not among the best of the highest rung that it has reached.

    The best are the lowest values at that rung: `fraction` of them, rounded down, at least one.
    The run is compared with the runs that have reached the rung so far (asynchronous). Infeasible
    runs are excluded, because counting them would enlarge the kept set. Equal values are ranked
    by number.

    Args:
        run: The run to judge. An infeasible run is always outside.
        histories: All runs of the sweep, `run` included.
        levels: Rungs in epochs; the last one is the full budget, where nothing is judged.
        fraction: Part of the runs at the rung that is kept.
    """
    rung = rung_at(run.epoch, levels)
    if run.infeasible or not rung:
        return run.infeasible
    feasible = [other for other in histories if not other.infeasible]
    reached = sorted(
        (value, other.number) for other in feasible if (value := other.value(rung)) is not None
    )
    count = max(1, math.floor(fraction * len(reached) + 1e-9))  # 1/3 of 3 is 1, whatever its float
    return (run.value(rung), run.number) not in reached[:count]


class Stage(NamedTuple):
    """One stage of a bracket: how many runs it holds, and how many epochs each trains."""

    size: int
    epochs: int


Plan = list[list[Stage]]
"""The stages of each bracket; the bracket with the most runs comes first."""


class NextRun(NamedTuple):
    """Budget in epochs of the next run, and the configuration to promote; None for a new one."""

    epochs: int
    params: dict[str, Any] | None


def brackets(full: int, first: int = 1, eta: int = ETA, equal_parts: bool = False) -> Plan:
    """Hyperband's brackets for a full budget in epochs.

    Args:
        full: Budget of the last stage of each bracket.
        first: Lower limit of all budgets.
        eta: Factor between the budgets, and between the run counts, of two stages.
        equal_parts: The papers start bracket s with ceil((s_max + 1) / (s + 1) * eta**s) runs.
            True rounds the fraction down first, as in hpbandster, the code of BOHB's authors:
            then each stage has exactly 1 / eta of the runs of the one before.
    """
    most = int(round(math.log(full / first, eta), 9) // 1)
    plan = []
    for s in range(most, -1, -1):
        share = (most + 1) / (s + 1)
        count = math.floor(share) * eta**s if equal_parts else math.ceil(share * eta**s - 1e-9)
        plan.append(
            [Stage(count // eta**i, max(1, round(full * eta ** (i - s)))) for i in range(s + 1)]
        )
    return plan


@dataclass
class Bracket:
    """One bracket in progress: its stages, each with another budget, and the runs of each."""

    stages: list[Stage]
    space: Space
    runs: list[list[RunHistory]] = field(init=False)
    stage_of: dict[int, int] = field(init=False)  # budget in epochs -> index of its stage

    def __post_init__(self) -> None:
        self.runs = [[] for _ in self.stages]
        self.stage_of = {stage.epochs: i for i, stage in enumerate(self.stages)}

    def assign(self, run: RunHistory) -> bool:
        """Assign a run to the stage of its budget; False if there is none, or if it is full.

        Beyond the first stage, the configuration must come from the stage before.
        """
        i = self.stage_of.get(run.budget)
        if i is None or len(self.runs[i]) == self.stages[i].size:
            return False
        if i and not self._has_configuration(i - 1, run):
            return False
        self.runs[i].append(run)
        return True

    def next_run(self) -> NextRun | None:
        """The next run of the first stage that lacks one; None while that stage must wait."""
        for i, stage in enumerate(self.stages):
            if len(self.runs[i]) == stage.size:
                continue
            if i == 0:
                return NextRun(stage.epochs, None)
            before, earlier = self.runs[i - 1], self.stages[i - 1]
            if any(run.running for run in before):
                return None
            best = sorted(before, key=lambda run: _rank(run, earlier.epochs))[: stage.size]
            promoted = next(run for run in best if not self._has_configuration(i, run))
            return NextRun(stage.epochs, dict(promoted.params))
        return None

    def _has_configuration(self, stage: int, run: RunHistory) -> bool:
        key = self.space.key
        return any(key(other.params) == key(run.params) for other in self.runs[stage])


def _rank(run: RunHistory, epochs: int) -> tuple[float, int]:
    """Sort key: runs that ended before their budget come last, with the infeasible ones."""
    value = run.value(epochs)
    return (math.inf if value is None else value, run.number)


def next_budget(histories: Sequence[RunHistory], space: Space, plan: Plan) -> NextRun:
    """The next run of Hyperband, whose brackets repeat `plan`.

    No state is kept. The brackets are reconstructed from the histories: a run with the budget of
    a later stage and a configuration of the stage before was promoted; any other run fills the
    first stage of a bracket. Runs with a budget that the plan does not know are ignored.
    """
    opened: list[Bracket] = []

    def bracket(k: int) -> Bracket:
        while len(opened) <= k:
            opened.append(Bracket(plan[len(opened) % len(plan)], space))
        return opened[k]

    budgets = {stage.epochs for stages in plan for stage in stages}
    for run in histories:
        k = 0
        while run.budget in budgets and not bracket(k).assign(run):
            k += 1
    k = 0
    while (proposal := bracket(k).next_run()) is None:
        k += 1
    return proposal

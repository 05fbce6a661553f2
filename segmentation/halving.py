"""Budgets: which epoch a run may reach. Successive halving and Hyperband's brackets, as functions of the records.

Asynchronous successive halving: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning.
Hyperband: Li et al. 2018, Algorithm 1; brackets overlap as in BOHB (Falkner et al. 2018): while one waits, the next begins.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from segmentation.trials import Record, Space

ETA = 3  # what both papers use


def rungs(first: int, full: int, eta: int = ETA) -> list[int]:
    """first, first * eta, ... below `full`, then `full`: the epochs at which runs are compared."""
    steps = [first * eta**i for i in range(64) if first * eta**i < full]
    return [*steps, full]


def rung_of(run: Record, levels: list[int]) -> int:
    """The highest rung below the full budget, the last level, that a run has reached; 0 before the first."""
    return max((level for level in levels[:-1] if level <= run.epoch), default=0)


def falls_behind(run: Record, records: list[Record], levels: list[int], eta: int = ETA) -> bool:
    """Whether a run is outside the best 1 / eta (at least one run) of those that reached the highest rung below its epoch.

    Asynchronous: compared with whoever is there; a run that diverged is nowhere, else it would lift a worse one over the bar.
    Equal values are ranked by number, so exactly one order exists.
    """
    rung = rung_of(run, levels)
    if run.infeasible or not rung:
        return run.infeasible
    alive = [other for other in records if not other.infeasible]
    reached = [(value, other.number) for other in alive if (value := other.value(rung)) is not None]
    kept = sorted(reached)[: max(1, len(reached) // eta)]
    return (run.value(rung), run.number) not in kept


Plan = list[
    list[tuple[int, int]]
]  # brackets, the most exploring first; each a list of stages (configurations, epochs)


def brackets(full: int, eta: int = ETA, whole: bool = False) -> Plan:
    """Hyperband's brackets. The papers begin one with ceil((s_max + 1) / (s + 1) eta^s) configurations; `whole` rounds the
    fraction down first, as hpbandster does, the code of BOHB's authors: then every stage is the eta-th part of the one before."""
    most = round(math.log(full, eta), 9) // 1
    found = []
    for s in range(int(most), -1, -1):
        share = (most + 1) / (s + 1)
        count = math.floor(share) * eta**s if whole else math.ceil(share * eta**s - 1e-9)
        found.append(
            [(count // eta**i, max(1, round(full * eta ** (i - s)))) for i in range(s + 1)]
        )
    return found


@dataclass
class Bracket:
    """One bracket under way: its stages (configurations, epochs) and the runs of each."""

    stages: list[tuple[int, int]]
    runs: list[list[Record]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runs = [[] for _ in self.stages]

    def takes(self, run: Record, space: Space) -> bool:
        """Puts a run where it belongs; False if it does not belong here."""
        for i, (count, epochs) in enumerate(self.stages):
            if epochs != run.budget or len(self.runs[i]) >= count:
                continue
            if i == 0 or _holds(self.runs[i - 1], run, space):
                self.runs[i].append(run)
                return True
        return False

    def vacancy(self, space: Space) -> tuple[int, Record | None] | None:
        """(epochs, the run whose configuration goes on, or None for a new one) of the next run; None while it must wait."""
        for i, (count, epochs) in enumerate(self.stages):
            if len(self.runs[i]) < count:
                if i == 0:
                    return epochs, None
                before, waits = self.runs[i - 1], any(run.running for run in self.runs[i - 1])
                if waits or len(before) < self.stages[i - 1][0]:
                    return None
                best = sorted(before, key=lambda run: _rank(run, self.stages[i - 1][1]))[:count]
                return epochs, next(run for run in best if not _holds(self.runs[i], run, space))
        return None


def _holds(runs: list[Record], run: Record, space: Space) -> bool:
    return any(space.key(other.params) == space.key(run.params) for other in runs)


def _rank(run: Record, epochs: int) -> tuple[float, int]:
    """Runs that were lost before their budget come last, with those that diverged."""
    value = run.value(epochs)
    return (math.inf if value is None else value, run.number)


def next_budget(
    records: list[Record], space: Space, plan: Plan
) -> tuple[int, dict[str, Any] | None]:
    """(epochs, configuration to go on with, or None for a new one): the next run of Hyperband with the brackets of `plan`.

    The brackets are read off the records: a run with the epochs of a later stage and a configuration of the stage before it
    was promoted, any other opens or fills a bracket's first stage.
    """
    open_brackets = []

    def bracket(k: int) -> Bracket:
        while len(open_brackets) <= k:
            open_brackets.append(Bracket(plan[len(open_brackets) % len(plan)]))
        return open_brackets[k]

    known = {stages[0][1] for stages in plan} | {epochs for stages in plan for _, epochs in stages}
    for run in records:
        k = 0
        while run.budget in known and not bracket(k).takes(run, space):
            k += 1
    k = 0
    while (vacancy := bracket(k).vacancy(space)) is None:
        k += 1
    epochs, run = vacancy
    return epochs, None if run is None else dict(run.params)

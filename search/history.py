"""Run histories: what a search knows about the runs of a sweep.

Histories are immutable. Proposals and decisions to stop are pure functions of them, so a search
resumes after a restart from what the server holds, and the order in which runs report does not
matter.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.trial import FrozenTrial, TrialState

from segmentation.config import OBJECTIVE, WORST, Config

BUDGET = "epochs"  # the hyperparameter that is a run's budget

Configuration = Mapping[str, Any]
"""Hyperparameter name -> value."""


class WandbRun(Protocol):
    """The part of `wandb.apis.public.Run` that is read here."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    def scan_history(self, keys: list[str]) -> Iterable[Mapping[str, Any]]: ...


@dataclass(frozen=True)
class RunHistory:
    """One run as a search sees it: configuration, budget, curve and status.

    Attributes:
        number: Position in the sweep, from 0. It breaks ties between equal values.
        params: Searched hyperparameters, without the budget.
        budget: Epochs that the run may train.
        curve: Epoch (from 1) -> objective. Holds only feasible values, see `infeasible`.
        running: Whether the run has been proposed and has not ended.
        infeasible: Whether the run reported the worst value of its loss or a value that is not
            finite. `train.py` reports the worst value when a run ends before its first epoch does.
        asked_at: Epoch at which the search was last asked whether to stop the run; 0 for never.
    """

    number: int
    params: Configuration
    budget: int
    curve: Mapping[int, float] = field(default_factory=dict)
    running: bool = False
    infeasible: bool = False
    asked_at: int = 0

    @classmethod
    def from_trial(
        cls, trial: FrozenTrial, full: int, worst: float, asked_at: int = 0
    ) -> "RunHistory":
        """The history of an Optuna trial.

        Args:
            trial: Its intermediate values are the curve.
            full: Budget in epochs of a trial whose parameters hold none.
            worst: Objective from which on a value marks the run as infeasible.
            asked_at: See the attribute.
        """
        curve = _feasible(trial.intermediate_values, worst)
        return cls(
            number=trial.number,
            params={name: value for name, value in trial.params.items() if name != BUDGET},
            budget=int(trial.params.get(BUDGET, full)),
            curve=curve,
            running=trial.state == TrialState.RUNNING,
            infeasible=len(curve) < len(trial.intermediate_values),
            asked_at=asked_at,
        )

    @classmethod
    def from_wandb(
        cls, run: WandbRun, number: int, params: Configuration, worst: float
    ) -> "RunHistory":
        """The history of a W&B run, whose budget is the last epoch that it reported."""
        rows = run.scan_history(keys=["epoch", OBJECTIVE])
        values = {int(row["epoch"]): float(row[OBJECTIVE]) for row in rows}
        curve = _feasible(values, worst)
        budget, infeasible = max(values, default=1), len(curve) < len(values)
        return cls(number, params, budget, curve, infeasible=infeasible)

    @property
    def epoch(self) -> int:
        """Last epoch reported; 0 before the first."""
        return max(self.curve, default=0)

    def value(self, epoch: int) -> float | None:
        """Lowest objective up to `epoch`; None if the run has not reached it, inf if infeasible."""
        if self.infeasible:
            return math.inf
        if self.epoch < epoch:
            return None
        return min((value for at, value in self.curve.items() if at <= epoch), default=None)


def worst_objective(constants: Mapping[str, Any]) -> float:
    """The worst value of the objective in a sweep, by the loss among its constant parameters."""
    return WORST[constants.get("loss", Config().loss)]


def _feasible(values: Mapping[int, float], worst: float) -> dict[int, float]:
    """The values below `worst`; NaN is dropped too."""
    return {epoch: value for epoch, value in values.items() if value < worst}

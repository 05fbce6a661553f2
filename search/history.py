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
        curve: Epoch (from 1) -> objective. Holds only values below the worst one.
        running: Whether the run has been proposed and has not ended.
        infeasible: Whether the last value is not finite, or is the worst one and the run has ended.
            `train.py` reports the worst value when a run ends before its first epoch does. A
            running run may report it too: while it predicts no class right, its error is 1.
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
            worst: The worst value of the objective, see `worst_objective`.
            asked_at: See the attribute.
        """
        values, running = trial.intermediate_values, trial.state == TrialState.RUNNING
        return cls(
            number=trial.number,
            params={name: value for name, value in trial.params.items() if name != BUDGET},
            budget=int(trial.params.get(BUDGET, full)),
            curve=_feasible(values, worst),
            running=running,
            infeasible=_is_infeasible(values, worst, running),
            asked_at=asked_at,
        )

    @classmethod
    def from_wandb(
        cls, run: WandbRun, number: int, params: Configuration, objective: str, worst: float
    ) -> "RunHistory":
        """The history of a W&B run that has ended.

        Args:
            run: Its budget is the last epoch that it reported.
            number: See the attribute.
            params: See the attribute.
            objective: Name of the objective in the run's rows.
            worst: The worst value of the objective, see `worst_objective`.
        """
        rows = run.scan_history(keys=["epoch", objective])
        values = {int(row["epoch"]): float(row[objective]) for row in rows}
        infeasible = _is_infeasible(values, worst, running=False)
        budget = max(values, default=1)
        return cls(number, params, budget, _feasible(values, worst), infeasible=infeasible)

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


def objective_of(sweep_config: Mapping[str, Any]) -> str:
    """Name of the metric that a sweep minimises: its objective."""
    return str((sweep_config.get("metric") or {}).get("name", OBJECTIVE))


def worst_objective(objective: str, constants: Mapping[str, Any]) -> float:
    """The worst value of a sweep's objective, which a run without any result reports.

    Args:
        objective: Name of the sweep's metric. Any metric can be minimised; one that is not in
            OBJECTIVES has no worst value, so infinity is returned.
        constants: The sweep's constant parameters. The loss among them limits `best_val_loss`.
    """
    loss = constants.get("loss", Config().loss)
    return {"best_val_loss": WORST[loss], "best_val_error": 1.0}.get(objective, math.inf)


def _feasible(values: Mapping[int, float], worst: float) -> dict[int, float]:
    """The values below `worst`; NaN is dropped too."""
    return {epoch: value for epoch, value in values.items() if value < worst}


def _is_infeasible(values: Mapping[int, float], worst: float, running: bool) -> bool:
    """See the attribute `infeasible`. False without values."""
    if not values:
        return False
    last = values[max(values)]
    return not math.isfinite(last) or (last >= worst and not running)

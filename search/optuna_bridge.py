"""A policy as an Optuna study, which `wandb sweep-scheduler` drives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial

from search.history import BUDGET, RunHistory, worst_objective
from search.policies import Policy


@dataclass
class Reader:
    """Reads the trials of a study as run histories.

    Attributes:
        full: Budget in epochs of a trial whose parameters hold none.
        worst: The worst value of the sweep's objective.
        asked_at: Trial number -> epoch at which the policy was last asked whether to stop the run.
            Kept here so that policies hold no state. It is lost in a restart; the runs in progress
            are then judged once more.
    """

    full: int
    worst: float
    asked_at: dict[int, int] = field(default_factory=dict)

    def history(self, trial: FrozenTrial) -> RunHistory:
        """The history of one trial."""
        asked_at = self.asked_at.get(trial.number, 0)
        return RunHistory.from_trial(trial, self.full, self.worst, asked_at)

    def histories(self, study: optuna.Study) -> list[RunHistory]:
        """The histories of all trials, by number."""
        return [self.history(trial) for trial in study.get_trials(deepcopy=False)]


class PolicySampler(optuna.samplers.BaseSampler):
    """A policy as Optuna's sampler."""

    def __init__(self, policy: Policy, reader: Reader):
        self.policy, self.reader = policy, reader
        self.independent = optuna.samplers.RandomSampler(policy.seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The searched parameters and the budget."""
        return self.policy.space.distributions | {BUDGET: IntDistribution(1, self.reader.full)}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """The policy's proposal; nothing for a run that the server already holds."""
        if set(self.policy.space.distributions) <= set(trial.system_attrs.get("fixed_params", ())):
            return {}
        histories = self.reader.histories(study)
        others = [run for run in histories if run.number != trial.number]
        return self.policy.propose(trial.number, others)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value, for a parameter that an existing run lacks."""
        return self.independent.sample_independent(study, trial, param_name, param_distribution)


class PolicyPruner(optuna.pruners.BasePruner):
    """A policy as Optuna's pruner."""

    def __init__(self, policy: Policy, reader: Reader):
        self.policy, self.reader = policy, reader

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the policy stops the trial before its budget is spent."""
        run = self.reader.history(trial)
        if run.epoch >= run.budget:
            return False
        stop = self.policy.should_stop(run, self.reader.histories(study))
        self.reader.asked_at[run.number] = run.epoch
        return stop


def make_study(policy: Policy, objective: str) -> optuna.Study:
    """An empty study that minimises `objective`; the policy proposes and stops its runs."""
    reader = Reader(policy.space.full_budget, worst_objective(objective, policy.space.fixed))
    return optuna.create_study(
        direction="minimize",
        sampler=PolicySampler(policy, reader),
        pruner=PolicyPruner(policy, reader),
    )


def search_space(trial: optuna.Trial) -> Mapping[str, Any]:
    """All parameters of a trial's run, constants included.

    W&B first calls this on a trial of a separate empty study, to check the returned type. That
    study has another sampler, and the answer is empty.
    """
    sampler = trial.study.sampler
    return sampler.policy.space.suggest(trial) if isinstance(sampler, PolicySampler) else {}

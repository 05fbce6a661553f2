"""How much of the objective's variance each hyperparameter explains, by Optuna's fANOVA."""

import math
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from analysis.runs import Run, Sweep
from segmentation.errors import UserError

MIN_RUNS = 10  # with fewer runs, the random forest of fANOVA depends mostly on chance
SEED = 0
LOG_RATIO = 10  # largest value / smallest value from which fANOVA sees a number on a log scale


def importances(sweep: Sweep) -> tuple[dict[str, float], int]:
    """Hyperparameter -> fraction of the variance, largest first; and the number of runs.

    Finished and stopped runs count, each with its last objective. Runs that diverged do not: their
    worst value would explain nearly all of the variance.

    Raises:
        UserError: There are too few runs, they do not differ, or Optuna is not installed.
    """
    used = [
        run
        for run in sweep.runs
        if run.outcome in ("finished", "stopped") and math.isfinite(sweep.value(run))
    ]
    names = [
        name
        for name in sweep.varied()
        if len({str(run.hyperparameters.get(name)) for run in used}) > 1
    ]
    if len(used) < MIN_RUNS or not names:
        raise UserError(
            f"importance of the hyperparameters: {len(used)} finished or stopped runs that differ "
            f"in {len(names)} hyperparameters are too few for fANOVA; it needs at least {MIN_RUNS} "
            "runs and one hyperparameter"
        )
    values = [sweep.value(run) for run in used]
    if len(set(values)) == 1:
        raise UserError(
            "importance of the hyperparameters: all runs have the same objective, so nothing "
            "explains it"
        )
    shares = _fanova(used, values, names)
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return {name: float(share) for name, share in ordered}, len(used)


def _fanova(
    runs: Sequence[Run], objectives: Sequence[float], names: Sequence[str]
) -> dict[str, float]:
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "importance of the hyperparameters needs Optuna: pip install 'aerial-sweeps[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fANOVA warns that it is experimental
        study = optuna.create_study()
        study.add_trials(_trials(optuna, runs, objectives, names))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=SEED)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _trials(
    optuna: ModuleType, runs: Sequence[Run], objectives: Sequence[float], names: Sequence[str]
) -> list[Any]:
    """One optuna.trial.FrozenTrial per run."""
    distributions: dict[str, Any] = {}
    values: dict[str, list[Any]] = {}
    for name in names:
        column = [run.hyperparameters.get(name) for run in runs]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in column):
            values[name] = [float(value) for value in column if value is not None]
            low, high = min(values[name]), max(values[name])
            log = low > 0 and high / low > LOG_RATIO
            distributions[name] = optuna.distributions.FloatDistribution(low, high, log=log)
        else:
            values[name] = [str(value) for value in column]
            choices = sorted(set(values[name]))
            distributions[name] = optuna.distributions.CategoricalDistribution(choices)
    return [
        optuna.trial.create_trial(
            params={name: values[name][i] for name in names},
            distributions=distributions,
            value=objective,
        )
        for i, objective in enumerate(objectives)
    ]

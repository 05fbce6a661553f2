"""How much of the objective's variance each hyperparameter explains, by Optuna's fANOVA."""

import math
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from analysis.runs import Run, Sweep
from segmentation.errors import UserError

MIN_RUNS = 30  # with fewer runs, the random forest of fANOVA depends mostly on chance
SEED = 0
SAMPLES = 10  # of the runs, drawn with replacement (Efron's bootstrap), for the uncertainty
TREES, SAMPLE_TREES = 64, 24  # of a forest; Optuna's default, and fewer for each sample
LOG_RATIO = 10  # largest value / smallest value from which fANOVA sees a number on a log scale


def importances(sweep: Sweep) -> tuple[dict[str, tuple[float, float]], int]:
    """Hyperparameter -> (fraction of the variance, its uncertainty), and the number of runs.

    The largest fraction is first. The uncertainty is the standard deviation over SAMPLES samples
    of the runs.

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
            f"the importance of hyperparameters needs {MIN_RUNS} finished or stopped runs that "
            f"differ in at least one of them; this sweep has {len(used)}, which differ in "
            f"{len(names)}"
        )
    values = [sweep.value(run) for run in used]
    if len(set(values)) == 1:
        raise UserError(
            "importance of the hyperparameters: all runs have the same objective, so nothing "
            "explains it"
        )
    optuna = _optuna()
    trials = _trials(optuna, used, values, names)
    shares = _fanova(optuna, trials, TREES, SEED)
    random = np.random.default_rng(SEED)
    samples = []
    for number in range(1, SAMPLES + 1):
        drawn = random.integers(0, len(trials), len(trials))
        if len({values[i] for i in drawn}) > 1:
            sample = _fanova(optuna, [trials[i] for i in drawn], SAMPLE_TREES, SEED + number)
            samples.append([sample[name] for name in shares])
    errors = np.std(samples, axis=0)
    found = {
        name: (float(share), float(error))
        for (name, share), error in zip(shares.items(), errors, strict=True)
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1][0], item[0]))), len(used)


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "importance of the hyperparameters needs Optuna: pip install 'aerial-sweeps[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _fanova(optuna: ModuleType, trials: Sequence[Any], trees: int, seed: int) -> dict[str, float]:
    """Hyperparameter -> fraction of the variance, by one forest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fANOVA warns that it is experimental
        study = optuna.create_study()
        study.add_trials(trials)
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=trees, seed=seed)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


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

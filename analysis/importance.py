"""How much of the objective's variance each hyperparameter explains: Optuna's fANOVA over the runs of a sweep."""

import warnings

from analysis.records import Run, Sweep
from segmentation.errors import UserError

FEWEST = 10  # runs below which a forest over them says nothing
SEED = 0


def importances(sweep: Sweep) -> tuple[dict[str, float], int]:
    """Hyperparameter -> share of variance, largest first; and the number of runs. UserError where there are too few.

    Finished and stopped runs count, with the last objective each: a diverged run's worst value would explain all variance.
    """
    used = [
        run
        for run in sweep.runs
        if run.outcome in ("finished", "stopped") and run.objective == run.objective
    ]
    names = [
        name for name in sweep.varied() if len({str(run.config.get(name)) for run in used}) > 1
    ]
    if len(used) < FEWEST or not names:
        raise UserError(
            f"importance of the hyperparameters: {len(used)} finished or stopped runs that differ in {len(names)} of them are "
            f"too few for fANOVA; it needs at least {FEWEST} runs and one hyperparameter"
        )
    if len({run.objective for run in used}) == 1:
        raise UserError(
            "importance of the hyperparameters: all runs have the same objective, so nothing explains it"
        )
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "importance of the hyperparameters needs Optuna: pip install 'aerial-sweeps[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its modules announce that they are experimental
        study = optuna.create_study()
        study.add_trials(_trials(optuna, used, names))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=SEED)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return dict(
        sorted(
            ((name, float(share)) for name, share in shares.items()),
            key=lambda item: (-item[1], item[0]),
        )
    ), len(used)


def _trials(optuna, used: list[Run], names: list[str]) -> list:
    distributions, values = {}, {}
    for name in names:
        column = [run.config.get(name) for run in used]
        numeric = all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in column
        )
        values[name] = [float(value) if numeric else str(value) for value in column]
        low, high = min(values[name]), max(values[name])
        if numeric:
            distributions[name] = optuna.distributions.FloatDistribution(
                low, high, log=low > 0 and high / low > 10
            )
        else:
            distributions[name] = optuna.distributions.CategoricalDistribution(
                sorted(set(values[name]))
            )
    return [
        optuna.trial.create_trial(
            params={name: values[name][i] for name in names},
            distributions=distributions,
            value=float(run.objective),
        )
        for i, run in enumerate(used)
    ]

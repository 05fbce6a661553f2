"""Searches as engines of the replay clock: ours, W&B's `sweeps`, Optuna's own, and any in another process."""

import contextlib
import json
import math
import os
import random
import subprocess
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from wandb.sdk.sweeps.sweep_info import SweepInfo

import studies
from benchmarks.replay import peers
from benchmarks.replay.tasks import FULL, SPACE, Synthetic
from search.optuna_bridge import search_space
from segmentation.config import OBJECTIVE

ENVIRONMENT = {  # of another process: it repeats exactly, and its matrices are too small for threads
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", message="Valid config keys have changed in V2")


class OptunaEngine:
    """An Optuna study, asked and told as `wandb sweep-scheduler` does it."""

    def __init__(self, study: optuna.Study, suggest: Callable[[optuna.Trial], dict[str, Any]]):
        self.study, self.suggest, self.trials = study, suggest, {}

    def ask(self):
        trial = self.study.ask()
        params = self.suggest(trial)
        self.trials[str(trial.number)] = trial
        return str(trial.number), params, params["epochs"]

    def report(self, key, epoch, value):
        self.trials[key].report(value, step=epoch)
        self.value = value
        return self.trials[key].should_prune()

    def ended(self, key, status):
        trial = self.trials.pop(key)
        if status == "stopped":
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, self.value)


class WandbEngine:
    """W&B's own search and early termination, as its service and loopback run them."""

    def __init__(
        self, method: str, seed: int, impute: str | None = None, hyperband: int | None = None
    ):
        """`impute` is what a stopped run counts as (W&B's default: the worst of the sweep); `hyperband` is its `min_iter`.

        A stopped run is told as killed, for that is what the agent does to a script that does not end by itself; for one
        that ends by itself, as ours, it would be finished, and count as what it had reached whatever `impute` says.
        """
        import numpy as np
        import sweeps

        metric = {"name": OBJECTIVE, "goal": "minimize"} | ({"impute": impute} if impute else {})
        config = {"method": method, "metric": metric, "parameters": SPACE}
        config |= (
            {"early_terminate": {"type": "hyperband", "min_iter": hyperband, "eta": 3}}
            if hyperband
            else {}
        )
        self.sweeps, self.config, self.runs = sweeps, sweeps.SweepConfig(config), {}
        self.numpy = np.random
        self.states = np.random.RandomState(seed).get_state(), random.Random(seed).getstate()  # noqa: S311  no secret
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.sweeps.next_run(self.config, [])  # what it imports on its first call draws too

    def ask(self):
        self.numpy.set_state(
            self.states[0]
        )  # the package draws from both global states, which others draw from too
        random.setstate(self.states[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = self.sweeps.next_run(self.config, list(self.runs.values()))
        self.states = self.numpy.get_state(), random.getstate()
        key = str(len(self.runs))
        params = {name: value["value"] for name, value in run.config.items()}
        params = {
            name: value.item() if hasattr(value, "item") else value
            for name, value in params.items()
        }
        self.runs[key] = self.sweeps.SweepRun(
            name=key, config=run.config, state="running", history=[], summary_metrics={}
        )
        return key, params, FULL

    def report(self, key, epoch, value):
        run = self.runs[key]
        run.history.append({OBJECTIVE: value})
        run.summary_metrics = {OBJECTIVE: value}
        if "early_terminate" not in self.config:
            return False
        doomed = self.sweeps.stop_runs(self.config, list(self.runs.values()))
        return key in {other.name for other in doomed}

    def ended(self, key, status):
        self.runs[key].state = "killed" if status == "stopped" else "finished"
        self.runs[key].stopped = status == "stopped"


class ProcessEngine:
    """A search in another process and environment, one line of JSON each way.

    We send {"ask": true} and get {"key", "params", "epochs"}; {"report": key, "epoch", "value"} and get {"stop"};
    {"ended": key, "status"} and get {}. The first line sent is {"space", "seed", "full"}, answered by {}.
    """

    def __init__(self, command: list[str], seed: int):
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT,
        )
        try:
            self._say({"space": SPACE, "seed": seed, "full": FULL})
        except BaseException:
            self.close()
            raise

    def _say(self, message: dict) -> dict:
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args)} ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self):
        answer = self._say({"ask": True})
        return answer["key"], answer["params"], answer["epochs"]

    def report(self, key, epoch, value):
        return self._say({"report": key, "epoch": epoch, "value": value})["stop"]

    def ended(self, key, status):
        self._say({"ended": key, "status": status})

    def close(self) -> None:
        """Ends the process, by force if it does not end by itself."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def peer(name: str, *variant: str) -> Callable[[int], ProcessEngine]:
    """An engine of another package, in the environment that `python -m benchmarks.replay.peers` made for it."""
    return lambda seed: ProcessEngine(peers.command_of(name, *variant), seed)


def ours(
    entry_point: Callable[[SweepInfo], optuna.Study], **options: Any
) -> Callable[[int], OptunaEngine]:
    """An engine of a search of ours, made as `wandb sweep-scheduler` makes it.

    Args:
        entry_point: A function of studies.py.
        options: Beside the seed, what a sweep sets by its constant `search`.
    """

    def engine(seed: int) -> OptunaEngine:
        parameters = SPACE | {studies.OPTIONS: {"value": {"seed": seed} | options}}
        sweep = SweepInfo(
            id="replay",
            name="replay",
            entity="replay",
            project="replay",
            config={"parameters": parameters},
            controller_run_name="",
        )
        return OptunaEngine(entry_point(sweep), search_space)

    return engine


def with_prior(decades: float) -> Callable[[int], OptunaEngine]:
    """`multifidelity` with a prior of the learning rate, on the synthetic task of the seed.

    Args:
        decades: Distance of the prior's median from the best learning rate, towards the middle
            of the range.
    """

    def engine(seed: int) -> OptunaEngine:
        best = min(Synthetic(seed).grid, key=lambda one: one[1][-1])[0]["learning_rate"]
        middle = math.sqrt(SPACE["learning_rate"]["min"] * SPACE["learning_rate"]["max"])
        median = best * 10 ** math.copysign(decades, middle - best)
        beliefs = {"learning_rate": {"median": median, "spread": 2}}
        return ours(studies.multifidelity, beliefs=beliefs)(seed)

    return engine


def native(
    sampler: Callable[[int], optuna.samplers.BaseSampler],
    pruner: Callable[[], optuna.pruners.BasePruner],
) -> Callable:
    """An engine of Optuna's own parts, as its users put them together."""

    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        return {
            "batch_size": trial.suggest_int("batch_size", 1, 32, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 0.1, log=True),
            "activation": trial.suggest_categorical("activation", SPACE["activation"]["values"]),
            "epochs": FULL,
        }

    def engine(seed: int) -> OptunaEngine:
        name = f"seed {seed}"  # Optuna's Hyperband draws brackets by the study's name
        return OptunaEngine(
            optuna.create_study(sampler=sampler(seed), pruner=pruner(), study_name=name), suggest
        )

    return engine


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _sha(first: int) -> Callable[[], optuna.pruners.BasePruner]:
    return partial(optuna.pruners.SuccessiveHalvingPruner, min_resource=first, reduction_factor=3)


HYPERBAND = partial(
    optuna.pruners.HyperbandPruner, min_resource=1, max_resource=FULL, reduction_factor=3
)

PEERS: dict[str, tuple[str, ...]] = {  # name -> the peer and its variant
    "hyperopt tpe": ("hyperopt_tpe",),
    "hpbandster bohb": ("hpbandster_bohb",),
    "nni hyperband": ("nni_hyperband",),
    "smac multifidelity": ("smac_facade", "multifidelity"),
    "smac hpo": ("smac_facade", "hpo"),
    "syne-tune asha": ("syne_tune_scheduler", "asha"),
    "syne-tune mobster": ("syne_tune_scheduler", "mobster"),
    "dehb": ("dehb_search",),
    "optuna gp + asha from 3": ("optuna_gp",),
}

ENGINES: dict[str, Callable[[int], Any]] = {  # name -> seed -> engine
    "ours tpe": ours(studies.tpe),
    "ours tpe_halving": ours(studies.tpe_halving),
    "ours hyperband": ours(studies.hyperband),
    "ours bohb": ours(studies.bohb),
    "ours multifidelity": ours(studies.multifidelity),
    "ours multifidelity, right prior": with_prior(0.0),
    "ours multifidelity, wrong prior": with_prior(1.0),
    "wandb random": lambda seed: WandbEngine("random", seed),
    "wandb random + hyperband": lambda seed: WandbEngine("random", seed, hyperband=3),
    "wandb random + hyperband from 1": lambda seed: WandbEngine("random", seed, hyperband=1),
    "wandb bayes": lambda seed: WandbEngine("bayes", seed),
    "wandb bayes + hyperband": lambda seed: WandbEngine("bayes", seed, hyperband=3),
    "wandb bayes + hyperband, latest": lambda seed: WandbEngine(
        "bayes", seed, "latest", hyperband=3
    ),
    "wandb bayes + hyperband, best": lambda seed: WandbEngine("bayes", seed, "best", hyperband=3),
    "wandb bayes + hyperband from 1, latest": lambda seed: WandbEngine(
        "bayes", seed, "latest", hyperband=1
    ),
    "optuna tpe": native(_tpe, optuna.pruners.NopPruner),
    "optuna tpe + asha from 1": native(_tpe, _sha(1)),
    "optuna tpe + asha from 3": native(_tpe, _sha(3)),
    "optuna tpe + hyperband": native(_tpe, HYPERBAND),
    **{name: peer(*what) for name, what in PEERS.items()},
}

"""Searches as engines of the replay clock: ours, W&B's, Optuna's, and those of other packages."""

import contextlib
import json
import math
import os
import random
import subprocess
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import optuna
from wandb.sdk.sweeps.sweep_info import SweepInfo

import studies
from benchmarks.replay import peers
from benchmarks.replay.tasks import FULL, SPACE, Synthetic
from search.optuna_bridge import search_space
from segmentation.config import OBJECTIVE

# Environment of an engine in another process: results repeat exactly, and no threads, because the
# matrices are too small for them.
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", message="Valid config keys have changed in V2")


class OptunaEngine:
    """An Optuna study, driven by ask and tell as in `wandb sweep-scheduler`."""

    def __init__(self, study: optuna.Study, suggest: Callable[[optuna.Trial], Mapping[str, Any]]):
        self.study, self.suggest = study, suggest
        self.trials: dict[str, optuna.Trial] = {}
        self.value = math.nan

    def ask(self) -> tuple[str, dict[str, Any], int]:
        """See `clock.Engine`."""
        trial = self.study.ask()
        params = dict(self.suggest(trial))
        self.trials[str(trial.number)] = trial
        return str(trial.number), params, params["epochs"]

    def report(self, key: str, epoch: int, value: float) -> bool:
        """See `clock.Engine`."""
        self.trials[key].report(value, step=epoch)
        self.value = value
        return self.trials[key].should_prune()

    def ended(self, key: str, status: str) -> None:
        """See `clock.Engine`."""
        trial = self.trials.pop(key)
        if status == "stopped":
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, self.value)


class WandbEngine:
    """W&B's search and early termination: its package `sweeps`, as its service runs it."""

    def __init__(
        self, method: str, seed: int, impute: str | None = None, hyperband: int | None = None
    ):
        """The engine of a sweep.

        A stopped run is reported as killed: the agent kills a script that does not end when it is
        asked to. A script that does, such as train.py, is reported as finished, and its last value
        counts whatever `impute` says.

        Args:
            method: random or bayes.
            seed: Of both random number generators that the package uses.
            impute: Value of a stopped run for the search; W&B's default is the worst of the sweep.
            hyperband: First epoch at which Hyperband stops runs (`min_iter`); None stops none.
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
        self.sweeps, self.config = sweeps, sweeps.SweepConfig(config)
        self.runs: dict[str, Any] = {}
        self.numpy = np.random
        self.states = np.random.RandomState(seed).get_state(), random.Random(seed).getstate()  # noqa: S311  no secret
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.sweeps.next_run(
                self.config, []
            )  # its imports, at the first call, draw numbers too

    def ask(self) -> tuple[str, dict[str, Any], int]:
        """See `clock.Engine`. The package draws from both global generators, as others do."""
        self.numpy.set_state(self.states[0])
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

    def report(self, key: str, epoch: int, value: float) -> bool:
        """See `clock.Engine`."""
        run = self.runs[key]
        run.history.append({OBJECTIVE: value})
        run.summary_metrics = {OBJECTIVE: value}
        if "early_terminate" not in self.config:
            return False
        stopped = self.sweeps.stop_runs(self.config, list(self.runs.values()))
        return key in {other.name for other in stopped}

    def ended(self, key: str, status: str) -> None:
        """See `clock.Engine`."""
        self.runs[key].state = "killed" if status == "stopped" else "finished"
        self.runs[key].stopped = status == "stopped"


class ProcessEngine:
    """A search in another process and environment: one line of JSON per message and answer.

    {"space", "seed", "full"}           -> {}                            the first message
    {"ask": true}                       -> {"key", "params", "epochs"}
    {"report": key, "epoch", "value"}   -> {"stop"}
    {"ended": key, "status"}            -> {}
    """

    def __init__(self, command: list[str], seed: int):
        self.command = command
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT,
        )
        assert self.process.stdin and self.process.stdout  # both are pipes
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        try:
            self._exchange({"space": SPACE, "seed": seed, "full": FULL})
        except BaseException:
            self.close()
            raise

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and return its answer; RuntimeError if the process has ended."""
        try:
            self._stdin.write(json.dumps(message) + "\n")
            self._stdin.flush()
            line = self._stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{' '.join(self.command)} ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self) -> tuple[str, dict[str, Any], int]:
        """See `clock.Engine`."""
        answer = self._exchange({"ask": True})
        return answer["key"], answer["params"], answer["epochs"]

    def report(self, key: str, epoch: int, value: float) -> bool:
        """See `clock.Engine`."""
        return bool(self._exchange({"report": key, "epoch": epoch, "value": value})["stop"])

    def ended(self, key: str, status: str) -> None:
        """See `clock.Engine`."""
        self._exchange({"ended": key, "status": status})

    def close(self) -> None:
        """End the process; kill it if it has not ended after 10 s."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._stdout.close()


def peer(name: str, *variant: str) -> Callable[[int], ProcessEngine]:
    """An engine of another package, in the environment of its peer (`benchmarks.replay.peers`)."""
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
) -> Callable[[int], OptunaEngine]:
    """An engine of Optuna's own sampler and pruner, as its users combine them."""

    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        return {
            "batch_size": trial.suggest_int("batch_size", 1, 32, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 0.1, log=True),
            "activation": trial.suggest_categorical("activation", SPACE["activation"]["values"]),
            "epochs": FULL,
        }

    def engine(seed: int) -> OptunaEngine:
        name = f"seed {seed}"  # Optuna's Hyperband assigns brackets by the study's name
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

# Engine of another package -> (its peer, variants).
PEERS: dict[str, tuple[str, ...]] = {
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

# Name -> function from a seed to an engine.
ENGINES: dict[str, Callable[[int], Any]] = {
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

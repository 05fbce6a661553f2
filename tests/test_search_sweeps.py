"""Every search of sweeps/ as a real sweep with few runs of few epochs.

The unmodified `wandb sweep-scheduler` and two agents run against our server. Our own search trains
with train.py on tiny data; the other sweeps run QUICK in its place, because a search sees only the
rows that a run logs, and each start of TensorFlow costs seconds.
"""

import collections
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from loopback_helpers import wait_for
from project_helpers import FEW_STEPS, NARROW, ROOT

import studies
from search.halving import brackets
from segmentation.config import OBJECTIVE

SHRUNK = {  # search -> (largest budget in epochs, runs)
    "tpe": (2, 2),
    "tpe_halving": (4, 2),
    "hyperband": (3, 6),
    "bohb": (3, 6),
    "multifidelity": (3, 5),  # four of the initial design, one of the model
}

QUICK = f"""
import math
from dataclasses import fields
import wandb
from segmentation.config import Config

with wandb.init() as run:
    names = [field.name for field in fields(Config) if field.name in run.config]
    config = Config(**{{name: run.config[name] for name in names}})
    for epoch in range(1, config.epochs + 1):
        loss = abs(math.log(config.learning_rate / 0.001)) + 1 / epoch
        run.log({{"epoch": epoch, "{OBJECTIVE}": loss}}, step=epoch)
"""


class Sweep:
    """A sweep of sweeps/ with few runs of few epochs, its scheduler and its two agents.

    The project is copied into a folder, so that nothing else is on any path.
    """

    def __init__(self, served, folder, name, data):
        self.served, self.folder, self.schedulers = served, folder, 0
        epochs, runs = SHRUNK[name]
        config = yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text()) | {"run_cap": runs}
        config["parameters"]["epochs"] = {"value": epochs}
        # Above this rate a run may diverge, and not train its budget.
        config["parameters"]["learning_rate"]["max"] = 0.003
        folder.mkdir()
        for file in ("train.py", "studies.py"):
            shutil.copy(ROOT / file, folder)
        for package in ("segmentation", "search"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, folder / package, ignore=ignored)
        if name == "multifidelity":
            config["parameters"]["filters"] = {"value": NARROW}
        else:
            (folder / "train.py").write_text(QUICK)
        self.path = served.sweep(yaml.safe_dump(config), folder)
        self.start_scheduler()
        self.agents = [
            served.agent(self.path, folder, poll=0.5, AERIAL_DATA=str(data), **FEW_STEPS)
            for _ in range(2)
        ]

    def start_scheduler(self) -> None:
        """Start it as a user does: from the project's folder, with no PYTHONPATH."""
        self.schedulers += 1
        log = (self.folder / f"scheduler-{self.schedulers}.log").open("w")
        command = [
            "wandb",
            "sweep-scheduler",
            "--batch-size",
            "1",
            "--poll-interval",
            "1",
            self.path,
        ]
        environment = self.served.environment(PYTHONPATH="")
        self.scheduler = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=log, stderr=log
        )

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def wait(self) -> dict:
        """Wait for agents and scheduler to end; the state of the sweep."""
        assert [agent.wait(500) for agent in self.agents] == [0, 0], self.log()
        assert self.scheduler.wait(60) == 0, self.log()
        return self.served.state(self.path)

    def kill(self) -> None:
        for process in [self.scheduler, *self.agents]:
            process.kill()


@pytest.fixture(scope="module")
def ended(served, tiny_set, tmp_path_factory):
    """name -> (state of the sweep, Sweep). All run at once.

    The scheduler of `multifidelity` is killed while a run trains, and started again.
    """
    folder = tmp_path_factory.mktemp("searches")
    sweeps = {name: Sweep(served, folder / name, name, tiny_set) for name in SHRUNK}
    try:
        ours = sweeps["multifidelity"]
        wait_for(
            lambda: any(run["state"] == "running" for run in served.state(ours.path)["runs"]), 120
        )
        ours.scheduler.kill()
        ours.scheduler.wait()
        ours.start_scheduler()
        yield {name: (sweep.wait(), sweep) for name, sweep in sweeps.items()}
    finally:
        for sweep in sweeps.values():
            sweep.kill()


def config_of(run: dict) -> dict:
    return {
        name: cell["value"] for name, cell in json.loads(run["config"]).items() if name != "_wandb"
    }


@pytest.mark.parametrize("name", SHRUNK)
def test_a_real_sweep_finishes_with_all_its_runs_and_no_configuration_twice(ended, name):
    state, sweep = ended[name]
    assert state["state"] == "FINISHED" and len(state["runs"]) == SHRUNK[name][1]
    assert {run["state"] for run in state["runs"]} <= {"finished", "killed"}, sweep.log()
    assert all(OBJECTIVE in run["summaryMetrics"] for run in state["runs"])
    asked = [tuple(sorted((k, str(v)) for k, v in config_of(run).items())) for run in state["runs"]]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("name", ["hyperband", "bohb"])
def test_runs_train_the_budgets_of_their_brackets(ended, name):
    runs = ended[name][0]["runs"]
    planned = collections.Counter()
    for stages in brackets(SHRUNK[name][0], equal_parts=name == "bohb"):
        planned.update({epochs: count for count, epochs in stages})
    assert collections.Counter(config_of(run)["epochs"] for run in runs) == planned
    assert all(run["historyLineCount"] == config_of(run)["epochs"] for run in runs)
    rate = {
        epochs: {config_of(r)["learning_rate"] for r in runs if config_of(r)["epochs"] == epochs}
        for epochs in (1, 3)
    }
    assert len(rate[1] & rate[3]) == 1  # the promoted configuration


def test_a_killed_scheduler_resumes_without_losing_or_repeating_a_run(ended):
    state, sweep = ended["multifidelity"]
    assert sweep.schedulers == 2 and len(state["runs"]) == SHRUNK["multifidelity"][1]
    second = (sweep.folder / "scheduler-2.log").read_text()
    assert (
        "loaded as" in second and "rejected" not in second and "failed to record" not in second
    ), second


def test_a_warm_start_reads_the_runs_of_an_earlier_sweep_from_the_server(ended, api):
    """The study is made as W&B's scheduler makes it, here of a sweep with `warm_start`."""
    state, before = ended["tpe_halving"]
    config = yaml.safe_load((ROOT / "sweeps" / "multifidelity.yaml").read_text())
    config["parameters"][studies.OPTIONS] = {"value": {"warm_start": before.path}}
    known = studies.multifidelity(SimpleNamespace(config=config)).sampler.policy.earlier
    assert {run.params["learning_rate"] for run in known} == {
        config_of(run)["learning_rate"] for run in state["runs"]
    }
    assert sorted(run.epoch for run in known) == sorted(
        run["historyLineCount"] for run in state["runs"]
    )


@pytest.mark.parametrize("where", ["the project's folder", "another folder"])
def test_wandb_loads_studies_where_nothing_is_on_the_path(where, tmp_path):
    """W&B loads `source` by its path, from a console script; -P keeps the folder off sys.path."""
    inside = where == "the project's folder"
    source = "studies.py" if inside else str(ROOT / "studies.py")
    code = (
        "from wandb.sdk.sweeps.scheduler.client import load_source_object as load;"
        f"print(load({source!r}, 'tpe'))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=ROOT if inside else tmp_path,
        env={"PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

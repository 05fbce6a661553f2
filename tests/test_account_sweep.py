"""Sweeps of a W&B account that run on several machines, and a report made on a third one."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from account_helpers import Account
from project_helpers import FEW_STEPS, NARROW, ROOT

HYPERBAND = {
    "name": "two machines",
    "program": "train.py",
    "method": "grid",
    "metric": {"name": "best_val_loss", "goal": "minimize"},
    # after two epochs the run with the tiny learning rate is the worse one, in either order
    "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 10, "strict": True},
    "parameters": {
        "learning_rate": {"values": [0.0000002, 0.003]},
        "batch_size": {"value": 32},
        "filters": {"value": 8},
        "epochs": {"value": 80},
    },
}


class Machine:
    """One machine of an account: a home folder, a copy of the project, and one of the data."""

    def __init__(self, account: Account, folder: Path, data: Path | None = None):
        self.account, self.folder, self.home = account, folder / "project", folder / "home"
        self.folder.mkdir(parents=True)
        account.login(self.home)
        for script in ("train.py", "studies.py"):
            shutil.copy(ROOT / script, self.folder)
        skip = shutil.ignore_patterns("__pycache__")
        for package in ("segmentation", "search", "analysis"):
            shutil.copytree(ROOT / package, self.folder / package, ignore=skip)
        if data:
            shutil.copytree(data, self.folder / "data" / "prepared")

    def run(self, *command: str | Path) -> subprocess.CompletedProcess:
        done = self.account.run(
            *command, home=self.home, cwd=self.folder, WANDB_ERROR_REPORTING="false"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def start(self, *command: str, **extra: str) -> subprocess.Popen:
        """Starts a command of W&B's client; its output goes to a file named after the command."""
        log = (self.folder / f"{command[1]}.log").open("w")
        environment = self.account.environment(
            self.home, WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL="1", **extra
        )
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )

    def sweep(self, config: dict) -> tuple[str, str]:
        """Registers a sweep. Returns its path and the address of its page, both as printed."""
        (self.folder / "sweep.yaml").write_text(yaml.safe_dump(config))
        output = self.run("wandb", "sweep", "--project", "aerial-sweeps", "sweep.yaml").stderr
        path = re.search(r"wandb agent (\S+)", output)[1]
        return path, re.search(r"https://\S+/sweeps/\w+", output)[0]


@pytest.fixture
def machines(account, tmp_path, tiny_set) -> list[Machine]:
    return [Machine(account, tmp_path / name, tiny_set) for name in ("first", "second")]


def finish(*processes: tuple[Machine, subprocess.Popen]) -> None:
    """Waits until all processes succeeded. If one fails, kills the others."""
    try:
        for machine, process in processes:
            logs = "\n".join(path.read_text() for path in machine.folder.glob("*.log"))
            assert process.wait(240) == 0, logs
    finally:
        for _, process in processes:
            process.kill()


def runs_of(account: Account, path: str) -> list[dict]:
    """The server's rows of the runs of a sweep."""
    sql = "SELECT r.* FROM runs r JOIN sweeps s ON s.id = r.sweep_id WHERE s.name = ? ORDER BY r.id"
    return account.store.all(sql, path.rpartition("/")[2])


def test_a_sweep_of_two_machines_is_reported_on_a_third(account, machines, tmp_path, tiny_set):
    path, address = machines[0].sweep(HYPERBAND)
    assert "/aerial-sweeps/sweeps/" in address and address.startswith("https://")
    finish(*[(machine, machine.start("wandb", "agent", path)) for machine in machines])

    runs = {json.loads(run["summary"])["status"]: run for run in runs_of(account, path)}
    assert set(runs) == {"finished", "stopped"}
    assert {run["state"] for run in runs.values()} == {"finished"}
    assert {run["exitcode"] for run in runs.values()} == {0}
    assert runs["finished"]["history_lines"] == 80 > runs["stopped"]["history_lines"]

    third = Machine(account, tmp_path / "third")
    command = [
        "python",
        "-m",
        "analysis.report",
        address,
        "--out",
        "results",
        "--data",
        str(tiny_set),
    ]
    done = third.run(*command)
    assert "not made" not in done.stderr, done.stderr
    choice = json.loads((third.folder / "results" / "best_run.json").read_text())
    assert choice["best"]["id"] == runs["finished"]["name"]
    scores = csv.DictReader((third.folder / "results" / "scores.csv").open())
    assert list(scores)  # computed from weights that only the account holds
    assert not (third.folder / "runs").exists()
    assert (third.folder / "results" / "report.html").stat().st_size > 100_000


def test_a_scheduler_queues_as_many_runs_as_there_are_agents(account, machines):
    config = yaml.safe_load((ROOT / "sweeps" / "tpe.yaml").read_text()) | {"run_cap": 4}
    config["parameters"] |= {
        "epochs": {"value": 1},
        "learning_rate": {"value": 0.002},
        "batch_size": {"value": 32},
        "filters": {"value": NARROW},
    }
    path, _ = machines[0].sweep(config)
    scheduler = machines[0].start(
        "wandb", "sweep-scheduler", "--batch-size", "2", "--poll-interval", "1", path
    )
    agents = [(machine, machine.start("wandb", "agent", path, **FEW_STEPS)) for machine in machines]
    finish((machines[0], scheduler), *agents)
    runs = runs_of(account, path)
    assert [run["state"] for run in runs] == ["finished"] * 4
    assert {json.loads(run["summary"])["status"] for run in runs} == {"finished"}

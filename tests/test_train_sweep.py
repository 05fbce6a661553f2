"""train.py in sweeps on tiny data, with the unmodified client, CLI and agent against our server."""

import os
import signal
from pathlib import Path

import pytest
from loopback_helpers import wait_for
from project_helpers import ROOT

from segmentation.config import OBJECTIVE

SWEEP = """
program: {root}/train.py
command: ["${{env}}", python, "${{program}}", --data={data}, "${{args}}"]
method: {method}
metric: {{name: best_val_loss, goal: minimize, impute: latest}}
{more}
parameters:
  batch_size: {{value: 32}}
  precision: {{value: float32}}
  filters: {{value: {filters}}}
  epochs: {{value: {epochs}}}
  learning_rate: {rates}
  activation: {{values: {activations}}}
"""


@pytest.fixture
def place(tmp_path, tiny_set):
    """A working folder, and a function that makes a sweep's YAML from the gaps of SWEEP."""

    def yaml(**words) -> str:
        return SWEEP.format(root=ROOT, data=tiny_set, **words)

    return tmp_path, yaml


def rows_of(run) -> list[dict]:
    return list(run.scan_history())


def test_hyperband_stops_runs_of_a_bayesian_sweep_by_two_agents(served, api, place):
    folder, yaml = place
    path = served.sweep(
        yaml(
            method="bayes",
            epochs=60,
            filters=8,
            activations="[relu, null]",
            rates="{distribution: log_uniform_values, min: 0.0000002, max: 0.005}",
            # One of ten runs survives a band. So the worse of the first two runs is stopped,
            # whatever the search proposes.
            more="early_terminate: {type: hyperband, min_iter: 2, eta: 10, strict: true}\n"
            "run_cap: 6",
        ),
        folder,
    )
    agents = [served.agent(path, folder, poll=0.5) for _ in range(2)]
    assert [agent.wait(800) for agent in agents] == [0, 0]

    sweep = api.sweep(path)
    runs = {run.id: run for run in sweep.runs}
    assert len(runs) == 6
    statuses = {name: run.summary["status"] for name, run in runs.items()}
    assert set(statuses.values()) == {"finished", "stopped"}
    for name, run in runs.items():
        rows = rows_of(run)
        assert (
            [row["epoch"] for row in rows]
            == [row["_step"] for row in rows]
            == list(range(1, len(rows) + 1))
        )
        losses = [row["val_loss"] for row in rows]
        assert [row[OBJECTIVE] for row in rows] == [
            min(losses[: i + 1]) for i in range(len(losses))
        ]
        assert run.summary[OBJECTIVE] == rows[-1][OBJECTIVE]
        assert (len(rows) == 60) == (statuses[name] == "finished")
        assert (
            run.config["data"]["checksum"] and run.config["environment"]["precision"] == "float32"
        )
        assert run.config["learning_rate"] <= 0.005 and run.config["seed"] == 0
    finished = [run for name, run in runs.items() if statuses[name] == "finished"]
    best = min(finished, key=lambda run: (run.summary[OBJECTIVE], run.id))
    assert sweep.best_run().summary[OBJECTIVE] <= best.summary[OBJECTIVE]
    model = next(artifact for artifact in best.logged_artifacts() if artifact.type == "model")
    assert best.id in model.aliases
    assert [artifact.type for artifact in best.used_artifacts()] == ["dataset"]
    assert Path(model.download(root=str(folder / "model")), "best.keras").stat().st_size > 1_000_000


def train_process(run_id: str) -> int | None:
    """Process id of the train.py that trains a run; None if there is none."""
    variable = f"WANDB_RUN_ID={run_id}".encode()
    for entry in Path("/proc").iterdir():
        try:
            command, environment = ((entry / file).read_bytes() for file in ("cmdline", "environ"))
            if b"train.py" in command and variable in environment.split(b"\0"):
                return int(entry.name)
        except (OSError, ValueError):
            continue
    return None


def test_a_preempted_run_is_resumed_under_its_id_with_one_history(served, api, place):
    folder, yaml = place
    path = served.sweep(
        yaml(
            method="grid",
            epochs=20,
            filters=16,
            activations="[null]",
            rates="{value: 0.001}",
            more="",
        ),
        folder,
    )
    agent = served.agent(path, folder, "--count", "1", poll=0.5)
    begun = wait_for(
        lambda: [run for run in served.state(path)["runs"] if (run["historyLineCount"] or 0) >= 3],
        150,
    )
    name = begun[0]["name"]
    # the signal of a preempted machine: the sweep did not ask for it
    os.kill(wait_for(lambda: train_process(name)), signal.SIGTERM)
    assert agent.wait(300) == 0
    wait_for(
        lambda: served.state(path)["runs"][0]["state"] in ("preempted", "finished", "running"), 30
    )
    served_again = served.agent(path, folder, poll=0.5)
    assert served_again.wait(400) == 0

    run = api.run("/".join([*path.split("/")[:2], name]))
    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == list(range(1, 21))
    assert run.summary["status"] == "finished" and run.state == "finished"
    log = "".join(file.read_text() for file in folder.glob("agent-*.log"))
    assert f"run {name} preempted" in log

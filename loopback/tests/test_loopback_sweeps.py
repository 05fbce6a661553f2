"""Sweeps with the unmodified `wandb sweep`, `wandb agent` and `wandb sweep-scheduler`."""

import json
import subprocess
import textwrap

import pytest
from loopback_helpers import wait_for

TRAIN = """
import sys
import time
import wandb

pause = float(sys.argv[1]) if sys.argv[1:2] and sys.argv[1][0].isdigit() else 0.0
worse = "worse" in sys.argv  # with every run
with wandb.init() as run:
    for epoch in range(1, 10):
        time.sleep(pause)
        late = int(run.name.rpartition("-")[2]) if worse else 0
        run.log({"loss": run.config["x"] ** 2 + 1 / epoch + 20 * late}, step=epoch)
"""
SLOW = "command: ['${env}', python, script.py, '0.5']\n"
HEAD = "program: script.py\nproject: sweeps\nmetric: {name: loss, goal: minimize, impute: latest}\n"
GRID = HEAD + "method: grid\nparameters: {x: {values: [1, 2, 3]}}\n"
ENDLESS = HEAD + SLOW + "method: random\nparameters: {x: {min: 0.0, max: 1.0}}\n"


@pytest.fixture
def cwd(tmp_path):
    (tmp_path / "script.py").write_text(TRAIN)
    return tmp_path


def test_two_agents_share_a_sweep_and_hyperband_stops_runs(served, cwd):
    text = (
        HEAD
        + SLOW.replace("'0.5'", "'0.5', worse")
        + "method: bayes\nrun_cap: 6\nearly_terminate: {type: hyperband, min_iter: 2, eta: 2}\n"
    )
    path = served.sweep(
        text + "parameters: {x: {min: -3.0, max: 3.0}, y: {values: [a, null, true, 3]}}\n", cwd
    )
    agents = [served.agent(path, cwd, poll=1), served.agent(path, cwd, poll=1)]
    assert [agent.wait(150) for agent in agents] == [0, 0]
    sweep = served.state(path)
    assert sweep["state"] == "FINISHED"
    assert len(sweep["runs"]) == 6
    stopped = [run for run in sweep["runs"] if run["stopped"]]
    assert stopped
    assert all(run["historyLineCount"] < 9 for run in stopped if run["state"] == "killed")
    assert all(run["historyLineCount"] == 9 for run in sweep["runs"] if not run["stopped"])


def test_each_point_of_a_grid_runs_once_and_count_ends_an_agent(served, cwd):
    path = served.sweep(GRID, cwd)
    assert served.agent(path, cwd, "--count", "1", poll=0.3).wait(150) == 0
    assert len(served.state(path)["runs"]) == 1
    assert served.state(path)["state"] == "RUNNING"
    assert served.agent(path, cwd, poll=0.3).wait(150) == 0
    sweep = served.state(path)
    assert sorted(json.loads(run["config"])["x"]["value"] for run in sweep["runs"]) == [1, 2, 3]
    assert sweep["state"] == "FINISHED"


def test_a_sweep_is_paused_resumed_and_stopped(served, cwd):
    path = served.sweep(ENDLESS.replace("0.5", "1.2"), cwd)
    agent = served.agent(path, cwd, poll=0.3)
    wait_for(lambda: served.state(path)["runs"])
    served.run(["wandb", "sweep", "--pause", path], cwd)
    assert served.state(path)["state"] == "PAUSED"
    wait_for(lambda: served.state(path)["runs"][0]["state"] == "finished")
    assert len(served.state(path)["runs"]) == 1
    assert agent.poll() is None  # it waits
    served.run(["wandb", "sweep", "--resume", path], cwd)
    wait_for(lambda: len(served.state(path)["runs"]) == 2)
    served.run(["wandb", "sweep", "--stop", path], cwd)
    assert agent.wait(150) == 0
    sweep = served.state(path)
    assert sweep["state"] == "FINISHED"
    # The second run was not stopped with its sweep.
    assert [run["state"] for run in sweep["runs"]] == ["finished", "finished"]
    cancelled = served.run(["wandb", "sweep", "--cancel", path], cwd, check=False)
    assert "already finished" in cancelled.stderr


def test_cancel_stops_running_runs(served, cwd):
    path = served.sweep(ENDLESS.replace("0.5", "3"), cwd)
    agent = served.agent(path, cwd, poll=0.3)
    wait_for(lambda: [run for run in served.state(path)["runs"] if run["historyLineCount"]])
    served.run(["wandb", "sweep", "--cancel", path], cwd)
    assert agent.wait(150) == 0
    sweep = served.state(path)
    assert sweep["state"] == "CANCELED"
    assert sweep["runs"][0]["state"] == "killed"
    assert sweep["runs"][0]["historyLineCount"] < 9


def test_a_target_ends_the_search(served, cwd):
    text = GRID.replace("goal: minimize", "goal: minimize, target: 1.2")
    path = served.sweep(text, cwd)
    assert served.agent(path, cwd, poll=0.3).wait(150) == 0
    assert len(served.state(path)["runs"]) == 1  # x = 1 ends at 1 + 1/9
    assert served.state(path)["state"] == "FINISHED"


def test_a_preempted_run_is_resumed_by_the_next_agent(served, cwd):
    (cwd / "script.py").write_text(
        textwrap.dedent("""
        import sys
        from pathlib import Path
        import wandb

        run = wandb.init(resume="allow")
        checkpoint = Path(f"{run.id}.epoch")
        first = int(checkpoint.read_text()) + 1 if checkpoint.exists() else 1
        for epoch in range(first, 7):
            run.log({"loss": 1 / epoch}, step=epoch)
            checkpoint.write_text(str(epoch))
            if epoch == 3 and first == 1:
                run.mark_preempting()
                run.finish(exit_code=1)
                sys.exit(1)
        run.finish()
        """)
    )
    path = served.sweep(HEAD + "method: grid\nparameters: {x: {values: [1, 2]}}\n", cwd)
    assert served.agent(path, cwd, poll=0.3).wait(150) == 0
    sweep = served.state(path)
    assert sweep["state"] == "FINISHED"
    assert [(run["state"], run["historyLineCount"]) for run in sweep["runs"]] == [
        ("finished", 6)
    ] * 2
    entity, project, _ = path.split("/")
    query = """query H($e: String, $p: String, $r: String!) {
        project(entityName: $e, name: $p) { run(name: $r) { history } } }"""
    for run in sweep["runs"]:
        rows = served.ask(query, e=entity, p=project, r=run["name"])["project"]["run"]["history"]
        assert [json.loads(row)["_step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_an_optuna_scheduler_proposes_and_prunes_runs(served, cwd):
    (cwd / "study.py").write_text(
        textwrap.dedent("""
        import optuna

        def study(sweep):
            pruner = optuna.pruners.ThresholdPruner(upper=1.5, n_warmup_steps=1)
            sampler = optuna.samplers.TPESampler(seed=3, n_startup_trials=2)
            return optuna.create_study(direction="minimize", sampler=sampler, pruner=pruner)
        """)
    )
    text = (
        HEAD.replace(", impute: latest", "")
        + SLOW.replace("0.5", "0.9")
        + "method: custom\nrun_cap: 5\n"
    )
    text += "scheduler: {engine: optuna, source: study.py, optimizer: study}\n"
    text += "parameters: {x: {min: -2.0, max: 2.0}}\n"
    path = served.sweep(text, cwd)
    log = (cwd / "scheduler.log").open("w")
    command = ["wandb", "sweep-scheduler", "--batch-size", "2", "--poll-interval", "1", path]
    scheduler = subprocess.Popen(command, cwd=cwd, env=served.environment(), stdout=log, stderr=log)
    agents = [served.agent(path, cwd, poll=0.5), served.agent(path, cwd, poll=0.5)]
    try:
        assert [agent.wait(150) for agent in agents] == [0, 0], (cwd / "scheduler.log").read_text()
        assert scheduler.wait(150) == 0, (cwd / "scheduler.log").read_text()
    finally:
        for process in [scheduler, *agents]:
            process.kill()
    sweep = served.state(path)
    assert len(sweep["runs"]) in (5, 6)  # the last batch of two may exceed the cap by one
    assert sweep["state"] == "FINISHED"
    assert any(run["stopped"] for run in sweep["runs"])
    assert any(run["state"] == "finished" and not run["stopped"] for run in sweep["runs"])


def test_a_local_controller_schedules_the_runs(served, cwd):
    (cwd / "sweep.yaml").write_text(GRID)
    log = (cwd / "controller.log").open("w")
    command = ["wandb", "sweep", "--controller", "sweep.yaml"]
    controller = subprocess.Popen(
        command, cwd=cwd, env=served.environment(), stdout=log, stderr=log
    )
    try:
        found = wait_for(
            lambda: "wandb agent " in (text := (cwd / "controller.log").read_text()) and text
        )
        path = found.partition("wandb agent ")[2].split()[0]
        assert served.agent(path, cwd, poll=0.5).wait(150) == 0
        assert controller.wait(150) == 0
    finally:
        controller.kill()
    sweep = served.state(path)
    assert sweep["state"] == "FINISHED"
    assert [run["state"] for run in sweep["runs"]] == ["finished"] * 3


def test_wandb_agent_runs_a_python_function(served, cwd):
    served.python(
        """
        import wandb

        def train():
            with wandb.init() as run:
                run.log({"loss": run.config["x"]})

        sweep = wandb.sweep({"method": "grid", "name": "inside",
                             "metric": {"name": "loss", "goal": "minimize"},
                             "parameters": {"x": {"values": [5, 4]}}}, project="within")
        wandb.agent(sweep, function=train, project="within")
        print(wandb.Api().sweep(f"loopback/within/{sweep}").best_run().config["x"])
        """,
        cwd,
    )
    query = """{ project(entityName: "loopback", name: "within") {
        sweeps { edges { node { state runCount bestLoss } } } } }"""
    (edge,) = served.ask(query)["project"]["sweeps"]["edges"]
    assert edge["node"] == {"state": "FINISHED", "runCount": 2, "bestLoss": 4}


def test_a_bad_yaml_is_refused_with_the_name_of_the_fault(served, cwd):
    cases = {
        "method: bayes\nparameters: {x: {min: 0.0, max: 1.0}}\n": "metric",
        "method: psychic\nparameters: {x: {values: [1]}}\n": "psychic",
        "method: random\nparameters: {x: {distribution: uniform, min: 1e-4, max: 0.1}}\n": "x",
        "method: random\n": "parameters",
    }
    for text, word in cases.items():
        (cwd / "sweep.yaml").write_text("program: script.py\nproject: bad\n" + text)
        refused = served.run(["wandb", "sweep", "sweep.yaml"], cwd, check=False)
        assert "wandb agent" not in refused.stderr
        assert "Invalid sweep config" in refused.stderr, refused.stderr
        assert word in refused.stderr


@pytest.mark.parametrize("method", ["grid", "bayes"])
def test_an_agent_gets_nested_parameters(served, cwd, method):
    """They are in `wandb.config` and on the command line."""
    (cwd / "script.py").write_text(
        textwrap.dedent("""
        import sys
        import wandb

        with wandb.init() as run:
            nest = run.config["nest"]
            assert any("nest" in argument and "deep" in argument for argument in sys.argv), sys.argv
            run.log({"loss": nest["y"] + nest["deep"]["z"] + run.config["x"]})
        """)
    )
    nested = "nest: {parameters: {y: {values: [3, 4]}, deep: {parameters: {z: {value: 5}}}}}"
    path = served.sweep(
        HEAD + f"method: {method}\nrun_cap: 2\nparameters: {{x: {{value: 1}}, {nested}}}\n", cwd
    )
    assert served.agent(path, cwd, poll=0.3).wait(150) == 0
    runs = served.state(path)["runs"]
    assert [run["state"] for run in runs] == ["finished"] * 2
    for run in runs:
        nest = json.loads(run["config"])["nest"]["value"]
        assert json.loads(run["summaryMetrics"])["loss"] == nest["y"] + 6


def test_a_finished_sweep_with_a_higher_cap_gets_further_runs(served, cwd):
    text = HEAD + "method: random\nparameters: {x: {min: 0.0, max: 1.0}}\nrun_cap: "
    path = served.sweep(text + "1\n", cwd)
    assert served.agent(path, cwd, poll=0.3).wait(150) == 0
    assert served.state(path)["state"] == "FINISHED"
    (cwd / "sweep.yaml").write_text(text + "2\n")
    served.run(["wandb", "sweep", "--update", path, "sweep.yaml"], cwd)
    assert served.agent(path, cwd, poll=0.3).wait(150) == 0
    sweep = served.state(path)
    assert (sweep["state"], len(sweep["runs"])) == ("FINISHED", 2)

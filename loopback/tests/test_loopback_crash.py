"""kill -9 of the server, an agent and a training process during a sweep.

The sweep must complete, and each row of history must be stored exactly once.
"""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from loopback_helpers import Served, wait_for

TRAIN = """
import time
import wandb

with wandb.init() as run:
    for epoch in range(1, 9):
        time.sleep(0.05)
        run.log({"loss": run.config["x"] / epoch}, step=epoch)
"""
HEAD = "program: script.py\nproject: crash\nmetric: {name: loss, goal: minimize}\n"
ROWS = """query R($e: String, $p: String, $r: String!) {
    project(entityName: $e, name: $p) { run(name: $r) { history } } }"""


@pytest.fixture
def fragile(tmp_path):
    server = Served(tmp_path / "store", "--lost-after", "12").start()
    yield server
    server.stop()


def steps(server: Served, path: str, run: str) -> list[int]:
    entity, project, _ = path.split("/")
    rows = server.ask(ROWS, e=entity, p=project, r=run)["project"]["run"]["history"]
    return [json.loads(row)["_step"] for row in rows]


def test_a_sweep_completes_although_its_server_is_killed_twice(fragile, tmp_path):
    (tmp_path / "script.py").write_text(TRAIN)
    path = fragile.sweep(
        HEAD + f"method: grid\nparameters: {{x: {{values: {list(range(1, 21))}}}}}\n", tmp_path
    )
    agents = [fragile.agent(path, tmp_path, poll=0.1), fragile.agent(path, tmp_path, poll=0.1)]
    for runs in (4, 9):
        wait_for(lambda runs=runs: len(fragile.state(path)["runs"]) >= runs)
        fragile.kill()
        time.sleep(1)
        fragile.start()
    assert [agent.wait(200) for agent in agents] == [0, 0]
    sweep = fragile.state(path)
    assert sweep["state"] == "FINISHED"
    assert sorted(json.loads(run["config"])["x"]["value"] for run in sweep["runs"]) == list(
        range(1, 21)
    )
    assert [run["state"] for run in sweep["runs"]] == ["finished"] * 20
    for run in sweep["runs"]:
        assert steps(fragile, path, run["name"]) == list(range(1, 9))


def test_a_sweep_completes_although_an_agent_and_a_training_process_are_killed(fragile, tmp_path):
    (tmp_path / "script.py").write_text(
        TRAIN.replace("import wandb\n", "import os\nimport wandb\n")
        .replace("0.05", "0.4")
        .replace("    for epoch", "    print('process', os.getpid(), flush=True)\n    for epoch", 1)
    )
    path = fragile.sweep(
        HEAD + "method: random\nrun_cap: 5\nparameters: {x: {min: 0.0, max: 1.0}}\n", tmp_path
    )
    first = fragile.agent(path, tmp_path, poll=0.3)
    wait_for(lambda: any(run["historyLineCount"] for run in fragile.state(path)["runs"]))
    os.killpg(first.pid, signal.SIGKILL)  # the agent; its run may end with it or continue alone
    second = fragile.agent(path, tmp_path, poll=0.3)

    def training():
        newest = max(tmp_path.glob("agent-*.log"))  # the second agent's
        pids = [int(pid) for pid in re.findall(r"process (\d+)", newest.read_text())]
        return pids and Path(f"/proc/{pids[-1]}").exists() and pids[-1]

    pid = wait_for(training, every=0.1)
    os.kill(pid, signal.SIGKILL)
    assert second.wait(150) == 0
    sweep = fragile.state(path)
    assert sweep["state"] == "FINISHED"
    assert len(sweep["runs"]) == 5
    states = [run["state"] for run in sweep["runs"]]
    assert states.count("crashed") in (1, 2)
    assert states.count("finished") == 5 - states.count("crashed")
    for run in sweep["runs"]:
        seen = steps(fragile, path, run["name"])
        assert seen == list(range(1, len(seen) + 1))
        assert run["state"] != "finished" or len(seen) == 8

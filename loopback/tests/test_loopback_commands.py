"""The commands sweep, exec, push and agents, run as a new user does: empty home, no account."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml
from loopback_helpers import Served, wait_for

from loopback import __version__, daemon, local_sweep, progress, push, supervise

README = Path(__file__).parent.parent / "README.md"
IRIS = """
program: train.py
method: grid
project: iris
metric: {name: accuracy, goal: maximize}
parameters:
  c: {values: [0.001, 1.0, 0.1]}
"""
PATIENT = """
import signal
import sys
import time
from pathlib import Path
import wandb

def leave(*_):
    raise SystemExit(1)

signal.signal(signal.SIGTERM, leave)
run = wandb.init(resume="allow")
kept = Path(f"{run.id}.epoch")
first = int(kept.read_text()) + 1 if kept.exists() else 1
try:
    for epoch in range(first, 31):
        time.sleep(0.4)
        run.log({"loss": run.config["x"] / epoch}, step=epoch)
        kept.write_text(str(epoch))
except SystemExit:
    run.mark_preempting()
    run.finish(exit_code=1)
    sys.exit(1)
run.finish()
"""


def loopback(cwd, *arguments, **options):
    """Runs the command with an empty home and without WANDB variables; see `subprocess.run`."""
    home = cwd / "home"
    home.mkdir(exist_ok=True)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    environment = clean | {"HOME": str(home)} | options.pop("environment", {})
    command = [sys.executable, "-m", "loopback", *map(str, arguments)]
    if options.pop("wait", True):
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=150
        )
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def readme_example(folder):
    """Writes the files of the README's example to `folder`; its two commands, as lists of words."""
    section = README.read_text().partition("## Try it\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(\w*)\n(.*?)```", section, re.S)
    for text in (text for language, text in blocks if language in ("python", "yaml")):
        (folder / text.splitlines()[0].removeprefix("# ")).write_text(text)
    return [shlex.split(text) for language, text in blocks if not language]


def test_the_example_of_the_readme_runs_and_the_client_reads_its_result(tmp_path):
    sweep, read = readme_example(tmp_path)
    assert sweep[0] == read[0] == "loopback"
    done = loopback(tmp_path, *sweep[1:])
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    assert table[0].split() == ["run", "name", "state", "loss", "learning_rate", "rows"]
    assert [row.split()[4] for row in table[1:4]] == ["0.1", "0.01", "0.001"]  # best first
    assert re.fullmatch(r"loopback/first/[a-z0-9]{8}", table[-1])
    assert "3 finished of 3" in done.stderr
    again = loopback(tmp_path, *sweep[1:], "--print-path")
    assert (again.returncode, again.stdout.strip()) == (0, table[-1])  # nothing left to do
    words = [re.sub(r"loopback/first/\w{8}", table[-1], word) for word in read[1:]]
    asked = loopback(tmp_path, *words)
    assert asked.stdout.strip().endswith("{'learning_rate': 0.1}"), asked.stderr
    assert [path.name for path in (tmp_path / "home").rglob("*") if path.is_file()] == []
    key = (tmp_path / ".loopback" / "key").read_text()
    assert all(
        key not in text
        for text in (done.stdout, done.stderr, (tmp_path / ".loopback/server.log").read_text())
    )
    wait_for(
        lambda: daemon.find(tmp_path / ".loopback") is None, 20
    )  # the server ends with its last user


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]],
    ids=["Ctrl-C", "make under timeout"],
)
def test_ctrl_c_ends_cleanly_and_the_same_command_resumes(tmp_path, signals):
    (tmp_path / "train.py").write_text(PATIENT)
    (tmp_path / "sweep.yaml").write_text(
        IRIS.replace("c: {values: [0.001, 1.0, 0.1]}", "x: {values: [1, 2]}")
    )
    first = loopback(tmp_path, "sweep", "sweep.yaml", "--agents", "2", wait=False)
    wait_for(lambda: len(list(tmp_path.glob("*.epoch"))) == 2)
    for number in signals:
        first.send_signal(number)
        time.sleep(0.1)
    _stdout, stderr = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "resume the sweep" in stderr
    assert all(int(path.read_text()) < 30 for path in tmp_path.glob("*.epoch"))
    second = loopback(tmp_path, "sweep", "sweep.yaml", "--agents", "2")
    assert second.returncode == 0, second.stderr
    assert "resuming sweep" in second.stderr
    rows = [line.split() for line in second.stdout.splitlines()[1:-1]]
    assert [(row[2], row[-1]) for row in rows] == [
        ("finished", "30"),
        ("finished", "30"),
    ]  # every epoch once


def test_a_sweep_is_recognised_by_its_content(tmp_path, monkeypatch):
    made = []

    def register(command, **_options):
        made.append(command)
        return subprocess.CompletedProcess(
            command, 0, "", f"Run sweep agent with: wandb agent loopback/iris/sweep{len(made)}\n"
        )

    monkeypatch.setattr(local_sweep.subprocess, "run", register)
    state = progress.Sweep("", "RUNNING", "accuracy", True, None, [])
    monkeypatch.setattr(local_sweep.progress, "read", lambda *_: state)
    server = daemon.Server(tmp_path, "http://127.0.0.1:1")
    (tmp_path / "key").write_text("k" * 40)
    file = tmp_path / "sweep.yaml"

    def found(text, new=False):
        file.write_text(text)
        config = yaml.safe_load(text)
        plan = local_sweep.Plan(file, config, 1, None, None, new, [None])
        return local_sweep.register(server, plan)

    assert found(IRIS) == ("loopback/iris/sweep1", True)
    assert found("# a comment\n" + IRIS) == ("loopback/iris/sweep1", False)
    assert found(IRIS.replace("0.001", "0.002")) == ("loopback/iris/sweep2", True)
    assert found(IRIS) == ("loopback/iris/sweep1", False)
    assert found(IRIS, new=True) == ("loopback/iris/sweep3", True)
    assert found(IRIS) == ("loopback/iris/sweep3", False)
    state.state = "CANCELED"
    assert found(IRIS) == ("loopback/iris/sweep4", True)


def test_the_installed_command_is_the_module():
    installed = [str(Path(sys.executable).with_name("loopback"))]
    outputs = [
        subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
        for command in (installed, [sys.executable, "-m", "loopback"])
    ]
    assert outputs[0] == outputs[1] == f"loopback, version {__version__}\n"


def test_exec_returns_the_exit_code_and_sets_the_environment(tmp_path):
    done = loopback(
        tmp_path,
        "exec",
        "--project",
        "mine",
        "--",
        "sh",
        "-c",
        "echo $WANDB_PROJECT $WANDB_MODE; exit 7",
    )
    assert done.returncode == 7
    assert done.stdout.split() == ["mine", "online"]
    missing = loopback(tmp_path, "exec", "--", "no-such-command-at-all")
    assert missing.returncode != 0
    assert "no-such-command-at-all" in missing.stderr


def test_a_yaml_that_the_client_refuses_is_an_error_with_the_reason(tmp_path):
    (tmp_path / "x.py").touch()
    (tmp_path / "sweep.yaml").write_text(
        "method: bayes\nprogram: x.py\nparameters: {a: {min: 0.0, max: 1.0}}\n"
    )
    done = loopback(tmp_path, "sweep", "sweep.yaml")
    assert done.returncode == 1
    assert "metric" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_whose_runs_all_fail_is_given_up_with_the_reason(tmp_path):
    (tmp_path / "train.py").write_text(
        "import wandb\nwandb.init()\nraise RuntimeError('what is wrong')\n"
    )
    (tmp_path / "sweep.yaml").write_text(
        IRIS.replace("grid", "random").replace("values: [0.001, 1.0, 0.1]", "min: 0.0, max: 1.0")
    )
    done = loopback(tmp_path, "sweep", "sweep.yaml", "--agents", "2")
    assert done.returncode == 1
    assert "runs failed" in done.stderr
    assert "what is wrong" in done.stderr


def test_push_copies_each_run_once_to_another_server(tmp_path):
    (tmp_path / "train.py").write_text(
        "import wandb\n"
        "with wandb.init(project='here', id='moves') as run:\n    run.log({'loss': 3})\n"
    )
    assert loopback(tmp_path, "exec", "--", "python", "train.py").returncode == 0
    account = Served(tmp_path / "account").start()
    try:
        away = {"WANDB_BASE_URL": account.server.url, "WANDB_API_KEY": account.server.key}
        done = loopback(tmp_path, "push", "team/there", "--from", "here", environment=away)
        assert done.stdout.strip() == "1 runs copied to team/there", done.stderr
        query = """{ project(entityName: "team", name: "there") {
          runs { edges { node { name state summaryMetrics } } } } }"""
        ((edge,),) = (account.ask(query)["project"]["runs"]["edges"],)
        assert edge["node"]["name"] == "moves"
        assert edge["node"]["state"] == "finished"
        assert '"loss":3' in edge["node"]["summaryMetrics"]
        assert loopback(tmp_path, "push", "team/there", environment=away).stdout.startswith(
            "0 runs"
        )
        assert list(push.local_runs(tmp_path / ".loopback")) == ["moves"]
    finally:
        account.stop()


PARTS = """
import sys
import wandb

with wandb.init(project="here", id="parts", resume="allow") as run:
    for step in map(int, sys.argv[1:]):
        run.log({"loss": 10 * step}, step=step)
"""


@pytest.mark.parametrize("pushes", ["after each part", "at the end"])
def test_push_copies_all_rows_of_a_resumed_run(tmp_path, pushes):
    (tmp_path / "train.py").write_text(PARTS)
    account = Served(tmp_path / "account").start()
    away = {"WANDB_BASE_URL": account.server.url, "WANDB_API_KEY": account.server.key}
    try:
        for steps in (["1", "2", "3"], ["4", "5"]):
            assert loopback(tmp_path, "exec", "--", "python", "train.py", *steps).returncode == 0
            if pushes == "after each part" or "5" in steps:
                done = loopback(tmp_path, "push", "team/there", environment=away)
                assert done.stdout.strip() == "1 runs copied to team/there", done.stderr
        query = """{ project(entityName: "team", name: "there") {
          run(name: "parts") { state history summaryMetrics } } }"""
        run = account.ask(query)["project"]["run"]
        assert [json.loads(row)["loss"] for row in run["history"]] == [10, 20, 30, 40, 50]
        assert (run["state"], json.loads(run["summaryMetrics"])["loss"]) == ("finished", 50)
    finally:
        account.stop()


def test_agents_get_their_gpus_and_logs_and_end_with_the_sweep(tmp_path):
    (tmp_path / "train.py").write_text(
        textwrap.dedent("""
        import os
        from pathlib import Path
        import wandb

        with wandb.init() as run:
            Path(f"gpu-{run.config['x']}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
            run.log({"accuracy": run.config["x"]})
        """)
    )
    server = Served(tmp_path / "store").start()
    try:
        path = server.sweep(
            IRIS.replace("c: {values: [0.001, 1.0, 0.1]}", "x: {values: [1, 2, 3, 4]}"), tmp_path
        )
        command = ["agents", path, "--gpus", "5,7", "--stagger", "1"]
        done = loopback(tmp_path, *command, environment=server.environment())
        assert done.returncode == 0, done.stderr
        assert {file.read_text() for file in tmp_path.glob("gpu-*")} == {"5", "7"}
        assert len(list(tmp_path.glob("gpu-*"))) == 4
        assert sorted(file.name for file in (tmp_path / "agent-logs").iterdir()) == [
            "agent-0.log",
            "agent-1.log",
        ]
        unkeyed = loopback(tmp_path, *command, environment={"WANDB_BASE_URL": server.server.url})
        assert unkeyed.returncode == 1
        assert "no key" in unkeyed.stderr
    finally:
        server.stop()


def supervisor_of(tmp_path, code, is_over=lambda: False, limited=False):
    command = [sys.executable, "-c", code]
    worker = supervise.Worker("w", command, dict(os.environ), tmp_path / "w.log", limited)
    return supervise.Supervisor([worker], is_over)


def test_a_crashed_agent_is_restarted_with_pauses_that_double(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "FIRST_PAUSE", 0.05)
    supervisor = supervisor_of(tmp_path, "raise SystemExit(3)")
    deadline = time.monotonic() + 60
    while supervisor.busy and time.monotonic() < deadline:
        supervisor.poll()
        time.sleep(0.01)
    (worker,) = supervisor.failed
    assert worker.crashes == supervise.MAX_CRASHES
    assert (tmp_path / "w.log").read_text().count("--- ") == supervise.MAX_CRASHES
    assert worker.next_start - worker.started > 0.05 * 2 ** (supervise.MAX_CRASHES - 2)


@pytest.mark.parametrize(("over", "limited"), [(True, False), (False, True)])
def test_an_agent_that_ends_after_the_sweep_or_its_share_is_not_restarted(tmp_path, over, limited):
    supervisor = supervisor_of(tmp_path, "pass", lambda: over, limited)
    wait_for(lambda: supervisor.poll() or not supervisor.busy, 30, 0.02)
    assert supervisor.failed == []
    assert (tmp_path / "w.log").read_text().count("--- ") == 1


def test_shut_down_kills_what_a_crashed_agent_has_started(tmp_path):
    child = "import time; open('alive', 'w').close(); time.sleep(600)"
    start = f"subprocess.Popen([sys.executable, '-c', {child!r}], cwd={str(tmp_path)!r})"
    code = f"import os, subprocess, sys; {start}; os._exit(1)"
    supervisor = supervisor_of(tmp_path, code)
    supervisor.poll()
    wait_for((tmp_path / "alive").exists, 30)
    (session,) = [worker.process.pid for worker in supervisor.workers]
    assert supervise.session_children(session)
    supervisor.shut_down(5)
    assert supervise.session_children(session) == []


def test_runs_and_gpus_are_divided_among_the_agents(monkeypatch):
    assert supervise.shares(None, 2) == [None, None]
    assert supervise.shares(7, 3) == [3, 2, 2]
    assert supervise.shares(1, 3) == [1, 0, 0]
    assert supervise.devices(None) == [None]
    assert supervise.devices("0, 2") == ["0", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert supervise.devices("all") == ["3", "4"]

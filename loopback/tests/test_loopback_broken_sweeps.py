"""Sweeps that cannot work end soon with the reason; a killed command leaves no process behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from loopback_helpers import wait_for
from test_loopback_commands import IRIS, PATIENT, loopback

SCRIPTS = {
    "import error": (
        "import no_such_module_anywhere\n",
        "No module named 'no_such_module_anywhere'",
    ),
    "end before wandb.init": ("print('nothing to do')\n", "nothing to do"),
    "exit before wandb.init": ("import sys\nprint('no data here')\nsys.exit(3)\n", "no data here"),
}


@pytest.mark.parametrize(
    "options", [("--count", "1"), ("--agents", "2")], ids=["one run", "two agents"]
)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_that_cannot_work_ends_the_sweep_with_its_last_output(tmp_path, script, options):
    text, words = SCRIPTS[script]
    (tmp_path / "train.py").write_text(text)
    (tmp_path / "sweep.yaml").write_text(IRIS)
    started = time.monotonic()
    done = loopback(tmp_path, "sweep", "sweep.yaml", *options)
    assert time.monotonic() - started < 120  # under 60 s on a quiet machine
    assert done.returncode == 1, done.stdout
    assert words in done.stderr and "agent-0.log" in done.stderr


MISTAKES = {
    "a tab": ("method: grid\n\tprogram: x\n", ["line 2", "correct the YAML"]),
    "an open bracket": ("method: grid\nparameters: {a: [1\n", ["line 3", "correct the YAML"]),
    "a python tag": ("!!python/object/apply:os.getcwd []\n", ["line 1", "correct the YAML"]),
    "a number as project": (IRIS.replace("iris", "5"), ["line 4", "project: 5 is not text"]),
    "a path as project": (IRIS.replace("iris", "a/b"), ["line 4", "'a/b'", "none of /"]),
    "a date as a key": (IRIS + "2024-01-01: 1\n", ["line 8", "2024-01-01", "put it in quotes"]),
    "a word as controller": (
        IRIS + "controller: local\n",
        ["controller: 'local' is not a mapping"],
    ),
    "yes as scheduler": (IRIS + "scheduler: yes\n", ["scheduler: True is not a mapping"]),
    "a list": ("- 1\n", ["must be a YAML mapping"]),
    "an empty file": ("", ["must be a YAML mapping"]),
    "a character that YAML forbids": ("program: train.py\0\n", ["not allowed"]),
    "no method": (IRIS.replace("method: grid", ""), ["method: None", "grid, random"]),
    "an unknown method": (IRIS.replace("grid", "gird"), ["line 3", "'gird'"]),
    "no parameters": (IRIS[: IRIS.index("parameters")], ["parameters"]),
    "a parameter without values": (
        IRIS.replace("{values: [0.001, 1.0, 0.1]}", "5"),
        ["line 6", "c: 5"],
    ),
    "a search without a metric": (
        "method: bayes\nprogram: train.py\nparameters: {a: {min: 0.0, max: 1.0}}\n",
        ["metric"],
    ),
    "no program": (IRIS.replace("program: train.py", ""), ["program is missing"]),
    "a missing program": (IRIS.replace("train.py", "absent.py"), ["absent.py does not exist"]),
    "a missing interpreter": (
        IRIS + "command: [no-such-python, '${program}']\n",
        ["no-such-python"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_yaml_is_one_line_and_nothing_is_registered(tmp_path, mistake):
    (tmp_path / "train.py").touch()
    text, words = MISTAKES[mistake]
    (tmp_path / "sweep.yaml").write_text(text)
    done = loopback(tmp_path, "sweep", "sweep.yaml")
    assert (
        done.returncode == 1
        and done.stderr.startswith("Error: sweep.yaml")
        and done.stderr.count("\n") == 1
    )
    assert all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / ".loopback" / "sweeps.json").exists()


OTHER_DATA = """
import os
import sys
import wandb

with wandb.init() as run:
    if "DATA" in os.environ:
        run.finish(exit_code=1)
        sys.exit("Error: this sweep has runs on other data")
    run.log({"accuracy": 1})
"""


def test_a_resumed_sweep_whose_new_runs_all_fail_is_an_error(tmp_path):
    (tmp_path / "train.py").write_text(OTHER_DATA)
    (tmp_path / "sweep.yaml").write_text(IRIS)
    assert loopback(tmp_path, "sweep", "sweep.yaml", "--count", "1").returncode == 0
    resumed = loopback(tmp_path, "sweep", "sweep.yaml", environment={"DATA": "other"})
    assert resumed.returncode == 1
    assert (
        "Error: this sweep has runs on other data" in resumed.stderr
        and "agent-0.log" in resumed.stderr
    )


def test_a_finished_sweep_without_a_good_run_is_an_error_each_time(tmp_path):
    (tmp_path / "train.py").write_text(
        "import wandb\nwandb.init().finish(exit_code=1)\nraise SystemExit('no good')\n"
    )
    (tmp_path / "sweep.yaml").write_text(IRIS.replace("[0.001, 1.0, 0.1]", "[1.0]"))
    for reason in ("no good", "it is finished"):
        done = loopback(tmp_path, "sweep", "sweep.yaml")
        assert done.returncode == 1 and "succeeded" in done.stderr and reason in done.stderr


def test_a_file_that_is_not_utf_8_is_an_error_of_one_line(tmp_path):
    (tmp_path / "sweep.yaml").write_bytes(b"name: caf\xe9\n")
    done = loopback(tmp_path, "sweep", "sweep.yaml")
    assert done.returncode == 1 and "sweep.yaml" in done.stderr and "UTF-8" in done.stderr
    assert "Traceback" not in done.stderr


def processes_in(folder: Path) -> list[int]:
    """Ids of the processes whose working directory is `folder` or below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink().is_relative_to(folder):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGKILL], ids=["closed terminal", "kill -9"]
)
def test_a_killed_command_leaves_no_process_and_is_resumed(tmp_path, number):
    (tmp_path / "train.py").write_text(PATIENT)
    (tmp_path / "sweep.yaml").write_text(
        IRIS.replace("c: {values: [0.001, 1.0, 0.1]}", "x: {values: [1, 2]}")
    )
    first = loopback(tmp_path, "sweep", "sweep.yaml", "--agents", "2", wait=False)
    wait_for(lambda: len(list(tmp_path.glob("*.epoch"))) == 2)
    first.send_signal(number)
    first.communicate(timeout=60)
    if number == signal.SIGHUP:
        wait_for(lambda: not processes_in(tmp_path), 90)
    second = loopback(tmp_path, "sweep", "sweep.yaml", "--agents", "2")
    assert second.returncode == 0, second.stderr
    assert ("waiting for the agents" in second.stderr) == (
        number == signal.SIGKILL
    )  # never twice as many
    rows = [line.split() for line in second.stdout.splitlines()[1:-1]]
    assert [(row[2], row[-1]) for row in rows] == [
        ("finished", "30"),
        ("finished", "30"),
    ]  # every epoch once
    wait_for(lambda: not processes_in(tmp_path), 90)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
def test_the_keeper_ends_a_run_that_ignores_interrupts(tmp_path):
    """The agent ends at the first interrupt; its run ignores interrupts."""
    run = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    start = f"subprocess.Popen([sys.executable, '-c', {run!r}])"
    agent = f"import subprocess, sys, time; {start}; print(); time.sleep(600)"
    command = [sys.executable, "-m", "loopback.keeper", sys.executable, "-u", "-c", agent]
    keeper = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    keeper.stdout.readline()
    assert len(processes_in(tmp_path)) == 3
    keeper.stdin.close()
    assert keeper.wait(60) != 0
    wait_for(lambda: not processes_in(tmp_path), 10)

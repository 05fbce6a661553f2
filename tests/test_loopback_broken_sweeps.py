"""Sweeps that cannot work end soon with the reason, and a command that is killed leaves nothing behind."""

import os
import signal
import time

import pytest
from loopback_helpers import wait_for
from test_loopback_commands import IRIS, PATIENT, loopback

SCRIPTS = {
    "import error": ("import no_such_module_anywhere\n", "No module named 'no_such_module_anywhere'"),
    "exit before wandb.init": ("import sys\nprint('no data here')\nsys.exit(3)\n", "no data here"),
}


@pytest.mark.parametrize("options", [("--count", "1"), ("--agents", "2")], ids=["one run", "two agents"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_sweep_that_cannot_work_fails_with_the_last_lines(tmp_path, script, options):
    text, words = SCRIPTS[script]
    (tmp_path / "train.py").write_text(text)
    (tmp_path / "sweep.yaml").write_text(IRIS)
    started = time.monotonic()
    done = loopback(tmp_path, "sweep", "sweep.yaml", *options)
    assert time.monotonic() - started < 120  # under 60 s on a quiet machine
    assert done.returncode == 1, done.stdout
    assert words in done.stderr and "agent-0.log" in done.stderr


SLIPS = {
    "a tab": ("method: grid\n\tprogram: x\n", ["line 2", "correct the YAML"]),
    "an open bracket": ("method: grid\nparameters: {a: [1\n", ["line 3", "correct the YAML"]),
    "a python tag": ("!!python/object/apply:os.getcwd []\n", ["line 1", "correct the YAML"]),
    "a number as project": (IRIS.replace("iris", "5"), ["project: 5 is not text"]),
    "a path as project": (IRIS.replace("iris", "a/b"), ["'a/b'", "must not contain '/'"]),
    "a date as a key": (IRIS + "2024-01-01: 1\n", ["sweep.yaml", "put it in quotes"]),
    "a word as controller": (IRIS + "controller: local\n", ["controller: 'local' is not a mapping"]),
    "yes as scheduler": (IRIS + "scheduler: yes\n", ["scheduler: True is not a mapping"]),
    "a list": ("- 1\n", ["must be a YAML mapping"]),
    "a missing program": (IRIS.replace("train.py", "absent.py"), ["absent.py does not exist"]),
    "a missing interpreter": (IRIS + "command: [no-such-python, '${program}']\n", ["no-such-python"]),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_the_yaml_is_one_line_and_nothing_is_registered(tmp_path, slip):
    (tmp_path / "train.py").touch()
    text, words = SLIPS[slip]
    (tmp_path / "sweep.yaml").write_text(text)
    done = loopback(tmp_path, "sweep", "sweep.yaml")
    assert done.returncode == 1 and done.stderr.startswith("Error: sweep.yaml") and done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / ".loopback" / "sweeps.json").exists()


def test_a_file_that_is_not_utf_8_is_one_line(tmp_path):
    (tmp_path / "sweep.yaml").write_bytes(b"name: caf\xe9\n")
    done = loopback(tmp_path, "sweep", "sweep.yaml")
    assert done.returncode == 1 and "sweep.yaml" in done.stderr and "UTF-8" in done.stderr
    assert "Traceback" not in done.stderr


def processes_in(folder) -> list[int]:
    """Processes whose working directory is the folder, or below it."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd").startswith(str(folder)):
                found.append(int(entry))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks processes up in /proc")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL], ids=["closed terminal", "kill -9"])
def test_a_killed_command_leaves_nothing_behind_and_is_resumed(tmp_path, number):
    (tmp_path / "train.py").write_text(PATIENT)
    (tmp_path / "sweep.yaml").write_text(IRIS.replace("c: {values: [0.001, 1.0, 0.1]}", "x: {values: [1, 2]}"))
    first = loopback(tmp_path, "sweep", "sweep.yaml", "--agents", "2", wait=False)
    wait_for(lambda: len(list(tmp_path.glob("*.epoch"))) == 2)
    first.send_signal(number)
    first.communicate(timeout=60)
    wait_for(lambda: not processes_in(tmp_path), 90)
    second = loopback(tmp_path, "sweep", "sweep.yaml", "--agents", "2")
    assert second.returncode == 0, second.stderr
    rows = [line.split() for line in second.stdout.splitlines()[1:-1]]
    assert [row[2] for row in rows] == ["done", "done"]

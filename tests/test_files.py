"""Atomic folders: an interrupted or concurrent command leaves a complete set or none."""

import fcntl
import os
import signal
import subprocess
import sys

import pytest
from prepare_helpers import SMALL, contents, run_prepare
from project_helpers import ROOT

from segmentation.prepare import prepare
from segmentation.prepared import PrepareOptions


def test_a_second_process_cannot_write_the_same_folder(city, tmp_path):
    (tmp_path / ".set.partial").mkdir()
    lock = os.open(tmp_path / ".set.partial", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    refused = run_prepare(city, tmp_path / "set", "--patch-size", 32)
    assert "another process is writing" in refused.output
    os.close(lock)
    assert run_prepare(city, tmp_path / "set", "--patch-size", 32).exit_code == 0


# Runs `prepare` and kills it in call number argv[4] of the function argv[3]. Some of these
# functions are private, because no public one runs between the writes.
KILLED = """
import os, signal, sys
from pathlib import Path
from segmentation import prepare, prepared
name, calls = sys.argv[3], int(sys.argv[4])
owner = next(owner for owner in (prepared, prepared.ArrayWriter, Path) if hasattr(owner, name))
original = getattr(owner, name)
def deadly(*arguments, **keywords):
    global calls
    calls -= 1
    if calls < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **keywords)
setattr(owner, name, deadly)
options = prepared.PrepareOptions(patch_size=32)
prepare.prepare(Path(sys.argv[1]), Path(sys.argv[2]), options, force=len(sys.argv) > 5)
"""


@pytest.mark.parametrize(
    ("where", "calls"),
    [
        ("write_rows", 0),
        ("write_rows", 30),
        ("_write_table", 0),
        ("_counts", 0),
        ("write_text", 0),
        ("rename", 0),
    ],
)
def test_a_killed_run_leaves_no_set_and_the_next_run_makes_the_same(
    city, city_set, tmp_path, where, calls
):
    out = tmp_path / "set"
    command = [sys.executable, "-c", KILLED, str(city), str(out), where, str(calls)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert not out.exists() and (tmp_path / ".set.partial").exists()
    prepare(city, out, SMALL)
    assert contents(out) == contents(city_set)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("calls", [0, 1])
def test_a_run_killed_while_replacing_leaves_a_complete_set_or_none(
    city, city_set, tmp_path, calls
):
    out = tmp_path / "set"
    prepare(city, out, PrepareOptions(patch_size=32, grid="crop"))
    command = [sys.executable, "-c", KILLED, str(city), str(out), "rename", str(calls), "force"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert out.exists() == (calls == 0)
    prepare(city, out, SMALL, force=True)
    assert contents(out) == contents(city_set)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]

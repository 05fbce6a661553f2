"""Mistakes of a user: exit code not 0, at most two lines that name the mistake, no traceback."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = "program: train.py\nmethod: grid\nparameters: {x: {values: [1, 2]}}\n"


def folder_below_a_file(store: Path) -> None:
    store.parent.joinpath("file").touch()


def damaged_database(store: Path) -> None:
    store.joinpath("loopback.sqlite").write_bytes(b"no database " * 1000)


def database_of_another_program(store: Path) -> None:
    with sqlite3.connect(store / "loopback.sqlite") as connection:
        connection.execute("CREATE TABLE runs (something TEXT)")
    connection.close()


def folder_as_key(store: Path) -> None:
    (store / "key").mkdir()


def folder_as_users(store: Path) -> None:
    (store / "users").mkdir()


def binary_key(store: Path) -> None:
    (store / "key").write_bytes(b"\xff\xfe" * 40)
    (store / "key").chmod(0o600)


def write(name: str, text: str):
    """A preparation that writes one file of the store."""

    def prepare(store: Path) -> None:
        (store / name).write_text(text)

    prepare.__name__ = f"{name} {text}"
    return prepare


BROKEN_STORES = [
    (damaged_database, "loopback.sqlite"),
    (database_of_another_program, "loopback.sqlite"),
    (folder_as_key, "key"),
    (binary_key, "key"),
    (folder_as_users, "users"),
]
BROKEN_FILES = [
    (["sweep", "sweep.yaml"], write("sweeps.json", '{"format": 2}'), "format 2"),
    (["sweep", "sweep.yaml"], write("sweeps.json", "[]"), "sweeps.json"),
    (["sweep", "sweep.yaml"], write("sweeps.json", '{"a": 5}'), "sweeps.json"),
    (["push", "team/there"], write("pushed.json", "garbage"), "pushed.json"),
    (["push", "team/there"], write("pushed.json", "[1]"), "pushed.json"),
    (["push", "team/there"], write("pushed.json", '{"team/there": 5}'), "pushed.json"),
]
ARGUMENTS = [
    (["exec", "--", "./FOLDER"], "./FOLDER"),
    (["exec", "--", "./not_executable"], "./not_executable"),
    (["exec", "--", ""], "''"),
    (["exec", "--", "no-such-command-at-all"], "no-such-command-at-all"),
    (["serve", "--port", "99999"], "--port"),
    (["serve", "--port", "-1"], "--port"),
    (["serve", "--lost-after", "-5"], "--lost-after"),
    (["serve", "--lost-after", "0"], "--lost-after"),
    (["serve", "--lost-after", "nan"], "--lost-after"),
    (["serve", "--host", "no.such.host.invalid", "--port", "0"], "no.such.host.invalid"),
    (["serve", "--dir", "file/store"], "file/store"),
    (["exec", "--dir", "file/store", "--", "true"], "file/store"),
    (["exec", "--dir", "file", "--", "true"], "--dir"),
    (["sweep", "sweep.yaml", "--dir", "file/store"], "file/store"),
    (["sweep", "sweep.yaml", "--project", "a/b"], "--project"),
    (["sweep", "sweep.yaml", "--agents", "0"], "--agents"),
    (["sweep", "sweep.yaml", "--gpus", ","], "--gpus"),
    (["sweep", "absent.yaml"], "absent.yaml"),
    (["push", "somewhere"], "ENTITY/PROJECT"),
    (["push", "team/there", "--dir", "file/store"], "file/store"),
    (["push", "team/there", "--from", "no-such-project"], "no-such-project"),
    (["agents", "a/b"], "ENTITY/PROJECT/SWEEP"),
    (["agents", "a//c"], "ENTITY/PROJECT/SWEEP"),
    (["agents", "a/b/c", "--stagger", "-1"], "--stagger"),
    (["agents", "a/b/c"], "wandb login"),
]


@pytest.fixture
def place(tmp_path):
    """A working directory with a good sweep, a script, a folder, a file and an empty store."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    for name in ("train.py", "file", "not_executable"):
        (tmp_path / name).touch()
    for name in ("FOLDER", "home", ".loopback"):
        (tmp_path / name).mkdir(mode=0o700)
    return tmp_path


def refused(place: Path, *arguments: str, lines: int = 2) -> str:
    """The command's output, after the assertions that hold for every mistake.

    `lines` is the most that stderr may have; click's lines on usage do not count.
    """
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    environment = clean | {"HOME": str(place / "home")}
    command = [sys.executable, "-m", "loopback", *arguments]
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=60
    )
    output = done.stderr + done.stdout
    assert done.returncode not in (0, -9), output
    assert "Traceback" not in output
    shown = [
        line
        for line in done.stderr.splitlines()
        if line and not line.startswith(("Usage: ", "Try '"))
    ]
    assert 1 <= len(shown) <= lines, output
    assert shown[0].startswith("Error: "), output
    return output


@pytest.mark.parametrize(
    ("arguments", "named"),
    ARGUMENTS,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_named(place, arguments, named):
    assert named in refused(place, *arguments)


@pytest.mark.parametrize(
    "command", [["serve", "--port", "0"], ["exec", "--", "true"]], ids=["serve", "exec"]
)
@pytest.mark.parametrize(("damage", "named"), BROKEN_STORES)
def test_the_damaged_file_of_a_store_is_named(place, command, damage, named):
    if damage is folder_as_users and command[0] == "serve":
        pytest.skip("a server that runs until Ctrl-C does not need that file")
    damage(place / ".loopback")
    assert named in refused(place, *command)


@pytest.mark.parametrize(("command", "damage", "named"), BROKEN_FILES)
def test_a_damaged_list_of_a_command_is_named(place, command, damage, named):
    damage(place / ".loopback")
    assert named in refused(place, *command)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize(
    "command",
    [["serve"], ["exec", "--", "true"], ["sweep", "sweep.yaml"]],
    ids=lambda words: words[0],
)
def test_a_store_that_cannot_be_written_is_named(place, command):
    (place / ".loopback").chmod(0o500)
    assert ".loopback" in refused(place, *command)

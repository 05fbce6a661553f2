"""train.py with a W&B account, as most users have it: logged in through the client's own settings.

The account is our server behind HTTPS; see account_helpers.py.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from account_helpers import (
    Account,
    by_environment,
    by_login,
    by_login_to_a_host,
    by_settings_file,
)
from project_helpers import FEW_STEPS, NARROW, ROOT, run_module

FAST = ["--learning-rate=0.002", "--batch-size=32", "--seed=1", f"--filters={NARROW}"]


def train(data: Path, *options: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), f"--data={data}", *FAST, *options]


@pytest.mark.parametrize("log_in", [by_login, by_login_to_a_host, by_environment, by_settings_file])
def test_every_way_to_log_in_sends_the_run_to_the_account(account, tiny_set, tmp_path, log_in):
    home = tmp_path / "home"
    extra = log_in(account, home)
    run_id = f"reached-{log_in.__name__.replace('_', '-')}"
    done = account.run(
        *train(tiny_set, "--epochs=1"), home=home, WANDB_RUN_ID=run_id, **FEW_STEPS, **extra
    )
    assert done.returncode == 0, done.stdout + done.stderr
    project = "from-the-settings" if log_in is by_settings_file else "aerial-sweeps"
    run = next(run for run in account.runs(project) if run["name"] == run_id)
    assert (run["state"], run["history_lines"]) == ("finished", 1)
    assert json.loads(run["summary"])["status"] == "finished"
    if log_in is not by_login_to_a_host:
        assert account.asked  # through the proxy, at the client's default address
    if log_in is by_login:
        check_the_page_of_a_run(account, home, tiny_set, done.stdout)


def check_the_page_of_a_run(account: Account, home: Path, data: Path, output: str) -> None:
    """Makes the page of the run whose address train.py printed, as on another machine."""
    address = re.search(r"W&B run: +(http\S+)", output)[1]
    shutil.move(home / "runs", home / "elsewhere")
    command = [sys.executable, "-m", "analysis.run", address, f"--data={data}", "--out=page"]
    done = account.run(*command, home=home, PYTHONPATH=str(ROOT))
    assert done.returncode == 0 and "not made" not in done.stderr, done.stderr
    page = (home / "page" / "report.html").read_text()
    assert ": finished, 1 epoch, lowest validation loss" in page
    assert page.count("<figure>") >= 2 + 1 + 4


def not_logged_in(account: Account, home: Path) -> str:
    return "nobody is logged in"


def offline_by_choice(account: Account, home: Path) -> str:
    account.login(home)
    assert account.run("wandb", "offline", home=home).returncode == 0
    return ""


@pytest.mark.parametrize("choose", [not_logged_in, offline_by_choice])
def test_an_offline_run_stays_on_this_machine_and_says_why(account, tiny_set, tmp_path, choose):
    home = tmp_path / "home"
    home.mkdir()
    words = choose(account, home)
    before = len(account.runs("aerial-sweeps"))
    done = account.run(*train(tiny_set, "--epochs=1"), home=home, **FEW_STEPS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(account.runs("aerial-sweeps")) == before
    assert list((home / "wandb").glob("offline-run-*"))
    assert words in done.stdout and ("nobody is logged in" in done.stdout) == bool(words)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            {"WANDB_API_KEY": "0" * 40},
            ["does not accept this login", "wandb login --relogin", "WANDB_MODE=offline"],
        ),
        (
            {"WANDB_API_KEY": "0" * 40, "HTTPS_PROXY": "http://127.0.0.1:9"},
            ["check the network", "WANDB_MODE=offline"],
        ),
        ({"WANDB_API_KEY": "short"}, ["40+ characters", "wandb login"]),
        ({"WANDB_MODE": "online"}, ["wandb login", "WANDB_API_KEY"]),
        ({"WANDB_RUN_ID": "a/b"}, ["WANDB_RUN_ID='a/b'"]),
        ({"WANDB_RUN_ID": ".."}, ["WANDB_RUN_ID='..'"]),
    ],
    ids=["wrong key", "no network", "short key", "no key", "id with a slash", "id of a folder"],
)
def test_what_the_account_refuses_is_reported_in_one_line(
    account, tiny_set, tmp_path, extra, words
):
    home = tmp_path / "home"
    started = time.monotonic()
    done = account.run(*train(tiny_set, "--epochs=1"), home=home, **extra)
    assert time.monotonic() - started < 30  # about 6 s on a quiet machine
    assert done.returncode == 1 and "Traceback" not in done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(error) == 1 and all(word in error[0] for word in words), done.stderr
    assert not (home / "runs").exists()


class Machine:
    """One machine of an account: a home folder that is logged in."""

    def __init__(self, account: Account, folder: Path, data: Path, **extra: str):
        self.account, self.home, self.data, self.extra = account, folder, data, extra
        account.login(folder)

    def start(self, run_id: str, *options: str) -> subprocess.Popen:
        environment = self.account.environment(
            self.home,
            WANDB_RUN_ID=run_id,
            WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL="1",
            **FEW_STEPS,
            **self.extra,
        )
        return subprocess.Popen(
            train(self.data, *options),
            env=environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, run_id: str, *options: str) -> str:
        process = self.start(run_id, *options)
        output = process.communicate(timeout=240)[0]
        assert process.returncode == 0, output
        return output


def rows(account: Account, run_id: str) -> list[dict]:
    run = next((run for run in account.runs("aerial-sweeps") if run["name"] == run_id), None)
    if run is None:
        return []
    sql = "SELECT row FROM history WHERE run_id = ? ORDER BY line"
    return [json.loads(row["row"]) for row in account.store.all(sql, run["id"])]


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 150
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.1)


def check_one_training(account: Account, run_id: str, epochs: int) -> None:
    """Asserts what holds for every history.

    It has one row per epoch, a best loss that never rises, and the best row's weights.
    """
    history = rows(account, run_id)
    assert [row["_step"] for row in history] == list(range(1, epochs + 1))
    losses = [row["val_loss"] for row in history]
    assert [row["best_val_loss"] for row in history] == [
        min(losses[: i + 1]) for i in range(epochs)
    ]
    run = next(run for run in account.runs("aerial-sweeps") if run["name"] == run_id)
    summary = json.loads(run["summary"])
    assert (
        summary["best_val_loss"] == min(losses) and summary["status"] == run["state"] == "finished"
    )
    metadata = account.store.value(
        "SELECT metadata FROM artifacts WHERE run_id = ? ORDER BY id DESC", run["id"]
    )
    best = json.loads(metadata)
    row = history[best["epoch"] - 1]
    assert (
        best["val_loss"] == min(losses) == row["val_loss"]
        and best["val_accuracy"] == row["val_accuracy"]
    )


@pytest.mark.parametrize("upload", ["5", "0"], ids=["with its checkpoint", "without"])
def test_a_preempted_run_is_resumed_on_another_machine(account, tiny_set, tmp_path, upload):
    run_id = f"moved-{upload}"
    first = Machine(account, tmp_path / "first", tiny_set, AERIAL_UPLOAD_MINUTES=upload)
    process = first.start(run_id, "--epochs=500")
    wait_for(lambda: len(rows(account, run_id)) >= 2, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 143, output
    before = rows(account, run_id)
    epochs = len(before) + 2
    second = Machine(account, tmp_path / "second", tiny_set, TF_ENABLE_ONEDNN_OPTS="0")
    output = second.finish(run_id, f"--epochs={epochs}")
    assert "Tried to log to step" not in output  # the client's warning about rows that it drops
    check_one_training(account, run_id, epochs)
    same = rows(account, run_id)[: len(before)] == before
    assert same == (upload == "5") == ("resuming from the uploaded checkpoint" in output)
    assert ("the history is started over" in output) == (upload == "0")


def test_a_killed_run_is_resumed_on_another_machine_and_on_the_first_again(
    account, tiny_set, tmp_path
):
    """It is killed between two uploads and resumed from the uploaded checkpoint.

    Then it is resumed on the first machine, whose own checkpoint is older.
    """
    first = Machine(account, tmp_path / "first", tiny_set, AERIAL_UPLOAD_MINUTES="0.01")
    process = first.start("killed-moved", "--epochs=500")
    uploaded = (
        "SELECT COUNT(*) FROM files f JOIN runs r ON r.id = f.run_id"
        " WHERE r.name = 'killed-moved' AND f.name = 'checkpoint.zip'"
    )
    wait_for(lambda: account.store.value(uploaded), process)
    process.kill()
    process.communicate()
    second = Machine(account, tmp_path / "second", tiny_set, TF_ENABLE_ONEDNN_OPTS="0")
    reached = len(rows(account, "killed-moved")) + 2
    output = second.finish("killed-moved", f"--epochs={reached}")
    assert "resuming from the uploaded checkpoint" in output
    check_one_training(account, "killed-moved", reached)
    Machine(account, tmp_path / "first", tiny_set).finish("killed-moved", f"--epochs={reached + 1}")
    check_one_training(account, "killed-moved", reached + 1)


def test_a_data_set_is_one_artifact_version_on_all_machines_and_a_run_stays_on_its_data(
    account, tiny_set, tmp_path
):
    shutil.copytree(tiny_set, tmp_path / "copy")
    machines = [
        Machine(account, tmp_path / f"machine-{number}", data)
        for number, data in enumerate((tiny_set, tmp_path / "copy"))
    ]
    for number, machine in enumerate(machines):
        machine.finish(f"version-{number}", "--epochs=1")
    sql = (
        "SELECT COUNT(DISTINCT u.artifact_id) FROM uses u"
        " JOIN runs r ON r.id = u.run_id JOIN artifacts a ON a.id = u.artifact_id"
        " JOIN collections c ON c.id = a.collection_id"
        " WHERE c.name = 'prepared' AND r.name LIKE 'version-%'"
    )
    assert account.store.value(sql) == 1

    run_module("segmentation.synthetic", tmp_path / "city", "--size", "64", "--seed", "9")
    options = ("--patch-size", "32", "--grid", "crop")
    run_module("segmentation.prepare", tmp_path / "city", tmp_path / "other", *options)
    before = next(run for run in account.runs("aerial-sweeps") if run["name"] == "version-0")
    machines[1].data = tmp_path / "other"
    process = machines[1].start("version-0", "--epochs=2")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "Traceback" not in output
    assert "run version-0 was trained on the data set" in output and "AERIAL_DATA" in output
    after = next(run for run in account.runs("aerial-sweeps") if run["name"] == "version-0")
    assert before == after

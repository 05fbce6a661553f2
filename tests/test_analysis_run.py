"""run.py: how a run is found and read without a server, and what is refused. No Keras.

Its page is tested in test_analysis_report.py; whole runs in test_train.py and test_account.py.
"""

import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
from analysis_helpers import rows
from click.testing import CliRunner

from analysis import reader
from analysis import run as command
from analysis.runs import Run
from segmentation.checkpoint import Checkpoint
from segmentation.config import Config

CONFIG = asdict(Config(epochs=2, learning_rate=0.002)) | {
    "data": {"checksum": "c1", "leaks": False, "options": {"scale": 4, "patch_size": 256}},
    "environment": {"commit": "abc", "device": "CPU", "precision": "float32"},
}
IDENTITY = {**asdict(Config(learning_rate=0.002)), "precision": "float32", "data": "c1"}


def write(folder: Path, losses=(0.5, 0.4), **changes) -> Path:
    """Writes the checkpoint of a run without a server; its weights are archives, but no models."""
    folder.mkdir(parents=True)
    files = {role: f"{role}-{len(losses):05d}.keras" for role in ("last", "best")}
    for name in files.values():
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("model", "weights")
    identity = {name: value for name, value in IDENTITY.items() if name != "epochs"}
    history = [{n: v for n, v in row.items() if n[0] != "_"} for row in rows(losses)]
    state = {"format": 2, "identity": identity, "rows": history, "files": files}
    state |= {"run": {"name": "", "url": "", "tags": [], "config": CONFIG}, "status": "finished"}
    (folder / "state.json").write_text(json.dumps(state | changes))
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """The folder `runs` of a user in whose working directory the test runs; it holds `first`."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs" / "first")
    return Path("runs")


@pytest.mark.parametrize(
    "name",
    ["first", "runs/first", "wandb/offline-run-20261124_193229-first", "./runs/first/"],
)
def test_a_run_on_this_machine_is_read_without_a_server(runs, name, monkeypatch):
    monkeypatch.setattr(reader, "_client", lambda: pytest.fail("a server was asked"))
    source, run = command.find(name, runs)
    assert Path(source) == runs / "first" and run.id == "first"
    assert run.outcome == "finished" and run.best_epoch == 2 and run.value("best_val_loss") == 0.4
    assert run.hyperparameters == asdict(Config(epochs=2, learning_rate=0.002))
    assert run.data_options["scale"] == 4 and run.environment["device"] == "CPU"
    assert [row["_step"] for row in run.history] == [1, 2]


@pytest.mark.parametrize(
    "name",
    [
        "me/city/abc",
        "https://wandb.ai/me/city/runs/abc?nw=x",
        "http://127.0.0.1:8/me/city/runs/abc",
    ],
)
def test_other_names_are_asked_of_the_server(runs, name, monkeypatch):
    monkeypatch.setattr(reader, "read_run", lambda path: Run("abc", url=path))
    assert command.find(name, runs) == ("me/city/abc", Run("abc", url="me/city/abc"))


@pytest.mark.parametrize("name", ["nosuch", "runs/nosuch", "wandb/offline-run-20261124_193229-no"])
def test_a_run_that_does_not_exist_is_an_error_that_lists_what_there_is(runs, name):
    write(runs / "second")
    os.utime(runs / "first" / "state.json", (1, 1))
    said = CliRunner().invoke(command.main, [name])
    assert said.exit_code == 1 and said.output.startswith(f"Error: no run {name}: there is no ")
    assert "runs holds second, first;" in said.output and said.output.count("\n") == 1
    assert not Path("results").exists()


def test_missing_and_other_data_are_refused_before_anything_is_written(runs, tiny_set):
    for data, word in ((Path("nowhere"), "nowhere"), (tiny_set, "was trained on c1")):
        said = CliRunner().invoke(command.main, ["first", "--data", str(data)])
        assert said.exit_code == 1 and said.output.startswith("Error: ") and word in said.output
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"status": "diverged"}, "diverged"),
        ({"status": None}, "finished"),  # it has all its epochs
        ({"status": None, "losses": (0.5,)}, "failed"),  # killed: it has one of two epochs
        ({"status": None, "run": {}}, "finished"),  # of an older version, which stored neither
    ],
    ids=["stored", "complete", "killed", "older"],
)
def test_the_outcome_of_a_run_without_a_server(tmp_path, changes, outcome):
    run = reader.read_checkpoint(write(tmp_path / "r", **changes))
    assert run.outcome == outcome
    assert run.data["checksum"] == "c1" and run.hyperparameters["learning_rate"] == 0.002


def test_a_run_that_a_process_trains_is_running(tmp_path):
    folder = write(tmp_path / "r", status=None)
    with Checkpoint(folder):
        assert reader.read_checkpoint(folder).outcome == "running"
    assert reader.read_checkpoint(folder).outcome == "finished"

"""Whole runs in this process, without a server."""

import json
from collections.abc import Iterator
from pathlib import Path

import keras
import pytest
import tensorflow
import wandb
from project_helpers import NARROW

import train
from segmentation.ending import Signals

FAST = {
    "learning_rate": 0.002,
    "batch_size": 32,
    "precision": "float32",
    "seed": 1,
    "filters": NARROW,
}


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """`offline(data, run_id, **hyperparameters)` trains in this process, without a server.

    It returns the final status and the content of the checkpoint's state.json.
    """
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))

    def go(data: Path, run_id: str, **options):
        wandb.teardown()  # the client reads the environment once
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
        status = train.run(FAST | options, data, tmp_path / "runs", Signals())
        return status, read_state(tmp_path / "runs" / run_id)

    yield go
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def eager() -> Iterator[None]:
    """TensorFlow runs functions without tracing them first: faster where the steps are few."""
    tensorflow.config.run_functions_eagerly(True)
    yield
    tensorflow.config.run_functions_eagerly(False)


@pytest.fixture
def logged(monkeypatch) -> list[dict]:
    """The rows that runs in this process send to W&B."""
    from segmentation import tracking

    rows, log_rows = [], tracking.log_rows

    def log(run, new):
        rows.extend(new)
        log_rows(run, new)

    monkeypatch.setattr(tracking, "log_rows", log)
    return rows


def read_state(folder: Path) -> dict:
    path = folder / "state.json"
    return json.loads(path.read_text()) if path.exists() else {"rows": []}


def numbers(state: dict) -> list[dict]:
    """The rows without the values that depend on the clock."""
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")}
        for row in state["rows"]
    ]

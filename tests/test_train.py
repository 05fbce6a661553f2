"""Whole runs on tiny data: their rows and files, seeds, resuming, endings, and the terminal."""

import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import wandb
from loopback_helpers import Served
from project_helpers import FEW_STEPS, ROOT
from train_helpers import FAST, numbers, read_state
from wandb.apis.normalize import normalize_exceptions
from wandb.apis.public.runs import RunNotFoundError

import train
from segmentation import datasets, losses, model_facts, models, split_sums
from segmentation.checkpoint import Checkpoint
from segmentation.config import OBJECTIVE, Config
from segmentation.ending import RunEnded, out_of_memory_caught
from segmentation.errors import UserError
from segmentation.labels import CLASSES
from segmentation.model_facts import ModelFacts
from segmentation.prepared import PreparedSet


def test_a_run_saves_one_complete_row_per_epoch_and_three_weights_files(
    offline, tiny_set, tmp_path
):
    status, state = offline(tiny_set, "whole", epochs=3, augment="full", keep_epoch=2)
    assert status == "finished"
    rows = state["rows"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for i, row in enumerate(rows):
        assert row[OBJECTIVE] == min(earlier["val_loss"] for earlier in rows[: i + 1])
        assert {
            "precision",
            "recall",
            "accuracy",
            "mean_iou",
            "mean_iou_labeled",
            "val_iou/Land",
            "iou/Land",
        } <= set(row)
        assert (
            row["learning_rate"] == pytest.approx(0.002)
            and row["seconds"] > 0
            and row["images_per_second"] > 0
        )
        assert all(math.isfinite(value) for value in row.values())
    assert rows[-1]["loss"] < rows[0]["loss"]
    folder = tmp_path / "runs" / "whole"
    best = min(rows, key=lambda row: row["val_loss"])["epoch"]
    assert state["files"] == {
        "last": "last-00003.keras",
        "best": f"best-{best:05d}.keras",
        "kept": "kept-00002.keras",
    }
    assert {path.name for path in folder.iterdir()} == {
        "lock",
        "state.json",
        "predictions.png",
        *state["files"].values(),
    }


def test_the_seed_determines_a_run_also_when_it_is_resumed(offline, tiny_set):
    _, once = offline(tiny_set, "once", epochs=3, augment="flip")
    offline(tiny_set, "parts", epochs=1, augment="flip")
    _, parts = offline(tiny_set, "parts", epochs=3, augment="flip")
    _, other = offline(tiny_set, "other", epochs=1, augment="flip", seed=2)
    assert numbers(once) == numbers(parts)
    assert numbers(other)[0] != numbers(once)[0]


def test_val_loss_does_not_depend_on_val_batch_size(tiny_set):
    prepared = PreparedSet.open(tiny_set)
    keras.utils.set_random_seed(0)
    model = models.build(Config(), prepared.patch_size)
    for name, loss_class in losses.LOSSES.items():
        loss = loss_class()
        model.compile(loss=loss, metrics=[split_sums.SplitSums(loss)])
        sizes = (1, 7, 16, len(prepared.indices("val")))
        values = [
            model.evaluate(datasets.Patches(prepared, "val", size), return_dict=True, verbose=0)[
                "loss"
            ]
            for size in sizes
        ]
        assert max(values) - min(values) < 1e-5, name


def test_a_run_that_diverges_in_its_first_epoch_logs_the_worst_loss(offline, tiny_set, logged):
    """The test of all endings below covers a later epoch: the run keeps the lowest value it had."""
    status, state = offline(
        tiny_set,
        "wild",
        epochs=2,
        filters=16,
        learning_rate=1.0,
        loss="cross_entropy",
        activation="linear",
    )
    assert status == "diverged" and state["rows"] == []
    assert train.STATUSES[status] == 0
    assert math.isfinite(losses.CrossEntropy.worst)
    worst = losses.CrossEntropy.worst
    assert logged == [{"epoch": 1, "best_val_loss": worst, "best_val_error": 1.0}]


def test_out_of_memory_errors_end_the_run_and_other_errors_pass():
    import tensorflow as tf

    for error in (
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        MemoryError(),
    ):
        with pytest.raises(RunEnded) as ended, out_of_memory_caught():
            raise error
        assert ended.value.status == "oom"
    with pytest.raises(ZeroDivisionError), out_of_memory_caught():
        raise ZeroDivisionError


def test_a_checkpoint_of_another_configuration_is_refused(offline, tiny_set):
    offline(tiny_set, "mine", epochs=1)
    with pytest.raises(UserError, match="batch_size differ"):
        offline(tiny_set, "mine", epochs=2, batch_size=16)


def test_a_half_written_checkpoint_is_ignored_and_removed(tmp_path):
    model = models.build(Config(), 16)
    model.compile(keras.optimizers.Adam(0.001), losses.CrossEntropy())
    checkpoint = Checkpoint(tmp_path)
    checkpoint.identify({"seed": 0, "precision": "float32"})
    checkpoint.save(model, {"epoch": 1, "loss": 1.0}, best=True, keep=False)
    (tmp_path / "part-last-00002.keras").write_bytes(b"half")
    (tmp_path / "part-state.json").write_text('{"rows": [')
    again = Checkpoint(tmp_path)
    assert again.epoch == 1 and again.load().count_params() == model.count_params()
    again.save(model, {"epoch": 2, "loss": 2.0}, best=False, keep=False)
    assert {path.name for path in tmp_path.glob("*.keras")} == {
        "last-00002.keras",
        "best-00001.keras",
    }


def test_every_weights_file_says_how_its_images_were_made_and_opens_in_keras(tmp_path):
    facts = ModelFacts(scale=4, size=16, checksum="c", split="tiles")
    model = models.build(Config(), 16)
    model.compile(keras.optimizers.Adam(0.001), losses.CrossEntropy())
    checkpoint = Checkpoint(tmp_path)
    checkpoint.describe(facts, {"name": "x", "config": {"seed": 0}})
    for epoch in (1, 2):
        row = {"epoch": epoch, "loss": 1.0 / epoch}
        checkpoint.save(model, row, best=epoch == 1, keep=epoch == 2)
    for role, epoch in (("best", 1), ("kept", 2), ("last", 2)):
        assert model_facts.read(checkpoint.path(role)) == replace(facts, epoch=epoch)
    assert model_facts.read(checkpoint.path("last")).classes == CLASSES
    images = np.full((1, 16, 16, 3), 7, np.uint8)
    opened = keras.saving.load_model(checkpoint.path("best"), safe_mode=True)
    np.testing.assert_array_equal(opened.predict_on_batch(images), model.predict_on_batch(images))
    again = Checkpoint(tmp_path)
    assert again.load().count_params() == model.count_params()
    assert again.run == {"name": "x", "config": {"seed": 0}} and again.status is None
    again.end("diverged")
    assert Checkpoint(tmp_path).status == "diverged"


def command(data: Path, runs: Path, *options: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), f"--data={data}", f"--runs={runs}", *options]


def started(tmp_path: Path, data: Path, *options: str, **environment: str) -> subprocess.Popen:
    # W&B's client passes its service on in the environment; conftest.py sets TensorFlow's log level
    inherited = {
        name: value
        for name, value in os.environ.items()
        if "WANDB" not in name and name != "TF_CPP_MIN_LOG_LEVEL"
    }
    own = {"HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)}
    environment = inherited | own | FEW_STEPS | environment
    fast = [f"--{name}={value}" for name, value in FAST.items()]
    return subprocess.Popen(
        command(data, tmp_path / "runs", *fast, *options),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_epoch(process: subprocess.Popen, folder: Path, epoch: int) -> None:
    deadline = time.monotonic() + 150
    while len(read_state(folder)["rows"]) < epoch:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the epoch did not come"
        time.sleep(0.05)


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(tmp_path, tiny_set):
    """kill -9 during training, then the same command with the same run id in a new process.

    The model is traced, as in a user's run.
    """
    options = ("--epochs=8", "--augment=flip")
    whole = started(tmp_path, tiny_set, *options, PYTHONPATH="", WANDB_RUN_ID="whole")
    assert whole.wait(200) == 0, whole.communicate()[0]
    killed = started(tmp_path, tiny_set, *options, PYTHONPATH="", WANDB_RUN_ID="killed")
    wait_for_epoch(killed, tmp_path / "runs" / "killed", 2)
    killed.kill()
    killed.wait()
    done = len(read_state(tmp_path / "runs" / "killed")["rows"])
    assert 2 <= done < 8
    resumed = started(tmp_path, tiny_set, *options, PYTHONPATH="", WANDB_RUN_ID="killed")
    output = resumed.communicate(timeout=200)[0]
    assert resumed.returncode == 0, output
    assert f"epoch {done:>3}/8" not in output  # resumed, not started again
    assert numbers(read_state(tmp_path / "runs" / "killed")) == numbers(
        read_state(tmp_path / "runs" / "whole")
    )


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [(signal.SIGTERM, "preempted", 143), (signal.SIGINT, "interrupted", 130)],
)
def test_a_signal_ends_the_run_with_its_status_exit_code_and_checkpoint(
    tmp_path, tiny_set, sent, status, code
):
    process = started(tmp_path, tiny_set, "--epochs=500", WANDB_RUN_ID="signalled")
    wait_for_epoch(process, tmp_path / "runs" / "signalled", 1)
    process.send_signal(sent)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert f"run signalled {status}" in output and "WANDB_RUN_ID=signalled" in output
    checkpoint = read_state(tmp_path / "runs" / "signalled")
    assert (tmp_path / "runs" / "signalled" / checkpoint["files"]["last"]).is_file()


def test_the_terminal_shows_warnings_of_tensorflow_and_nothing_else_of_it(tmp_path, tiny_set):
    """The published network, as users train it: traced, on all cores.

    TensorFlow warns of this value of its variable while it prints the lines to remove.
    """
    environment = {"WANDB_MODE": "offline", "TF_ENABLE_ONEDNN_OPTS": "maybe"}
    usual = {"PYTHONPATH": "", "TF_NUM_INTRAOP_THREADS": "0", "TF_NUM_INTEROP_THREADS": "0"}
    process = started(tmp_path, tiny_set, "--epochs=1", "--filters=16", **environment, **usual)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    lines = output.splitlines()
    own = [line for line in lines if "TF_ENABLE_ONEDNN_OPTS is not set to either" not in line]
    assert len(own) < len(lines), output
    # on a busy machine, once per home folder; Keras imports Matplotlib
    own = [line for line in own if "Matplotlib is building the font cache" not in line]
    expected = [
        r".+, float32, 1,941,190 parameters; patches: 75 train, 18 val, 24 test",
        r"epoch   1/1  loss \S+  val_loss \S+  val accuracy \S+  val mean IoU \S+  \d+\.\d s",
        r"best epoch 1: best_val_loss .*",
        r"scores: .*state\.json",
        r"pictures: .*predictions\.png",
        r"W&B run: .*offline-run.*",
        r"report: +python -m analysis\.run \S+ --data \S+",
    ]
    assert len(own) == len(expected), output
    for pattern, line in zip(expected, own, strict=True):
        assert re.fullmatch(pattern, line), output
    _, *words = shlex.split(own[-1].removeprefix("report:"))
    away = {name: value for name, value in os.environ.items() if "WANDB" not in name}
    run_id = Path(words[2]).name
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=away | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "not made" not in done.stderr, done.stderr
    page = (tmp_path / "results" / f"run-{run_id}" / "report.html").read_text()
    assert f"Run {run_id}: finished, 1 epoch, lowest validation loss" in page
    assert page.count("<figure>") >= 2 + 1 + 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--learning-rate", "fast"], ["--learning-rate", "'fast'"]),
        (["--batch-size", "0"], ["--batch-size", "1<=x<=1024"]),
        (["--activation", "gelu"], ["'gelu'", "'relu'"]),
        (["--architecture", "fpn"], ["fpn needs a backbone"]),
        (["--architecture=pspnet", "--backbone=resnet18"], ["multiple of 48 px", "32 px"]),
        (["--data", "nowhere"], ["nowhere", "python -m segmentation.prepare RAW"]),
    ],
)
def test_bad_input_is_reported_within_seconds_and_nothing_is_written(
    tmp_path, tiny_set, options, words
):
    work = tmp_path / "work"
    work.mkdir()
    begun = time.monotonic()
    done = subprocess.run(
        command(tiny_set, work / "runs", *options),
        cwd=work,
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(work)},
    )
    # about 1 s on a quiet machine: no framework is imported, as the next test asserts
    assert time.monotonic() - begun < 20
    assert done.returncode != 0 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert list(work.iterdir()) == []


def test_bad_input_is_reported_without_importing_a_framework(tiny_set):
    script = "import sys, train\ntry: train.main(['--data', 'nowhere'])\nexcept SystemExit: pass\n"
    script += "print(sorted({'tensorflow', 'keras', 'wandb', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


ENDINGS = [
    ("finished", 2),
    *(
        (status, epoch)
        for status in ("diverged", "oom", "preempted", "interrupted")
        for epoch in (0, 1)
    ),
]


@pytest.mark.parametrize(("status", "epoch"), ENDINGS)
def test_in_every_ending_the_last_objective_is_its_minimum(
    offline, eager, tiny_set, logged, monkeypatch, status, epoch
):
    """W&B's searches read the minimum of the history, and its dashboard reads the last value."""
    from segmentation import callbacks

    begin = callbacks.Progress.on_epoch_begin

    def begin_or_end(self, number, logs=None):
        if number == epoch and status != "finished":
            raise RunEnded(status, "planned by the test")
        begin(self, number, logs)

    monkeypatch.setattr(callbacks.Progress, "on_epoch_begin", begin_or_end)
    final, state = offline(tiny_set, f"ends-{status}-{epoch}", epochs=2)
    assert final == status and state.get("status") == (status if epoch else None)
    values = [row[OBJECTIVE] for row in logged]
    assert values == sorted(values, reverse=True)
    if epoch:
        assert values[-1] == min(row["val_loss"] for row in logged)
    else:
        assert values == ([losses.DiceFocal.worst] if status in ("diverged", "oom") else [])


@pytest.mark.parametrize("broken", [False, True], ids=["that finished", "that crashed"])
def test_a_run_whose_server_was_killed_ends_on_the_first_sigterm(tmp_path, tiny_set, broken):
    """W&B's client would wait for its server without a limit."""
    served = Served(tmp_path / "store").start()
    environment = {name: served.environment()[name] for name in ("WANDB_BASE_URL", "WANDB_API_KEY")}
    data = tmp_path / "data"
    shutil.copytree(tiny_set, data)
    process = started(tmp_path, data, "--epochs=2", WANDB_RUN_ID="alone", **environment)
    folder = tmp_path / "runs" / "alone"
    wait_for_epoch(process, folder, 1)
    served.kill()
    if broken:
        shutil.rmtree(folder)  # the next epoch cannot be saved
        time.sleep(20)
    else:
        deadline = time.monotonic() + 150
        while not (folder / "predictions.png").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
    assert process.poll() is None  # it waits for its server
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 143, output
    assert "send it later: wandb sync" in output


def test_a_run_is_new_only_if_the_server_says_so(monkeypatch):
    """Without an answer, the run may have rows, and a second training would be appended to them."""
    from segmentation import tracking

    class Away:
        def run(self, path):
            raise wandb.errors.CommError("502 Bad Gateway")

    class New:
        @normalize_exceptions  # the client's decorator, which wraps the error
        def run(self, path):
            raise RunNotFoundError(f"Could not find run {path}")

    monkeypatch.setenv("WANDB_RUN_ID", "known")
    assert tracking._earlier_run(New(), "e/p/known") is None
    with pytest.raises(
        UserError, match=r"run e/p/known \(502 Bad Gateway\); start the command again"
    ):
        tracking._earlier_run(Away(), "e/p/known")

"""Runs with the whole recipe: windows, schedule, averages, both objectives, no validation split."""

import keras
import pytest
from train_helpers import numbers

from segmentation import callbacks, datasets, losses
from segmentation.checkpoint import Checkpoint
from segmentation.ending import RunEnded
from segmentation.errors import UserError
from segmentation.prepare import prepare
from segmentation.prepared import PreparedSet, PrepareOptions

RECIPE = {
    "schedule": "cosine",
    "warmup_epochs": 1,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "ema": 0.9,
    "normalization": "group",
    "dropout": "bottom",
    "loss": "ce_dice",
    "label_smoothing": 0.1,
    "unlabeled": "ignore",
    "augment": "flip",
    "window": 48,
    "scale_jitter": 0.4,
    "photometric": 0.2,
    "cutmix": 0.5,
    "class_sampling": 0.5,
    "best_by": "error",
    "filters": 4,
}


@pytest.fixture(scope="module")
def set_of(city, tmp_path_factory):
    """`set_of(lists)` is the folder of a set of the made-up city with these splits, and mosaics."""

    def make(lists: str):
        out = tmp_path_factory.mktemp("recipe") / "set"
        prepare(city, out, PrepareOptions(patch_size=32, split=lists, mosaics=True))
        return out

    return make


@pytest.fixture(scope="module")
def mosaics(set_of):
    """The city in two places: training and validation."""
    return set_of("2,4/1,3/")


@pytest.fixture
def interrupt(monkeypatch):
    """`interrupt(n)` ends runs of this process when their epoch n + 1 begins."""
    begin = callbacks.Progress.on_epoch_begin

    def after(epochs: int) -> None:
        def begin_or_end(self, number, logs=None):
            if number == epochs:
                raise RunEnded("interrupted", "planned by the test")
            begin(self, number, logs)

        monkeypatch.setattr(callbacks.Progress, "on_epoch_begin", begin_or_end)

    yield after


def test_a_run_with_the_whole_recipe_resumes_exactly(offline, eager, mosaics, interrupt, tmp_path):
    _, once = offline(mosaics, "once", epochs=3, **RECIPE)
    interrupt(1)
    status, parts = offline(mosaics, "parts", epochs=3, **RECIPE)
    assert status == "interrupted" and len(parts["rows"]) == 1
    interrupt(-1)
    _, parts = offline(mosaics, "parts", epochs=3, **RECIPE)
    assert numbers(once) == numbers(parts)
    rates = [row["learning_rate"] for row in once["rows"]]
    assert rates[0] == pytest.approx(0.002, rel=1e-5) and rates[1] == pytest.approx(0.001, rel=1e-5)
    assert rates[2] == pytest.approx(0, abs=1e-8)
    for row, number in zip(once["rows"], range(1, 4), strict=True):
        for name in ("val_loss", "val_error"):
            earlier = [other[name] for other in once["rows"][:number]]
            assert row[f"best_{name}"] == min(earlier)
        assert row["val_error"] == pytest.approx(1 - row["val_mean_iou_labeled"])
    lowest = min(once["rows"], key=lambda row: row["val_error"])
    checkpoint = Checkpoint(tmp_path / "runs" / "once")
    assert checkpoint.best_row["epoch"] == lowest["epoch"]
    with pytest.raises(UserError, match="epochs was 3 and is 4"):  # another schedule
        offline(mosaics, "once", epochs=4, **RECIPE)


@pytest.mark.parametrize(("best_by", "best"), [("loss", 3), ("error", 2)])
def test_the_best_weights_are_those_of_the_value_that_best_by_names(
    offline, eager, tiny_set, monkeypatch, best_by, best
):
    values = iter([(3.0, 0.5), (2.0, 0.4), (1.0, 0.6)])

    def validate(self, _):
        loss, error = next(values)
        scores = {"val_accuracy": 0.5, "val_mean_iou": 0.5}
        return {"val_loss": loss, "val_error": error, **scores}

    monkeypatch.setattr(callbacks.EpochLogger, "_validate", validate)
    _, state = offline(tiny_set, f"by-{best_by}", epochs=3, best_by=best_by)
    assert state["files"]["best"] == f"best-{best:05d}.keras"
    assert [row["best_val_loss"] for row in state["rows"]] == [3.0, 2.0, 1.0]
    assert [row["best_val_error"] for row in state["rows"]] == [0.5, 0.4, 0.4]


def test_without_a_validation_split_the_last_weights_are_the_best(
    offline, eager, set_of, logged, tmp_path
):
    status, state = offline(set_of("2,4//1,3"), "final", epochs=2, **RECIPE)
    assert status == "finished"
    assert state["files"] == {"last": "last-00002.keras", "best": "best-00002.keras"}
    assert not [name for row in logged for name in row if "val_" in name]
    assert not (tmp_path / "runs" / "final" / "predictions.png").exists()


def test_the_published_ruler_is_the_mean_of_the_losses_of_batches_of_16(
    offline, eager, tiny_set, tmp_path
):
    _, state = offline(tiny_set, "ruler", epochs=1, loss="dice_focal_published")
    (row,) = state["rows"]
    model = keras.saving.load_model(tmp_path / "runs" / "ruler" / state["files"]["best"])
    model.compile(loss=losses.DiceFocalPublished())  # without SplitSums: Keras' own mean
    val = datasets.Patches(PreparedSet.open(tiny_set), "val", 16)
    expected = model.evaluate(val, verbose=0)
    assert row["val_loss_batch16"] == pytest.approx(expected, abs=1e-6)
    assert row["val_loss_batch16"] != pytest.approx(row["val_loss"], abs=1e-6)


@pytest.mark.parametrize("options", [{"val_batch_size": 8}, {"loss": "dice_focal"}])
def test_only_the_published_loss_in_batches_of_16_has_the_published_ruler(
    offline, eager, tiny_set, options
):
    _, state = offline(tiny_set, "other", epochs=1, **{"loss": "dice_focal_published"} | options)
    assert "val_loss_batch16" not in state["rows"][0]


@pytest.mark.parametrize(
    ("window", "words"), [(64, "needs mosaics|--mosaics"), (4096, "largest|at most window")]
)
def test_windows_that_the_set_cannot_serve_are_refused_before_the_run(
    offline, tiny_set, mosaics, tmp_path, window, words
):
    data = tiny_set if window == 64 else mosaics
    with pytest.raises(UserError, match=words):
        offline(data, "refused", window=window)
    assert not (tmp_path / "runs").exists()

"""Evaluates the best weights of a finished run on the validation split and logs the result.

The results go to W&B, and the pictures also into the run's folder.
"""

from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from segmentation import metrics, pictures, tracking
from segmentation.checkpoint import Checkpoint
from segmentation.config import BEST_BY, Config
from segmentation.datasets import Patches, predict
from segmentation.prepared import PreparedSet

PICTURES = 6
"""Patches shown, evenly spaced over the split: the same ones for all runs on one prepared set."""

PIXELS_PER_BATCH = 20_000
"""Sample for the curves on the run's page. The analysis computes them from every pixel."""


def log_best_weights(
    run: tracking.Run,
    config: Config,
    checkpoint: Checkpoint,
    prepared: PreparedSet,
    val_data: Patches | None,
) -> None:
    """Logs confusion matrix, precision-recall curves, pictures and the weights themselves.

    Args:
        run: The open W&B run.
        config: The run's hyperparameters.
        checkpoint: The finished training. Its `best` and `kept` weights are uploaded.
        prepared: The set that the run was trained on.
        val_data: The validation split of `prepared`. Without one, only the weights are logged.
    """
    row = checkpoint.best_row
    weights = {
        f"{role}.keras": checkpoint.path(role) for role in checkpoint.files if role != "last"
    }
    if val_data is None:
        lines = [f"last epoch {row['epoch']}: loss {row['loss']:.4f}; no validation split"]
    else:
        panel = checkpoint.folder / "predictions.png"
        best = keras.saving.load_model(checkpoint.path("best"), safe_mode=True)
        confusion, truth, probabilities = metrics.pool(predict(best, val_data), PIXELS_PER_BATCH)
        tracking.log_confusion(run, confusion)
        tracking.log_curves(run, metrics.precision_recall_curves(truth, probabilities))
        title = f"run {run.id}, epoch {row['epoch']}, val mean IoU {row['val_mean_iou']:.3f}"
        _log_pictures(run, best, prepared, val_data.indices, panel, title)
        objective = f"best_{BEST_BY[config.best_by]}"
        lines = [
            f"best epoch {row['epoch']}: {objective} {row[objective]:.4f}, "
            f"val mean IoU {row['val_mean_iou']:.3f}",
            f"pictures: {panel}",
        ]
    tracking.save_model(run, weights, row)
    run.summary["best_epoch"] = row["epoch"]
    lines.insert(1, f"scores:   {checkpoint.folder / 'state.json'}")
    print("\n".join(lines), flush=True)


def _log_pictures(
    run: tracking.Run,
    model: keras.Model,
    prepared: PreparedSet,
    indices: NDArray[np.int64],
    panel: Path,
    title: str,
) -> None:
    """Logs some patches with truth and prediction, and draws them as one figure into `panel`.

    Args:
        indices: The split's patches, from which PICTURES are chosen.
        title: Title of the figure.
    """
    chosen = indices[np.linspace(0, len(indices) - 1, PICTURES).astype(int)]
    images, masks = prepared.images[chosen], prepared.masks[chosen]
    predictions = np.asarray(model.predict_on_batch(images)).argmax(-1).astype(np.uint8)
    captions = [
        "tile {tile} part {part} row {row} column {column}".format(**prepared.patches[i])
        for i in chosen
    ]
    pictures.draw(images, masks, predictions, captions, title, panel)
    tracking.log_pictures(run, images, masks, predictions, captions, panel)

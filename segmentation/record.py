"""What the best weights of a finished run say about the validation split: into W&B, and into the run's folder."""

from pathlib import Path

import cv2
import keras
import numpy as np

from segmentation import metrics, tracking
from segmentation.checkpoint import Checkpoint
from segmentation.config import OBJECTIVE
from segmentation.datasets import Patches, predict
from segmentation.labels import decode
from segmentation.prepared import PreparedSet

PICTURES = (
    6  # patches, evenly spaced over the split: the same ones in every run on one prepared set
)
PIXELS_A_BATCH = (
    20_000  # sampled for the curves on the run's page; analysis computes them on every pixel
)


def best_weights(run, checkpoint: Checkpoint, prepared: PreparedSet, val_data: Patches) -> None:
    """Confusion matrix, precision-recall curves, pictures and the weights themselves; `run` is the open W&B run."""
    best = keras.saving.load_model(checkpoint.path("best"), safe_mode=True)
    confusion, truth, probabilities = metrics.pool(predict(best, val_data), PIXELS_A_BATCH)
    tracking.log_confusion(run, confusion)
    tracking.log_curves(run, metrics.precision_recall_curves(truth, probabilities))
    panel = _pictures(run, best, prepared, val_data.indices, checkpoint.folder / "predictions.png")

    row = checkpoint.best_row
    tracking.save_model(
        run,
        {f"{role}.keras": checkpoint.path(role) for role in checkpoint.files if role != "last"},
        row,
    )
    run.summary["best_epoch"] = row["epoch"]
    print(
        f"best epoch {row['epoch']}: {OBJECTIVE} {row[OBJECTIVE]:.4f}, val mean IoU {row['val_mean_iou']:.3f}"
    )
    print(f"numbers:  {checkpoint.folder / 'state.json'}")
    print(f"pictures: {panel} (image | truth | prediction)")


def _pictures(
    run, model: keras.Model, prepared: PreparedSet, indices: np.ndarray, panel: Path
) -> Path:
    """A handful of patches with truth and prediction, to W&B and as one PNG."""
    chosen = indices[np.linspace(0, len(indices) - 1, PICTURES).astype(int)]
    images, masks = prepared.images[chosen], prepared.masks[chosen]
    predictions = np.asarray(model.predict_on_batch(images)).argmax(-1).astype(np.uint8)
    captions = [
        "tile {tile} part {part} row {row} column {column}".format(**prepared.patches[i])
        for i in chosen
    ]
    columns = [
        np.vstack(part) for part in (images, [*map(decode, masks)], [*map(decode, predictions)])
    ]
    cv2.imwrite(str(panel), np.hstack(columns)[..., ::-1])
    tracking.log_pictures(run, images, masks, predictions, captions, panel)
    return panel

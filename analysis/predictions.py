"""What a run's weights say about every patch of a split, counted once and kept in the cache beside the weights."""

import functools
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from analysis import runs
from analysis.records import Run
from analysis.waist import Waist
from segmentation import labels, metrics
from segmentation.errors import UserError
from segmentation.prepared import PreparedSet

SAMPLE = 400_000  # pixels of a split that curves are drawn from: all of a small set's, 12 MB in the cache
BATCH = 16


@dataclass(frozen=True)
class Evaluation:
    """One run's answer to one split. n patches of h x w px, in the order of `indices`."""

    indices: np.ndarray
    """(n,) int64, the patches in the prepared set."""
    predictions: np.ndarray
    """(n, h, w) uint8 class indices."""
    confusions: np.ndarray
    """(n, classes, classes) int64, a confusion matrix a patch."""
    confident: np.ndarray
    """(2,) int64: probabilities above 0.5 at the true class, and at any, over labelled pixels."""
    truth: np.ndarray
    """(m,) uint8, the classes of a sample of labelled pixels, at most SAMPLE."""
    probabilities: np.ndarray
    """(m, classes) float32, what was said of them."""

    @property
    def confusion(self) -> np.ndarray:
        """(classes, classes) int64 over the whole split."""
        return self.confusions.sum(axis=0)


def evaluate(waist: Waist, run: Run, role: str, split: str, data: Path, local: Path) -> Evaluation:
    """From the cache where the same weights met the same data before. UserError where weights or data are not to be had."""
    prepared = waist.data(data, run)
    weights = runs.weights(run, role, waist.sweep.path, waist.cache, local)
    file = waist.cache / "predictions" / f"{run.id}-{role}-{split}.npz"
    stamp = hashlib.sha256(weights.read_bytes()).hexdigest() + prepared.manifest["checksum"]
    kept = _kept(file, stamp)
    if kept:
        return kept
    found = compute(load(weights), prepared, split)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez_compressed(
        part, stamp=stamp, **{spec.name: getattr(found, spec.name) for spec in fields(Evaluation)}
    )
    part.replace(file)
    return found


def losses_by_batch(
    waist: Waist, run: Run, sizes: list[int], data: Path, local: Path
) -> dict[int, float]:
    """Size of a validation batch -> the run's own loss of its best weights over the validation split, computed again."""
    from segmentation import datasets, losses
    from segmentation.split_sums import SplitSums

    prepared = waist.data(data, run)
    model, loss = (
        load(runs.weights(run, "best", waist.sweep.path, waist.cache, local)),
        losses.LOSSES[run.config["loss"]](),
    )
    model.compile(loss=loss, metrics=[SplitSums(loss)])
    batches = {size: datasets.Patches(prepared, "val", size) for size in sizes}
    return {
        size: float(model.evaluate(patches, return_dict=True, verbose=0)["loss"])
        for size, patches in batches.items()
    }


def compute(model, prepared: PreparedSet, split: str) -> Evaluation:
    """Run the model over a split, batch by batch: neither the images nor the probabilities have to fit into memory."""
    from segmentation.datasets import (
        Patches,
        predict,
    )  # Keras, and with it seconds, that the cache spares

    patches = Patches(prepared, split, BATCH)
    predictions, confusions, confident = [], [], np.zeros(2, np.int64)

    def watched() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for images, masks, probabilities in predict(model, patches):
            guesses = probabilities.argmax(-1).astype(np.uint8)
            predictions.append(guesses)
            confusions.extend(map(metrics.confusion_matrix, masks, guesses))
            labelled, bold = masks != labels.IGNORE, probabilities > 0.5
            at_truth = np.take_along_axis(
                bold, np.where(labelled, masks, 0)[..., None].astype(np.int64), -1
            )[..., 0]
            confident[:] += np.count_nonzero(at_truth & labelled), np.count_nonzero(bold[labelled])
            yield images, masks, probabilities

    _, truth, probabilities = metrics.pool(watched(), max(1, SAMPLE // len(patches)))
    return Evaluation(
        patches.indices,
        np.concatenate(predictions),
        np.array(confusions),
        confident,
        truth.astype(np.uint8),
        probabilities.astype(np.float32),
    )


@functools.lru_cache(maxsize=1)  # one run's splits come one after the other
def load(weights: Path):
    """The model in a .keras file, to predict with; UserError where it cannot be opened."""
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "3"
    )  # TensorFlow's greeting tells nothing about the figures
    logging.getLogger("tensorflow").setLevel("ERROR")
    import keras

    try:
        return keras.saving.load_model(weights, compile=False, safe_mode=True)
    except Exception as error:  # whatever Keras finds wrong in a file of another version or project
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{weights} cannot be opened as a model of this project ({reason})"
        ) from error


def _kept(file: Path, stamp: str) -> Evaluation | None:
    """What was computed before for these weights and this data; None where there is none, or a damaged one."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays["stamp"]) == stamp:
                return Evaluation(**{spec.name: arrays[spec.name] for spec in fields(Evaluation)})
    except Exception:
        return None
    return None

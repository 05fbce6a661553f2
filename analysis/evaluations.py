"""Evaluations: what the weights of one run predict for every patch of one split.

Computed once, then kept in a file.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segmentation import metrics, tensorflow_log
from segmentation.errors import UserError
from segmentation.labels import IGNORE
from segmentation.prepared import PreparedSet

if TYPE_CHECKING:
    import keras

SAMPLE = 400_000  # pixels of a split from which curves are drawn; 12 MB in the file
BATCH = 16  # patches predicted at the same time
CONFIDENT = 0.5  # the threshold of Keras' Precision and Recall

Model = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(n, h, w, 3) uint8 RGB patches -> (n, h, w, classes) float32 probabilities."""


@dataclass(frozen=True)
class Evaluation:
    """Predictions of one run for one split: n patches of h x w px, in the order of `indices`."""

    indices: NDArray[np.int64]
    """(n,) positions of the patches in the prepared set."""
    predictions: NDArray[np.uint8]
    """(n, h, w) class indices."""
    confusions: NDArray[np.int64]
    """(n, classes, classes): one confusion matrix per patch, row = truth, column = prediction."""
    confident: NDArray[np.int64]
    """(2,) numbers of probabilities above CONFIDENT: at the true class, at any class."""
    truth: NDArray[np.uint8]
    """(m,) class indices of a sample of labelled pixels, at most SAMPLE."""
    probabilities: NDArray[np.float32]
    """(m, classes) predicted probabilities of this sample."""

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(classes, classes): the confusion matrix of the whole split."""
        return np.asarray(self.confusions.sum(axis=0))


def compute(model: "keras.Model", prepared: PreparedSet, split: str) -> Evaluation:
    """The evaluation of a model on a split.

    One batch at a time is in memory, with its probabilities.
    """
    from segmentation.datasets import Patches, predict  # imports Keras, which takes seconds

    patches = Patches(prepared, split, BATCH)
    predictions, truths, samples = [], [], []
    confusions: list[NDArray[np.int64]] = []
    confident = np.zeros(2, np.int64)
    for number, batch in enumerate(predict(model, patches)):
        _, masks, probabilities = batch
        predicted = probabilities.argmax(-1).astype(np.uint8)
        predictions.append(predicted)
        confusions += map(metrics.confusion_matrix, masks, predicted)
        confident += _confident(masks, probabilities)
        _, truth, sample = metrics.pool([batch], max(1, SAMPLE // len(patches)), seed=number)
        truths.append(truth)
        samples.append(sample)
    return Evaluation(
        patches.indices,
        np.concatenate(predictions),
        np.array(confusions),
        confident,
        np.concatenate(truths).astype(np.uint8),
        np.concatenate(samples).astype(np.float32),
    )


def losses_by_batch_size(
    model: "keras.Model", loss: str, prepared: PreparedSet, sizes: Sequence[int]
) -> dict[int, float]:
    """Size of a validation batch -> the loss named `loss` of the model on the validation split."""
    from segmentation import datasets, losses
    from segmentation.split_sums import SplitSums

    function = losses.LOSSES[loss]()
    model.compile(loss=function, metrics=[SplitSums(function)])
    batches = {size: datasets.Patches(prepared, "val", size) for size in sizes}
    return {
        size: float(model.evaluate(patches, return_dict=True, verbose=0)["loss"])
        for size, patches in batches.items()
    }


@functools.lru_cache(maxsize=1)  # the splits of one run are evaluated one after the other
def load_model(weights: Path) -> "keras.Model":
    """The model in a .keras file, for predictions. Raises UserError if Keras cannot open it."""
    logging.getLogger("tensorflow").setLevel("ERROR")
    try:
        with tensorflow_log.filtered():
            import keras

            return keras.saving.load_model(weights, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many types for files of other versions or projects
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{weights} cannot be opened as a model of this project ({reason})"
        ) from error


def read(file: Path, stamp: str) -> Evaluation | None:
    """The evaluation in `file` if it has this stamp.

    None if there is no such file, or it is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays["stamp"]) == stamp:
                return Evaluation(**{spec.name: arrays[spec.name] for spec in fields(Evaluation)})
    except Exception:  # NumPy raises many types for damaged files; the evaluation is computed again
        return None
    return None


def write(evaluation: Evaluation, file: Path, stamp: str) -> None:
    """Writes the evaluation atomically. `stamp` identifies the weights and the data."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez_compressed(part, stamp=np.array(stamp), **asdict(evaluation))
    part.replace(file)


def _confident(masks: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """(2,): the counts of `Evaluation.confident` for one batch."""
    labelled, confident = masks != IGNORE, probabilities > CONFIDENT
    truth = np.where(labelled, masks, 0)[..., None].astype(np.int64)
    at_truth = np.take_along_axis(confident, truth, -1)[..., 0]
    hits = np.count_nonzero(at_truth & labelled)
    return np.array([hits, np.count_nonzero(confident[labelled])], np.int64)

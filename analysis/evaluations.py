"""Evaluations: what models predict for the patches of a prepared set, and how right that is.

`compute` evaluates one run on one split; its result is kept in a file. `evaluate` counts the pixels
of any tiles per place.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from analysis import blending
from analysis.blending import Model
from segmentation import metrics, splits, tensorflow_log
from segmentation.errors import UserError
from segmentation.labels import IGNORE, NUM_CLASSES
from segmentation.prepared import Mosaic, PreparedSet

if TYPE_CHECKING:
    import keras

SAMPLE = 400_000  # pixels of a split from which curves are drawn; 12 MB in the file
BATCH = 16  # patches predicted at the same time
CONFIDENT = 0.5  # the threshold of Keras' Precision and Recall

Place = tuple[int, ...]
"""Tiles that show the same ground, ascending."""

Prediction = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Truth and prediction: class indices of one shape; the truth may be IGNORE."""


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


def evaluate(
    models: Sequence[Model],
    prepared: PreparedSet,
    tiles: Sequence[int],
    tta: bool = False,
    overlap: bool = False,
    size: int | None = None,
) -> dict[Place, NDArray[np.int64]]:
    """Place -> (classes, classes) int64 confusion matrix, row = truth, column = prediction.

    One batch or one mosaic is in memory at a time.

    Args:
        models: At least one. The mean of their probabilities is evaluated.
        prepared: A prepared set.
        tiles: Tiles of the set. Those that show the same ground make one place.
        tta: Average the probabilities over the eight symmetries of the square.
        overlap: Predict the whole mosaics of the set with overlapping windows, not its patches.
        size: Side of these windows in px. Default: that of the set's patches.

    Raises:
        UserError: A tile is not in the set, or the set holds no mosaics.
    """
    model = blending.mean_of(models)
    if tta:
        model = blending.with_symmetries(model)
    prepared.indices_of(tiles)  # raises for unknown tiles before anything is predicted
    mosaics = _mosaics(prepared) if overlap else []
    confusions = {}
    for place in splits.groups(sorted(set(tiles))):
        if overlap:
            chosen = [mosaic for mosaic in mosaics if mosaic.tile in place]
            predictions = _predict_mosaics(model, chosen, size or prepared.patch_size)
        else:
            predictions = _predict_patches(model, prepared, place)
        confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
        for truth, predicted in predictions:
            confusion += metrics.confusion_matrix(truth, predicted)
        confusions[place] = confusion
    return confusions


def _predict_patches(model: Model, prepared: PreparedSet, place: Place) -> Iterator[Prediction]:
    """Masks and predictions, (b, p, p) uint8, of the patches of a place, batch by batch."""
    indices = prepared.indices_of(place)
    batches = [indices[first : first + BATCH] for first in range(0, len(indices), BATCH)]
    for chosen in tqdm(batches, desc=_name(place), unit="batch", disable=None):
        probabilities = model(prepared.images[chosen])
        yield prepared.masks[chosen], probabilities.argmax(-1).astype(np.uint8)


def _predict_mosaics(model: Model, mosaics: Sequence[Mosaic], size: int) -> Iterator[Prediction]:
    """Mask and prediction, (rows, w) uint8, of whole mosaics, in bands of overlapping windows."""
    pixels = sum(mosaic.mask.size for mosaic in mosaics)
    name = _name([mosaic.tile for mosaic in mosaics])
    with tqdm(total=pixels, desc=name, unit="px", unit_scale=True, disable=None) as progress:
        for mosaic in mosaics:
            row = 0
            for band in blending.blend(mosaic.image, size, model):
                yield mosaic.mask[row : row + len(band)], band.argmax(-1).astype(np.uint8)
                row += len(band)
                progress.update(band.shape[0] * band.shape[1])


def _mosaics(prepared: PreparedSet) -> list[Mosaic]:
    """The mosaics of all splits. Raises UserError if the set holds none."""
    present = [split for split in splits.SPLITS if prepared.has(split)]
    return [mosaic for split in present for mosaic in prepared.mosaics(split)]


def _name(tiles: Sequence[int]) -> str:
    return f"tile {', '.join(map(str, tiles))}"


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

"""Scores from pixel counts. Each is computed over a whole split, not averaged over batches.

Functions take a confusion matrix, (classes, classes), row = truth, column = prediction, and return
NaN where a value is undefined. During training, `split_sums.SplitSums` counts the pixels.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segmentation.labels import CLASSES, IGNORE, NUM_CLASSES, UNLABELED

Array = NDArray[Any]
Curves = dict[str, tuple[Array, Array]]
"""Class name, or `micro` for all classes together -> (recall, precision)."""


def confusion_matrix(mask: Array, prediction: Array) -> NDArray[np.int64]:
    """(classes, classes) int64 pixel counts of two integer arrays of one shape.

    Pixels whose mask is IGNORE are not counted.
    """
    labelled = mask != IGNORE
    joint = NUM_CLASSES * mask[labelled].astype(np.int64) + prediction[labelled]
    counts: NDArray[np.int64] = np.bincount(joint, minlength=NUM_CLASSES**2)
    return counts.reshape(NUM_CLASSES, NUM_CLASSES)


def accuracy(confusion: Array) -> float:
    """Fraction of labelled pixels that are predicted correctly, 0..1; NaN without pixels."""
    return float(_ratio(np.trace(confusion), confusion.sum()))


def iou(confusion: Array) -> NDArray[np.float64]:
    """(classes,) intersection over union, 0..1.

    NaN for a class that is neither in the truth nor predicted.
    """
    hit = np.diag(confusion)
    return _ratio(hit, confusion.sum(0) + confusion.sum(1) - hit)


def precision_recall_f1(
    confusion: Array,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(classes,) precision, recall and F1, 0..1.

    Precision is NaN for a class that is never predicted, recall for one that is not in the truth,
    F1 for one that is neither.
    """
    hit, predicted, present = np.diag(confusion), confusion.sum(0), confusion.sum(1)
    return _ratio(hit, predicted), _ratio(hit, present), _ratio(2 * hit, predicted + present)


def mean_iou(confusion: Array, unlabeled: bool = True) -> float:
    """Mean IoU over the classes that occur in the truth, 0..1; NaN if there are none.

    With `unlabeled=False` the mean is over the real classes: Unlabeled is left out.
    """
    counted = confusion.sum(1) > 0
    if not unlabeled:
        counted[UNLABELED] = False
    return float(np.mean(iou(confusion)[counted])) if counted.any() else float("nan")


def summarize(confusion: Array, confident_hits: float, confident: float) -> dict[str, float]:
    """The scores that an epoch logs for one split, by name. Undefined ones are left out.

    `precision` and `recall` are micro averages, equal to those of Keras' `Precision()` and
    `Recall()` on one-hot masks. Like Keras, precision without any prediction is 0.

    Args:
        confusion: (classes, classes) pixel counts of the split.
        confident_hits: Number of probabilities above 0.5 at the true class.
        confident: Number of probabilities above 0.5 at any class of a labelled pixel.
    """
    confusion = np.asarray(confusion, np.float64)  # sums of 32-bit integers could overflow
    scores = {
        "accuracy": accuracy(confusion),
        "precision": confident_hits / confident if confident else 0.0,
        "recall": float(_ratio(confident_hits, confusion.sum())),
        "mean_iou": mean_iou(confusion),
        "mean_iou_labeled": mean_iou(confusion, unlabeled=False),
    }
    per_class = {
        f"iou/{name}": float(value) for name, value in zip(CLASSES, iou(confusion), strict=True)
    }
    return {name: value for name, value in (scores | per_class).items() if not np.isnan(value)}


def pool(
    predictions: Iterable[tuple[Array, Array, Array]],
    pixels_per_batch: int,
    seed: int = 0,
) -> tuple[NDArray[np.int64], Array, Array]:
    """Confusion matrix of all labelled pixels, and a sample of them for curves.

    Args:
        predictions: Batches of (images, masks (b, h, w), probabilities (b, h, w, classes)).
        pixels_per_batch: Size of the sample: at most as many labelled pixels of each batch.
        seed: Seed of the sample.

    Returns:
        The confusion matrix, the truth (n,) and the probabilities (n, classes) of the sample.
    """
    random = np.random.default_rng(seed)
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    truths, samples = [], []
    for _, masks, probabilities in predictions:
        confusion += confusion_matrix(masks, probabilities.argmax(-1))
        labelled = np.flatnonzero(masks != IGNORE)
        chosen = random.choice(labelled, min(pixels_per_batch, len(labelled)), replace=False)
        truths.append(masks.reshape(-1)[chosen])
        samples.append(probabilities.reshape(-1, NUM_CLASSES)[chosen])
    return confusion, np.concatenate(truths), np.concatenate(samples)


def precision_recall_curves(truth: Array, probabilities: Array) -> Curves:
    """Curves by class name, and `micro`, computed by scikit-learn.

    Classes that do not occur in the truth have no curve.

    Args:
        truth: (n,) class indices.
        probabilities: (n, classes).
    """
    from sklearn.metrics import precision_recall_curve  # takes half a second to import

    one_hot = truth[:, None] == np.arange(NUM_CLASSES)
    columns = {
        name: (one_hot[:, i], probabilities[:, i])
        for i, name in enumerate(CLASSES)
        if one_hot[:, i].any()
    }
    columns["micro"] = (one_hot.ravel(), probabilities.ravel())
    curves = {name: precision_recall_curve(*column) for name, column in columns.items()}
    return {name: (recall, precision) for name, (precision, recall, _) in curves.items()}


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    """Element-wise quotient; NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(denominator) > 0, np.divide(numerator, denominator), np.nan)

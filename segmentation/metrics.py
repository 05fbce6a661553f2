"""Count pixels once, divide at the end: everything a run reports is read off sums over the whole split.

Functions take a confusion matrix, (classes, classes), row = truth, column = prediction, and return NaN where a value is
undefined. The sums of a fit come from `losses.SplitSums`.
"""

from collections.abc import Iterable

import numpy as np

from segmentation.labels import CLASSES, IGNORE, NUM_CLASSES, UNLABELED


def confusion_matrix(mask: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Pixel counts: two integer arrays of one shape -> (classes, classes) int64. Pixels with mask 255 are left out."""
    labelled = mask != IGNORE
    joint = NUM_CLASSES * mask[labelled].astype(np.int64) + prediction[labelled]
    return np.bincount(joint, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def accuracy(confusion: np.ndarray) -> float:
    """Share of labelled pixels that are right, 0..1; NaN without pixels."""
    return float(_ratio(np.trace(confusion), confusion.sum()))


def iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union per class, (classes,) in 0..1; NaN for a class that is neither in the truth nor predicted."""
    hit = np.diag(confusion)
    return _ratio(hit, confusion.sum(0) + confusion.sum(1) - hit)


def precision_recall_f1(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three (classes,) arrays in 0..1: NaN precision where never predicted, NaN recall where absent, NaN F1 where both."""
    hit, predicted, present = np.diag(confusion), confusion.sum(0), confusion.sum(1)
    return _ratio(hit, predicted), _ratio(hit, present), _ratio(2 * hit, predicted + present)


def mean_iou(confusion: np.ndarray, unlabeled: bool = True) -> float:
    """Mean IoU over the classes present in the truth, 0..1; `unlabeled=False` leaves the class Unlabeled out of the mean."""
    counted = confusion.sum(1) > 0
    if not unlabeled:
        counted[UNLABELED] = False
    return float(np.mean(iou(confusion)[counted])) if counted.any() else float("nan")


def summarize(confusion: np.ndarray, confident_hits: float, confident: float) -> dict[str, float]:
    """The scalars that an epoch reports of one split, by name; what is undefined is left out.

    `confident` counts the probabilities above 0.5 at labelled pixels, `confident_hits` those of them at the true class. Their
    ratio is the micro precision, and hits over pixels the micro recall, that Keras' `Precision()` and `Recall()` give on
    one-hot masks; like Keras, the precision of no prediction at all is 0.
    """
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
    predictions: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    pixels_a_batch: int,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Batches of (images, masks, probabilities) -> (confusion, truth (n,), probabilities (n, classes)).

    The confusion matrix counts every labelled pixel; truth and probabilities are a sample of at most `pixels_a_batch` labelled
    pixels of each batch, seeded, for curves that need single pixels.
    """
    random = np.random.default_rng(seed)
    confusion, truths, samples = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64), [], []
    for _, masks, probabilities in predictions:
        confusion += confusion_matrix(masks, probabilities.argmax(-1))
        labelled = np.flatnonzero(masks != IGNORE)
        chosen = random.choice(labelled, min(pixels_a_batch, len(labelled)), replace=False)
        truths.append(masks.reshape(-1)[chosen])
        samples.append(probabilities.reshape(-1, NUM_CLASSES)[chosen])
    return confusion, np.concatenate(truths), np.concatenate(samples)


def precision_recall_curves(
    truth: np.ndarray, probabilities: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Class name, or `micro` -> (recall, precision) by scikit-learn; classes absent from the (n,) truth have no curve."""
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


def _ratio(numerator, denominator):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(denominator) > 0, np.divide(numerator, denominator), np.nan)

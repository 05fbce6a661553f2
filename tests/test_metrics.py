"""Scores equal those of scikit-learn on the same pixels."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    jaccard_score,
    precision_recall_curve,
    precision_score,
    recall_score,
)

from segmentation import metrics
from segmentation.labels import CLASSES, IGNORE, NUM_CLASSES, UNLABELED


@pytest.fixture
def answer(random):
    """A mask without class 1 and with ignored pixels, and a prediction without class 3."""
    mask = random.choice([0, 2, 3, 4, 5, IGNORE], (4, 16, 16)).astype(np.uint8)
    prediction = (
        np.where(random.random(mask.shape) < 0.6, mask, random.integers(0, 3, mask.shape))
        % NUM_CLASSES
    )
    prediction[prediction == 3] = 1
    return mask, prediction


def test_scores_per_class_equal_those_of_scikit_learn(answer):
    mask, prediction = answer
    seen = mask != IGNORE
    truth, guess = mask[seen], prediction[seen]
    confusion = metrics.confusion_matrix(mask, prediction)
    assert confusion.sum() == seen.sum()
    assert metrics.accuracy(confusion) == pytest.approx(accuracy_score(truth, guess))
    options = {"labels": range(NUM_CLASSES), "average": None, "zero_division": np.nan}
    np.testing.assert_allclose(
        metrics.iou(confusion), jaccard_score(truth, guess, **options | {"zero_division": 0})
    )
    precision, recall, f1 = metrics.precision_recall_f1(confusion)
    np.testing.assert_allclose(precision, precision_score(truth, guess, **options))
    np.testing.assert_allclose(recall, recall_score(truth, guess, **options))
    np.testing.assert_allclose(f1, f1_score(truth, guess, **options))


def test_mean_iou_is_averaged_over_the_classes_that_occur(answer):
    confusion = metrics.confusion_matrix(*answer)
    present = [0, 2, 3, 4, 5]
    assert metrics.mean_iou(confusion) == pytest.approx(np.mean(metrics.iou(confusion)[present]))
    assert metrics.mean_iou(confusion, unlabeled=False) == pytest.approx(
        np.mean(metrics.iou(confusion)[present[:-1]])
    )
    assert present[-1] == UNLABELED


def test_confusions_add_up(answer):
    mask, prediction = answer
    parts = sum(metrics.confusion_matrix(mask[i], prediction[i]) for i in range(len(mask)))
    np.testing.assert_array_equal(parts, metrics.confusion_matrix(mask, prediction))


def test_scores_without_pixels_are_undefined():
    nothing = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    assert (
        np.isnan(metrics.accuracy(nothing))
        and np.isnan(metrics.mean_iou(nothing))
        and np.isnan(metrics.iou(nothing)).all()
    )
    assert set(metrics.summarize(nothing, 0, 0)) == {"precision"}


def test_scores_of_32_bit_counts_do_not_overflow():
    counts = np.full((NUM_CLASSES, NUM_CLASSES), 2**30, np.int32)
    small = metrics.summarize(np.ones_like(counts), 1.0, 2.0)
    assert metrics.summarize(counts, 2.0**30, 2.0**31) == pytest.approx(small)


def test_pool_counts_all_and_samples_labelled_pixels(random):
    masks = random.choice([0, 1, IGNORE], (4, 8, 8)).astype(np.uint8)
    probabilities = random.dirichlet(np.ones(NUM_CLASSES), (4, 8, 8))
    batches = [(None, masks[i : i + 2], probabilities[i : i + 2]) for i in (0, 2)]
    confusion, truth, sample = metrics.pool(batches, pixels_per_batch=10)
    np.testing.assert_array_equal(
        confusion, metrics.confusion_matrix(masks, probabilities.argmax(-1))
    )
    assert truth.shape == (20,) and sample.shape == (20, NUM_CLASSES) and IGNORE not in truth
    again = metrics.pool(batches, pixels_per_batch=10)
    np.testing.assert_array_equal(sample, again[2])


def test_curves_equal_those_of_scikit_learn(random):
    truth = random.integers(0, 3, 200)
    probabilities = random.dirichlet(np.ones(NUM_CLASSES), 200)
    curves = metrics.precision_recall_curves(truth, probabilities)
    assert set(curves) == {*CLASSES[:3], "micro"}
    precision, recall, _ = precision_recall_curve(truth == 1, probabilities[:, 1])
    np.testing.assert_array_equal(curves[CLASSES[1]], (recall, precision))

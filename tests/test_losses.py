"""Losses and counts equal those of other libraries, and do not depend on the batch size."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, log_loss

from segmentation.config import SMOOTHED, WORST, Config
from segmentation.errors import UserError
from segmentation.labels import IGNORE, NUM_CLASSES, UNLABELED
from segmentation.losses import LOSSES, make
from segmentation.split_sums import SplitSums


def answers(random, shape=(6, 8, 8), ignored=0.1):
    """Random masks with a fraction of ignored pixels, and random probabilities."""
    masks = random.integers(0, NUM_CLASSES, shape).astype(np.uint8)
    masks[random.random(shape) < ignored] = IGNORE
    scores = random.normal(size=(*shape, NUM_CLASSES)) * 2
    return masks, (np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)).astype(np.float32)


def one_hot(masks):
    return np.eye(NUM_CLASSES, dtype=np.float32)[masks]


def test_the_published_loss_equals_that_of_segmentation_models(random):
    import segmentation_models as sm

    masks, probabilities = answers(random, ignored=0.0)
    theirs = (
        sm.losses.DiceLoss(class_weights=np.array([0.1666] * NUM_CLASSES))
        + sm.losses.CategoricalFocalLoss()
    )
    expected = float(np.asarray(theirs(one_hot(masks), probabilities)))
    assert float(LOSSES["dice_focal_published"]()(masks, probabilities)) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_published_loss_of_a_perfect_prediction_is_0_8334(random):
    masks, _ = answers(random, ignored=0.0)
    assert float(LOSSES["dice_focal_published"]()(masks, one_hot(masks))) == pytest.approx(
        0.8334, abs=1e-6
    )
    assert float(LOSSES["dice_focal"]()(masks, one_hot(masks))) == pytest.approx(0.0, abs=1e-6)


def test_dice_is_averaged_over_the_classes_that_occur(random):
    masks = random.integers(0, 2, (2, 8, 8)).astype(np.uint8)
    guess = np.full((2, 8, 8, NUM_CLASSES), 1 / NUM_CLASSES, np.float32)
    dice = [2 * (n := (masks == c).sum()) / 6 / (n + masks.size / 6) for c in (0, 1)]
    focal = 0.25 * (5 / 6) ** 2 * math.log(6) / NUM_CLASSES
    assert float(LOSSES["dice_focal"]()(masks, guess)) == pytest.approx(
        1 - np.mean(dice) + focal, rel=1e-5
    )


def test_cross_entropy_equals_log_loss_of_scikit_learn(random):
    masks, probabilities = answers(random)
    seen = masks != IGNORE
    expected = log_loss(masks[seen], probabilities[seen].astype(float), labels=range(NUM_CLASSES))
    assert float(LOSSES["cross_entropy"]()(masks, probabilities)) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_smoothed_cross_entropy_equals_that_of_keras_and_a_formula(smoothing, random):
    masks, probabilities = answers(random)
    seen = masks != IGNORE
    truth, p = one_hot(masks[seen]), probabilities[seen].astype(float)
    target = (1 - smoothing) * truth + smoothing / NUM_CLASSES
    keras_loss = keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)
    ours = float(
        make(Config(loss="cross_entropy", label_smoothing=smoothing))(masks, probabilities)
    )
    assert ours == pytest.approx(-(target * np.log(p)).sum(-1).mean(), rel=1e-5)
    assert ours == pytest.approx(float(keras_loss(truth, probabilities[seen])), rel=1e-5)


def test_ce_dice_is_the_sum_of_its_terms(random):
    masks, probabilities = answers(random)
    masks[masks == 3] = 1  # a class that does not occur does not count
    seen = masks != IGNORE
    truth, p = one_hot(masks[seen]), probabilities[seen].astype(float)
    dice = (2 * (truth * p).sum(0) / (truth.sum(0) + p.sum(0)))[truth.any(0)]
    smoothed = float(make(Config(loss="cross_entropy", label_smoothing=0.1))(masks, probabilities))
    ours = float(make(Config(loss="ce_dice", label_smoothing=0.1))(masks, probabilities))
    assert ours == pytest.approx(smoothed + 1 - dice.mean(), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_class_unlabeled_counts_like_ignored_pixels_in_the_loss_only(name, random):
    masks, probabilities = answers(random)
    without = np.where(masks == UNLABELED, IGNORE, masks)
    loss = make(Config(loss=name, unlabeled="ignore"))
    value = float(loss(masks, probabilities))
    assert value == float(LOSSES[name]()(without, probabilities))
    assert value != float(LOSSES[name]()(masks, probabilities))
    metric = SplitSums(loss)
    metric.update_state(masks, probabilities)
    confusion = np.asarray(metric.result()["confusion"])
    assert confusion[UNLABELED].sum() == (masks == UNLABELED).sum()
    assert float(metric.result()["loss"]) == value


def test_smoothing_without_cross_entropy_is_refused():
    for name in LOSSES:
        if name in SMOOTHED:
            assert make(Config(loss=name, label_smoothing=0.1)).label_smoothing == 0.1
        else:
            with pytest.raises(UserError, match=r"label_smoothing=0.1 has no influence.*loss="):
                Config(loss=name, label_smoothing=0.1)


@pytest.mark.parametrize("name", LOSSES)
def test_a_saved_loss_has_the_same_value_and_old_files_have_the_defaults(name, random):
    masks, probabilities = answers(random)
    loss = LOSSES[name](name, 0.1, "ignore")
    saved = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(saved)
    assert float(again(masks, probabilities)) == float(loss(masks, probabilities))
    saved["config"] = {"name": name}
    old = keras.saving.deserialize_keras_object(saved)
    assert float(old(masks, probabilities)) == float(LOSSES[name]()(masks, probabilities))


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_do_not_change_the_loss(name, random):
    masks, probabilities = answers(random)
    changed = np.where(
        (masks == IGNORE)[..., None], np.roll(probabilities, 1, axis=-1), probabilities
    )
    loss = LOSSES[name]()
    assert float(loss(masks, probabilities)) == float(loss(masks, changed))
    floor = 0.8334 if name == "dice_focal_published" else 0.0
    # without labelled pixels the loss is the lowest possible one
    assert float(loss(np.full_like(masks, IGNORE), probabilities)) == pytest.approx(floor)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sharpness=st.floats(0, 60),
    smoothing=st.floats(0, 0.5),
    unlabeled=st.sampled_from(["class", "ignore"]),
)
def test_no_loss_exceeds_worst(name, seed, sharpness, smoothing, unlabeled):
    random = np.random.default_rng(seed)
    masks = random.integers(0, NUM_CLASSES, (1, 8, 8)).astype(np.uint8)
    wrong = -sharpness * one_hot(masks) + random.normal(size=(1, 8, 8, NUM_CLASSES))
    probabilities = (np.exp(wrong) / np.exp(wrong).sum(-1, keepdims=True)).astype(np.float32)
    loss = LOSSES[name](name, smoothing, unlabeled)
    assert 0 <= float(loss(masks, probabilities)) <= loss.worst + 1e-5


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_split_does_not_depend_on_the_batch_size(name, random):
    masks, probabilities = answers(random, shape=(33, 8, 8))
    masks[:5] = 2  # batches differ, so a mean of batch losses would differ from the exact loss
    loss = LOSSES[name]()
    whole = float(loss(masks, probabilities))
    for size in (1, 7, 16, 33):
        metric = SplitSums(loss)
        for start in range(0, 33, size):
            metric.update_state(masks[start : start + size], probabilities[start : start + size])
        assert float(metric.result()["loss"]) == pytest.approx(whole, abs=1e-6)


def test_the_batch_mean_equals_what_keras_reports_without_split_sums(random):
    masks, probabilities = answers(random, shape=(37, 8, 8))
    masks[:5] = 2
    published = LOSSES["dice_focal_published"]()
    image = keras.Input((8, 8, NUM_CLASSES))
    model = keras.Model(image, keras.layers.Activation("linear")(image))
    model.compile(loss=published, run_eagerly=True)
    reported = model.evaluate(probabilities, masks, batch_size=16, verbose=0)
    metric = SplitSums(published)
    for start in range(0, 37, 16):
        metric.update_state(masks[start : start + 16], probabilities[start : start + 16])
    result = metric.result()
    assert float(result["batch_mean"]) == pytest.approx(reported, abs=1e-6)
    assert abs(float(result["batch_mean"]) - float(result["loss"])) > 1e-4
    metric.reset_state()
    metric.update_state(masks, probabilities)
    result = metric.result()
    assert float(result["batch_mean"]) == float(result["loss"])  # one batch


def test_split_sums_equal_the_counts_of_keras_and_scikit_learn(random):
    masks, probabilities = answers(random)
    seen = masks != IGNORE
    metric = SplitSums(LOSSES["cross_entropy"]())
    metric.update_state(masks, probabilities)
    result = {name: np.asarray(value) for name, value in metric.result().items()}
    confusion = result["confusion"]
    np.testing.assert_array_equal(
        confusion,
        confusion_matrix(masks[seen], probabilities[seen].argmax(-1), labels=range(NUM_CLASSES)),
    )
    precision, recall = keras.metrics.Precision(), keras.metrics.Recall()
    for keras_metric in (precision, recall):
        keras_metric.update_state(one_hot(masks[seen]), probabilities[seen])
    assert result["confident_hits"] / result["confident"] == pytest.approx(
        float(precision.result()), rel=1e-6
    )
    assert result["confident_hits"] / confusion.sum() == pytest.approx(
        float(recall.result()), rel=1e-6
    )


def test_split_sums_are_exact_beyond_the_integers_of_a_float32():
    metric = SplitSums(LOSSES["cross_entropy"]())
    metric.sums.assign(np.full(metric.sums.shape, 2.0**24))
    certain = np.eye(NUM_CLASSES, dtype=np.float32)[np.zeros((1, 1, 1), int)]
    metric.update_state(np.zeros((1, 1, 1), np.uint8), certain)
    result = metric.result()
    assert float(result["confusion"][0, 0]) == float(result["confident"]) == 2**24 + 1


def test_worst_losses_of_the_config_equal_those_of_the_losses():
    assert WORST.keys() == LOSSES.keys()
    for name, worst in WORST.items():
        assert LOSSES[name].worst - 1e-5 < worst <= LOSSES[name].worst

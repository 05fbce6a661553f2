"""Losses by name, each the value of sums over pixels, so that a loss of a whole split is exact whatever its batches were.

Every loss is `value(statistics(mask, probabilities))`. Statistics add up over pixels: add those of all batches, take the
value once, and the batch size cannot show. Masks are (batch, h, w) integer class indices, 255 = ignore; probabilities are
(batch, h, w, classes) float32 after the softmax. Ignored pixels have an all-zero one-hot row, so they count nowhere.

Dice: 2 sum(t p) / (sum(t) + sum(p)) for each class, Milletari et al. 2016 (V-Net) with first powers in the denominator.
Focal: -0.25 (1 - p)^2 log p at the true class, Lin et al. 2017, averaged over pixels and classes as segmentation-models does.
"""

import math

import keras
from keras import ops

from segmentation.labels import NUM_CLASSES

ALPHA, GAMMA = 0.25, 2.0  # the focal loss's defaults in Lin et al. 2017 and in segmentation-models
SMOOTH = 1e-5  # segmentation-models' SMOOTH
EPSILON = 1e-7  # probabilities are clipped to [EPSILON, 1 - EPSILON] before the logarithm
PUBLISHED_CLASS_WEIGHT = (
    0.1666  # as the published notebooks write 1/6, so the floor is 1 - 0.1666 = 0.8334
)
LARGEST_LOG = -math.log(EPSILON)


def one_hot(mask):
    """(batch, h, w) integers -> (pixels, classes) float32; an ignored pixel is a row of zeros."""
    index = ops.reshape(ops.cast(mask, "int32"), (-1, 1))
    return ops.cast(ops.equal(index, ops.arange(NUM_CLASSES, dtype="int32")), "float32")


def flatten(probabilities):
    """(batch, h, w, classes) -> (pixels, classes) float32."""
    return ops.reshape(ops.cast(probabilities, "float32"), (-1, NUM_CLASSES))


class _PixelLoss(keras.losses.Loss):
    """A Keras loss that is a function of additive statistics."""

    def call(self, y_true, y_pred):
        return self.value(self.statistics(one_hot(y_true), flatten(y_pred)))

    def get_config(self):
        return {"name": self.name}


@keras.saving.register_keras_serializable("segmentation")
class CrossEntropy(_PixelLoss):
    """Mean over labelled pixels of -log p(true class), in nats; 0 to 16.1."""

    size = 2
    worst = LARGEST_LOG

    def __init__(self, name="cross_entropy", **_):
        super().__init__(name=name)

    def statistics(self, truth, probabilities):
        """(2,) float32: the sum of -log p(true class), and the number of labelled pixels."""
        p = ops.clip(probabilities, EPSILON, 1.0 - EPSILON)
        return ops.stack([-ops.sum(truth * ops.log(p)), ops.sum(truth)])

    def value(self, statistics):
        """Scalar loss of (2,) statistics; 0 where no pixel is labelled."""
        return statistics[0] / ops.maximum(statistics[1], 1.0)


@keras.saving.register_keras_serializable("segmentation")
class DiceFocal(_PixelLoss):
    """Mean over the classes present of (1 - Dice), plus the focal loss; 0 to 1.68."""

    size = 3 * NUM_CLASSES + 1
    worst = 1.0 + ALPHA * LARGEST_LOG / NUM_CLASSES

    def __init__(self, name="dice_focal", **_):
        super().__init__(name=name)

    def statistics(self, truth, probabilities):
        """(3 * classes + 1,) float32: sums per class of t p, of t and of p over labelled pixels, and the focal sum."""
        labelled = ops.sum(truth, axis=-1, keepdims=True)
        p = ops.clip(probabilities, EPSILON, 1.0 - EPSILON)
        focal = -ops.sum(truth * ALPHA * ops.power(1.0 - p, GAMMA) * ops.log(p))
        sums = [
            ops.sum(truth * probabilities, axis=0),
            ops.sum(truth, axis=0),
            ops.sum(labelled * probabilities, axis=0),
        ]
        return ops.concatenate([*sums, ops.reshape(focal, (1,))])

    def value(self, statistics):
        """Scalar loss of (3 * classes + 1,) statistics; its least value where no pixel is labelled."""
        overlap, truth, guess = (
            statistics[i * NUM_CLASSES : (i + 1) * NUM_CLASSES] for i in range(3)
        )
        focal = statistics[-1] / (ops.maximum(ops.sum(truth), 1.0) * NUM_CLASSES)
        return self.dice_loss((2.0 * overlap + SMOOTH) / (truth + guess + SMOOTH), truth) + focal

    def dice_loss(self, dice, truth):
        """Scalar of (classes,) Dice scores: one minus their mean over the classes that occur in the truth."""
        present = ops.cast(truth > 0, dice.dtype)
        return ops.sum(present * (1.0 - dice)) / ops.maximum(ops.sum(present), 1.0)


@keras.saving.register_keras_serializable("segmentation")
class DiceFocalPublished(DiceFocal):
    """The loss of the published notebooks: segmentation-models' DiceLoss(class_weights=[0.1666] * 6) + CategoricalFocalLoss().

    There the scores are weighted by 0.1666 and then averaged over the classes a second time: a perfect answer has loss 0.8334,
    not 0, and the Dice term moves by a sixth of what it should. Kept so that numbers compare; `DiceFocal` is the remedy.
    """

    def __init__(self, name="dice_focal_published", **_):
        super().__init__(name=name)

    def dice_loss(self, dice, truth):
        return 1.0 - ops.mean(PUBLISHED_CLASS_WEIGHT * dice)


LOSSES = {
    "dice_focal": DiceFocal,
    "dice_focal_published": DiceFocalPublished,
    "cross_entropy": CrossEntropy,
}


@keras.saving.register_keras_serializable("segmentation")
class SplitSums(keras.metrics.Metric):
    """The sums over a split that an epoch's numbers are read off, and the exact loss.

    `result()` holds `loss`, the loss of all pixels seen since the last reset, and `sums`, a (classes ** 2 + 2,) vector: the
    flattened confusion matrix, the probabilities above 0.5 at the true class, and those at any class (see `unpack`). In a fit
    Keras flattens the results of metrics after its own running mean of batch losses, so this `loss` takes that one's place.
    """

    def __init__(self, loss, name="split", **_):
        super().__init__(
            name=name, dtype="float64"
        )  # counts stay exact beyond the 2 ** 24 pixels of a float32
        self.loss = keras.saving.deserialize_keras_object(loss) if isinstance(loss, dict) else loss
        self.statistics = self.add_weight(
            shape=(self.loss.size,), initializer="zeros", name="statistics"
        )
        self.sums = self.add_weight(shape=(NUM_CLASSES**2 + 2,), initializer="zeros", name="sums")

    def update_state(self, y_true, y_pred, sample_weight=None):
        truth, probabilities = one_hot(y_true), flatten(y_pred)
        self.statistics.assign_add(
            ops.cast(self.loss.statistics(truth, probabilities), self.statistics.dtype)
        )
        predicted = ops.equal(
            ops.expand_dims(ops.argmax(probabilities, -1), -1), ops.arange(NUM_CLASSES)
        )
        confusion = ops.matmul(ops.transpose(truth), ops.cast(predicted, "float32"))
        confident = ops.cast(probabilities > 0.5, "float32")
        labelled = ops.sum(truth, axis=-1, keepdims=True)
        extra = ops.stack([ops.sum(truth * confident), ops.sum(labelled * confident)])
        counts = ops.concatenate([ops.reshape(confusion, (-1,)), extra])
        self.sums.assign_add(ops.cast(counts, self.sums.dtype))

    def result(self):
        return {
            "loss": self.loss.value(ops.cast(self.statistics, "float32")),
            "sums": ops.copy(self.sums),
        }

    def get_config(self):
        return {"name": self.name, "loss": keras.saving.serialize_keras_object(self.loss)}


def unpack(sums):
    """(classes ** 2 + 2,) NumPy sums -> the arguments of `metrics.summarize`: confusion int64, confident hits, confident."""
    return (
        sums[:-2].round().astype("int64").reshape(NUM_CLASSES, NUM_CLASSES),
        float(sums[-2]),
        float(sums[-1]),
    )

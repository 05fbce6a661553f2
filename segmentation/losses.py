"""The losses by name. Each is computed from sums over pixels, so a split's loss is exact.

Every loss is `value(statistics(truth, probabilities))`. Statistics add up over pixels: add those
of all batches, compute the value once, and the batch size has no influence.

Shapes: masks are (batch, h, w) integer class indices, 255 = ignore. Probabilities are
(batch, h, w, classes) float32 after the softmax. `truth` and `probabilities` below are their
flattened forms, (pixels, classes) float32. An ignored pixel is a row of zeros in `truth`, so it
has no influence.

Dice: 2 sum(t p) / (sum(t) + sum(p)) per class. Milletari et al. 2016 (V-Net), with first powers in
the denominator.
Focal: -0.25 (1 - p)^2 log p at the true class. Lin et al. 2017; averaged over pixels and classes,
as segmentation-models does.
Label smoothing: cross-entropy with the target (1 - e) t + e / classes. Szegedy et al. 2016.
"""

import math
from typing import Any, ClassVar, TypeAlias

import keras
import numpy as np
from keras import ops

from segmentation.config import Config
from segmentation.labels import NUM_CLASSES, UNLABELED

Tensor: TypeAlias = Any
"""A tensor of the Keras backend in use, or a NumPy array."""

ALPHA, GAMMA = 0.25, 2.0  # defaults of the focal loss in Lin et al. 2017 and segmentation-models
SMOOTH = 1e-5  # segmentation-models' SMOOTH
EPSILON = 1e-7  # probabilities are clipped to [EPSILON, 1 - EPSILON] before the logarithm
LARGEST_LOG = -math.log(EPSILON)
PUBLISHED_CLASS_WEIGHT = 0.1666  # 1/6 as the published notebooks write it


def one_hot(mask: Tensor) -> Tensor:
    """(batch, h, w) integers -> (pixels, classes) float32; an ignored pixel is a row of zeros."""
    index = ops.reshape(ops.cast(mask, "int32"), (-1, 1))
    return ops.cast(ops.equal(index, ops.arange(NUM_CLASSES, dtype="int32")), "float32")


def flatten(probabilities: Tensor) -> Tensor:
    """(batch, h, w, classes) -> (pixels, classes) float32."""
    return ops.reshape(ops.cast(probabilities, "float32"), (-1, NUM_CLASSES))


class PixelLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras has no annotations
    """A Keras loss that is computed from additive statistics."""

    size: ClassVar[int]
    """Length of the statistics vector."""

    worst: ClassVar[float]
    """The largest possible value."""

    def __init__(
        self, name: str | None = None, label_smoothing: float = 0.0, unlabeled: str = "class"
    ) -> None:
        """A loss with these settings. Saved files of older versions lack the last two.

        Args:
            name: Name in Keras.
            label_smoothing: Share of the true class's weight that cross-entropy spreads over all
                classes. Losses without cross-entropy have no use for it.
            unlabeled: `ignore` treats pixels of the class Unlabeled like ignored ones.
        """
        super().__init__(name=name)
        self.label_smoothing, self.unlabeled = label_smoothing, unlabeled

    def statistics(self, truth: Tensor, probabilities: Tensor) -> Tensor:
        """(size,) float32 sums over the pixels that count."""
        if self.unlabeled == "ignore":
            truth = truth * (np.arange(NUM_CLASSES) != UNLABELED).astype(np.float32)
        return self.sums(truth, probabilities)

    def sums(self, truth: Tensor, probabilities: Tensor) -> Tensor:
        """(size,) float32 sums over labelled pixels."""
        raise NotImplementedError

    def value(self, statistics: Tensor) -> Tensor:
        """Scalar loss of (size,) statistics."""
        raise NotImplementedError

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.value(self.statistics(one_hot(y_true), flatten(y_pred)))

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "label_smoothing": self.label_smoothing,
            "unlabeled": self.unlabeled,
        }


def cross_entropy_sum(truth: Tensor, probabilities: Tensor, smoothing: float) -> Tensor:
    """Scalar: the sum of -log p over labelled pixels, in nats, weighted by the smoothed target."""
    p = ops.clip(probabilities, EPSILON, 1.0 - EPSILON)
    if smoothing:
        labelled = ops.sum(truth, axis=-1, keepdims=True)
        truth = (1.0 - smoothing) * truth + smoothing / NUM_CLASSES * labelled
    return -ops.sum(truth * ops.log(p))


def focal_sum(truth: Tensor, probabilities: Tensor) -> Tensor:
    """Scalar: the sum of the focal loss over labelled pixels."""
    p = ops.clip(probabilities, EPSILON, 1.0 - EPSILON)
    return -ops.sum(truth * ALPHA * ops.power(1.0 - p, GAMMA) * ops.log(p))


@keras.saving.register_keras_serializable("segmentation")
class CrossEntropy(PixelLoss):
    """Mean of -log p(true class) over labelled pixels, in nats; 0 to 16.12."""

    size = 2
    worst = LARGEST_LOG

    def sums(self, truth: Tensor, probabilities: Tensor) -> Tensor:
        """(2,) float32: the sum of -log p(true class), and the number of labelled pixels."""
        total = cross_entropy_sum(truth, probabilities, self.label_smoothing)
        return ops.stack([total, ops.sum(truth)])

    def value(self, statistics: Tensor) -> Tensor:
        """Scalar loss of (2,) statistics; 0 without labelled pixels."""
        return statistics[0] / ops.maximum(statistics[1], 1.0)


class WithDice(PixelLoss):
    """Mean of (1 - Dice) over the classes present, plus the mean over pixels of a second term."""

    size = 3 * NUM_CLASSES + 1

    divisor: ClassVar[int] = 1
    """The second term is averaged over pixels times this."""

    def pixel_sum(self, truth: Tensor, probabilities: Tensor) -> Tensor:
        """Scalar: the sum of the second term over labelled pixels."""
        raise NotImplementedError

    def sums(self, truth: Tensor, probabilities: Tensor) -> Tensor:
        """(3 * classes + 1,) float32 sums over labelled pixels.

        Per class the sums of t p, of t, and of p; then the sum of the second term.
        """
        labelled = ops.sum(truth, axis=-1, keepdims=True)
        sums = [
            ops.sum(truth * probabilities, axis=0),
            ops.sum(truth, axis=0),
            ops.sum(labelled * probabilities, axis=0),
        ]
        second = self.pixel_sum(truth, probabilities)
        return ops.concatenate([*sums, ops.reshape(second, (1,))])

    def value(self, statistics: Tensor) -> Tensor:
        """Scalar loss of (3 * classes + 1,) statistics; the minimum without labelled pixels."""
        overlap, truth, guess = (
            statistics[i * NUM_CLASSES : (i + 1) * NUM_CLASSES] for i in range(3)
        )
        second = statistics[-1] / (ops.maximum(ops.sum(truth), 1.0) * self.divisor)
        return self.dice_loss((2.0 * overlap + SMOOTH) / (truth + guess + SMOOTH), truth) + second

    def dice_loss(self, dice: Tensor, truth: Tensor) -> Tensor:
        """Scalar: one minus the mean Dice score over the classes that occur in the truth.

        Args:
            dice: (classes,) Dice scores.
            truth: (classes,) number of pixels.
        """
        present = ops.cast(truth > 0, dice.dtype)
        return ops.sum(present * (1.0 - dice)) / ops.maximum(ops.sum(present), 1.0)


@keras.saving.register_keras_serializable("segmentation")
class DiceFocal(WithDice):
    """Mean of (1 - Dice) over the classes present, plus the focal loss; 0 to 1.68."""

    worst = 1.0 + ALPHA * LARGEST_LOG / NUM_CLASSES
    divisor = NUM_CLASSES

    def pixel_sum(self, truth: Tensor, probabilities: Tensor) -> Tensor:
        return focal_sum(truth, probabilities)


@keras.saving.register_keras_serializable("segmentation")
class DiceFocalPublished(DiceFocal):
    """The loss of the published notebooks; 0.8334 to 1.68. Use it to compare numbers with theirs.

    It is segmentation-models' DiceLoss(class_weights=[0.1666] * 6) + CategoricalFocalLoss(). That
    weights the scores by 0.1666 and then averages over the classes a second time. So a perfect
    prediction has loss 1 - 0.1666 = 0.8334, not 0, and the Dice term has a sixth of its weight.
    `DiceFocal` averages once.
    """

    def dice_loss(self, dice: Tensor, truth: Tensor) -> Tensor:
        return 1.0 - ops.mean(PUBLISHED_CLASS_WEIGHT * dice)


@keras.saving.register_keras_serializable("segmentation")
class CrossEntropyDice(WithDice):
    """Mean of (1 - Dice) over the classes present, plus the cross-entropy; 0 to 17.12."""

    worst = 1.0 + LARGEST_LOG

    def pixel_sum(self, truth: Tensor, probabilities: Tensor) -> Tensor:
        return cross_entropy_sum(truth, probabilities, self.label_smoothing)


LOSSES: dict[str, type[PixelLoss]] = {
    "dice_focal": DiceFocal,
    "dice_focal_published": DiceFocalPublished,
    "cross_entropy": CrossEntropy,
    "ce_dice": CrossEntropyDice,
}


def make(config: Config) -> PixelLoss:
    """The loss of a configuration."""
    return LOSSES[config.loss](config.loss, config.label_smoothing, config.unlabeled)

"""The Keras metric from which all scores of an epoch are computed."""

from typing import Any

import keras
from keras import ops

from segmentation.labels import NUM_CLASSES
from segmentation.losses import PixelLoss, Tensor, flatten, one_hot

COUNT_TYPE = "int32" if keras.backend.backend() == "jax" else "float64"
"""Data type of pixel counts. JAX has 32 bits by default: an int32 is exact up to 2 ** 31 pixels."""


@keras.saving.register_keras_serializable("segmentation")
class SplitSums(keras.metrics.Metric):  # type: ignore[misc]  # Keras has no annotations
    """Sums over all pixels seen since the last reset, and the exact loss of these pixels.

    Scores are computed from sums over the whole split, not averaged over batches, so they do not
    depend on the batch size.

    `result()` is a dict:
        loss: float32 scalar, the value of `loss` over all pixels seen.
        batch_mean: float32 scalar, the mean of the losses of the batches, weighted by their number
            of patches. This is what Keras reports by default, and what the published notebooks
            report. It depends on the batch size.
        confusion: (classes, classes) COUNT_TYPE, number of labelled pixels; row = truth, column =
            prediction.
        confident_hits: COUNT_TYPE scalar, number of probabilities above 0.5 at the true class.
        confident: COUNT_TYPE scalar, number of probabilities above 0.5 at any class of a labelled
            pixel.

    In a fit, Keras merges these results into the logs after its own running mean of batch losses,
    so this `loss` overrides that mean.
    """

    def __init__(self, loss: PixelLoss | dict[str, Any], name: str = "split", **_: Any) -> None:
        super().__init__(name=name)
        self.loss = keras.saving.deserialize_keras_object(loss) if isinstance(loss, dict) else loss
        self.statistics = self.add_weight(
            shape=(self.loss.size,), initializer="zeros", name="statistics"
        )
        # The flattened confusion matrix, then confident_hits and confident. A float32 would count
        # exactly only up to 2 ** 24 pixels: 256 patches of 256 px.
        self.sums = self.add_weight(
            shape=(NUM_CLASSES**2 + 2,), initializer="zeros", dtype=COUNT_TYPE, name="sums"
        )
        # the sum of batch losses, each times its number of patches, and the number of patches
        self.batches = self.add_weight(shape=(2,), initializer="zeros", name="batches")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: None = None) -> None:
        """Adds a batch of masks (b, h, w) and probabilities (b, h, w, classes)."""
        truth, probabilities = one_hot(y_true), flatten(y_pred)
        statistics = self.loss.statistics(truth, probabilities)
        self.statistics.assign_add(ops.cast(statistics, self.statistics.dtype))
        patches = ops.cast(ops.shape(y_true)[0], "float32")
        batch = ops.stack([self.loss.value(statistics) * patches, patches])
        self.batches.assign_add(ops.cast(batch, self.batches.dtype))
        predicted = ops.equal(
            ops.expand_dims(ops.argmax(probabilities, -1), -1), ops.arange(NUM_CLASSES)
        )
        confusion = ops.matmul(ops.transpose(truth), ops.cast(predicted, "float32"))
        confident = ops.cast(probabilities > 0.5, "float32")
        labelled = ops.sum(truth, axis=-1, keepdims=True)
        extra = ops.stack([ops.sum(truth * confident), ops.sum(labelled * confident)])
        counts = ops.concatenate([ops.reshape(confusion, (-1,)), extra])
        self.sums.assign_add(ops.cast(counts, self.sums.dtype))

    def result(self) -> dict[str, Tensor]:
        sums = ops.copy(self.sums)
        return {
            "loss": self.loss.value(ops.cast(self.statistics, "float32")),
            "batch_mean": self.batches[0] / ops.maximum(self.batches[1], 1.0),
            "confusion": ops.reshape(sums[:-2], (NUM_CLASSES, NUM_CLASSES)),
            "confident_hits": sums[-2],
            "confident": sums[-1],
        }

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "loss": keras.saving.serialize_keras_object(self.loss)}

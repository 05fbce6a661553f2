"""The Keras metric from which all scores of an epoch are computed."""

from typing import Any

import keras
from keras import ops

from segmentation.labels import NUM_CLASSES
from segmentation.losses import PixelLoss, Tensor, flatten, one_hot


@keras.saving.register_keras_serializable("segmentation")
class SplitSums(keras.metrics.Metric):  # type: ignore[misc]  # Keras has no annotations
    """Sums over all pixels seen since the last reset, and the exact loss of these pixels.

    Scores are computed from sums over the whole split, not averaged over batches, so they do not
    depend on the batch size.

    `result()` is a dict:
        loss: float32 scalar, the value of `loss` over all pixels seen.
        confusion: (classes, classes) float64, number of labelled pixels; row = truth, column =
            prediction.
        confident_hits: float64 scalar, number of probabilities above 0.5 at the true class.
        confident: float64 scalar, number of probabilities above 0.5 at any class of a labelled
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
            shape=(NUM_CLASSES**2 + 2,), initializer="zeros", dtype="float64", name="sums"
        )

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: None = None) -> None:
        """Adds a batch of masks (b, h, w) and probabilities (b, h, w, classes)."""
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

    def result(self) -> dict[str, Tensor]:
        sums = ops.copy(self.sums)
        return {
            "loss": self.loss.value(ops.cast(self.statistics, "float32")),
            "confusion": ops.reshape(sums[:-2], (NUM_CLASSES, NUM_CLASSES)),
            "confident_hits": sums[-2],
            "confident": sums[-1],
        }

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "loss": keras.saving.serialize_keras_object(self.loss)}

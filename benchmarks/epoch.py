"""Time of an epoch, compared with its bare train steps and with the published set-up.

    python -m benchmarks.epoch data/prepared [--batch-size 16] [--steps 40] [--repeats 5]

Three kinds of epochs take turns, so that a machine that becomes slower slows all three:

    bare        the train step repeated on one batch that is already a tensor: the lower bound
    ours        as many steps through `Patches` and its threads, with augmentation
    published   the notebooks' set-up: images and one-hot masks in memory as float32, float32
                arithmetic, no threads
"""

import os
import statistics
import time
from typing import Any

import click
import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from segmentation import datasets, models
from segmentation.config import Config
from segmentation.device import set_precision
from segmentation.labels import NUM_CLASSES
from segmentation.prepared import PreparedSet


class Steps(datasets.Patches):
    """The first `steps` batches of the training split. A small set is repeated."""

    def __init__(self, *arguments: Any, steps: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, batch: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return super().__getitem__(batch % (len(self.indices) // self.batch_size))


class Clock(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no annotations
    """Measures the seconds from the end of the first step to the end of the last.

    The first step is left out: it fills the queue and compiles.
    """

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch == 0:
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - self.started


def timed(model: keras.Model, data: Any) -> float:
    """Seconds of one epoch without its first step."""
    clock = Clock()
    model.fit(data, epochs=1, shuffle=False, verbose=0, callbacks=[clock])
    return clock.seconds


def published_model(size: int) -> keras.Model:
    """The network and loss as in the notebooks: float32, images in 0..1, one-hot masks."""
    os.environ["SM_FRAMEWORK"] = "tf.keras"
    import segmentation_models as sm

    keras.config.set_dtype_policy("float32")
    image = keras.Input((size, size, 3))
    network = models.published_unet(image, "relu")
    scores = keras.layers.Conv2D(NUM_CLASSES, 1, activation="softmax")(network)
    model = keras.Model(image, scores)
    loss = (
        sm.losses.DiceLoss(class_weights=np.full(NUM_CLASSES, 0.1666))
        + sm.losses.CategoricalFocalLoss()
    )
    model.compile(
        keras.optimizers.Adam(0.007),
        loss,
        metrics=["accuracy", keras.metrics.Precision(), keras.metrics.Recall()],
    )
    return model


@click.command()
@click.argument("folder")
@click.option("--batch-size", default=16, show_default=True)
@click.option("--steps", default=40, show_default=True, help="Train steps per epoch.")
@click.option(
    "--repeats", default=5, show_default=True, help="Epochs per kind. Their median is reported."
)
@click.option("--augment", default="full", show_default=True)
@click.option("--precision", default="auto", show_default=True)
def main(
    folder: str, batch_size: int, steps: int, repeats: int, augment: str, precision: str
) -> None:
    """Time epochs of FOLDER's training split, bare steps, and the published set-up."""
    prepared = PreparedSet.open(folder)
    size = prepared.patch_size
    device, precision = set_precision(precision)
    keras.utils.set_random_seed(0)
    ours = models.compiled(Config(batch_size=batch_size), size)
    data = Steps(prepared, "train", batch_size, shuffle_seed=0, augment=augment, steps=steps)
    images, masks = map(tf.constant, data[0])
    bare = tf.data.Dataset.from_tensors((images, masks)).repeat(steps)

    published = published_model(size)
    chosen = prepared.indices("train")[: batch_size * min(steps, 8)]
    floats = prepared.images[chosen].astype(np.float32) / 255
    one_hot = np.eye(NUM_CLASSES + 1, dtype=np.float32)[
        np.minimum(prepared.masks[chosen], NUM_CLASSES)
    ][..., :NUM_CLASSES]
    in_memory = floats.nbytes + one_hot.nbytes

    seconds: dict[str, list[float]] = {"bare": [], "ours": [], "published": []}
    arrays = (
        tf.data.Dataset.from_tensor_slices((floats, one_hot)).repeat().batch(batch_size).take(steps)
    )
    for repeat in range(repeats + 1):
        times = {
            "bare": timed(ours, bare),
            "ours": timed(ours, data),
            "published": timed(published, arrays),
        }
        if repeat:  # the first compiles
            for name, value in times.items():
                seconds[name].append(value)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"{device}, {precision}, batch {batch_size}, {size} px, {steps} steps, augment {augment}, "
        f"median of {repeats}"
    )
    for name, values in seconds.items():
        print(f"{name:10} {medians[name]:7.2f} s  ({min(values):.2f} to {max(values):.2f})")
    pairs = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["bare"], strict=True))
    print(f"ours / bare       {pairs:.3f}   (target: at most 1.05)")
    print(f"published / ours  {medians['published'] / medians['ours']:.2f}")
    print(
        f"memory per patch  ours {4 * size**2 / 1024:.0f} KiB mapped, "
        f"published {in_memory / len(chosen) / 1024:.0f} KiB in memory"
    )


if __name__ == "__main__":
    main()

"""Time of an epoch, compared with its bare train steps and with the published set-up.

    python -m benchmarks.epoch data/prepared [--batch-size 16] [--steps 40] [--repeats 5]

The set needs mosaics: prepare it with --mosaics. Four kinds of epochs take turns, so that a machine
that becomes slower slows all four:

    bare        the train step repeated on one batch that is already a tensor: the lower bound
    patches     as many steps through `Patches` and its threads, with augmentation
    windows     the same through `Windows`, with everything on that changes a window (WINDOWS)
    published   the notebooks' set-up: images and one-hot masks in memory as float32, float32
                arithmetic, no threads
"""

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

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

WINDOWS = {"scale_jitter": 0.5, "photometric": 0.2, "cutmix": 0.5, "class_sampling": 0.5}
"""Hyperparameters of the windows, besides --augment."""


class Steps(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no annotations
    """The first `steps` full batches of `data`. A small set is repeated."""

    def __init__(self, data: datasets.Batches, steps: int) -> None:
        super().__init__(workers=data.workers, max_queue_size=data.max_queue_size)
        self.data, self.steps = data, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, batch: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return self.data[batch % (self.data.images_per_epoch // self.data.batch_size)]


class Times(NamedTuple):
    """Seconds of the steps of one epoch.

    On a CPU that other programs use too, the processor's seconds are the more exact ones. On a GPU
    only the clock counts.
    """

    wall: float  # by the clock
    cpu: float  # of all processor cores together, for this process


class Clock(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no annotations
    """Measures `times` from the end of the first step to the end of the last.

    The first step is left out: it fills the queue and compiles.
    """

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        now = time.perf_counter(), time.process_time()
        if batch == 0:
            self.started = now
        self.times = Times(now[0] - self.started[0], now[1] - self.started[1])


def timed(model: keras.Model, data: Any) -> Times:
    """Times of one epoch without its first step."""
    clock = Clock()
    model.fit(data, epochs=1, shuffle=False, verbose=0, callbacks=[clock])
    return clock.times


def ratio(times: Sequence[Times], others: Sequence[Times]) -> Times:
    """Median of times / others over pairs that were measured one after the other."""
    pairs = list(zip(times, others, strict=True))
    return Times(
        statistics.median(one.wall / other.wall for one, other in pairs),
        statistics.median(one.cpu / other.cpu for one, other in pairs),
    )


def published_model(size: int) -> keras.Model:
    """The network and loss as in the notebooks: float32, images in 0..1, one-hot masks."""
    os.environ["SM_FRAMEWORK"] = "tf.keras"
    import segmentation_models as sm

    keras.config.set_dtype_policy("float32")
    image = keras.Input((size, size, 3))
    network = models.unet(image, Config())
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
    options = {"batch_size": batch_size, "augment": augment}
    fixed = Config.from_mapping(options)
    ours = models.compiled(fixed, size, steps)
    patches, windows = (
        Steps(datasets.training(prepared, config, first_epoch=0), steps)
        for config in (fixed, Config.from_mapping({**options, "window": size, **WINDOWS}))
    )
    images, masks = map(tf.constant, patches[0])
    bare = tf.data.Dataset.from_tensors((images, masks)).repeat(steps)

    published = published_model(size)
    chosen = prepared.indices("train")[: batch_size * min(steps, 8)]
    floats = prepared.images[chosen].astype(np.float32) / 255
    one_hot = np.eye(NUM_CLASSES + 1, dtype=np.float32)[
        np.minimum(prepared.masks[chosen], NUM_CLASSES)
    ][..., :NUM_CLASSES]
    in_memory = floats.nbytes + one_hot.nbytes

    arrays = (
        tf.data.Dataset.from_tensor_slices((floats, one_hot)).repeat().batch(batch_size).take(steps)
    )
    kinds = {
        "bare": (ours, bare),
        "patches": (ours, patches),
        "windows": (ours, windows),
        "published": (published, arrays),
    }
    for model, data in kinds.values():
        timed(model, data)  # compiles
    rounds = [{name: timed(*kind) for name, kind in kinds.items()} for _ in range(repeats)]
    times = {name: [turn[name] for turn in rounds] for name in kinds}

    print(
        f"{device}, {precision}, batch {batch_size}, {size} px, {steps} steps, augment {augment}, "
        f"median of {repeats}"
    )
    for name, measured in times.items():
        wall = [one.wall for one in measured]
        print(f"{name:20} {statistics.median(wall):7.2f} s  ({min(wall):.2f} to {max(wall):.2f})")
    print("ratio                   wall     cpu")
    for one, other, target in (
        ("patches", "bare", "   (target: at most 1.05)"),
        ("windows", "bare", "   (target: at most 1.05)"),
        ("published", "patches", ""),
    ):
        ratios = ratio(times[one], times[other])
        print(f"{one + ' / ' + other:20} {ratios.wall:7.3f} {ratios.cpu:7.3f}{target}")
    print(
        f"memory per patch: ours {4 * size**2 / 1024:.0f} KiB mapped, "
        f"published {in_memory / len(chosen) / 1024:.0f} KiB in memory"
    )


if __name__ == "__main__":
    main()

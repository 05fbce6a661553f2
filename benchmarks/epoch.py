"""What an epoch costs beyond its train steps, and beside the published set-up.

    python -m benchmarks.epoch data/prepared [--batch-size 16] [--steps 40] [--repeats 5]

Three epochs of one compiled model on one machine, in turn, so that a drifting machine hurts them alike:

    bare        the train step over and over on one batch that is already a tensor: the floor
    ours        the same number of steps through `Patches` and its threads, augmentation as asked
    published   float32 images and one-hot masks held in memory, float32 arithmetic, no threads: the notebooks' set-up
"""

import os
import statistics
import time

import click
import keras
import numpy as np
import tensorflow as tf

from segmentation import datasets, losses, models
from segmentation.config import Config
from segmentation.labels import NUM_CLASSES
from segmentation.prepared import PreparedSet


class Steps(datasets.Patches):
    """The first `steps` batches of the training split; a small set is gone through more than once."""

    def __init__(self, *arguments, steps: int, **options):
        super().__init__(*arguments, **options)
        self.steps = steps

    def __len__(self):
        return self.steps

    def __getitem__(self, batch):
        return super().__getitem__(batch % (len(self.indices) // self.batch_size))


def compiled(config: Config, size: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = models.build(config, size)
    loss = losses.LOSSES[config.loss]()
    model.compile(
        keras.optimizers.Adam(config.learning_rate), loss, metrics=[losses.SplitSums(loss)]
    )
    return model


class Clock(keras.callbacks.Callback):
    """Seconds from the end of the first step, which fills the queue and compiles, to the end of the last."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            self.begun = time.perf_counter()
        self.seconds = time.perf_counter() - self.begun


def timed(model: keras.Model, data, **options) -> float:
    clock = Clock()
    model.fit(data, epochs=1, shuffle=False, verbose=0, callbacks=[clock], **options)
    return clock.seconds


def published_model(size: int) -> keras.Model:
    """The same network and loss as the notebooks have them: float32, images of 0..1, one-hot masks."""
    os.environ["SM_FRAMEWORK"] = "tf.keras"
    import segmentation_models as sm

    keras.config.set_dtype_policy("float32")
    image = keras.Input((size, size, 3))
    network = models._unet(image, "relu")
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
@click.option("--steps", default=40, show_default=True, help="Train steps an epoch.")
@click.option(
    "--repeats", default=5, show_default=True, help="Epochs of each kind; the median counts."
)
@click.option("--augment", default="full", show_default=True)
@click.option("--precision", default="auto", show_default=True)
def main(
    folder: str, batch_size: int, steps: int, repeats: int, augment: str, precision: str
) -> None:
    """Time an epoch of FOLDER's training split against bare steps and against the published set-up."""
    prepared = PreparedSet.open(folder)
    size = prepared.patch_size
    device, precision = models.set_precision(precision)
    ours = compiled(Config(batch_size=batch_size), size)
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

    seconds = {"bare": [], "ours": [], "published": []}
    arrays = (
        tf.data.Dataset.from_tensor_slices((floats, one_hot)).repeat().batch(batch_size).take(steps)
    )
    for repeat in range(repeats + 1):
        found = {
            "bare": timed(ours, bare),
            "ours": timed(ours, data),
            "published": timed(published, arrays),
        }
        if repeat:  # the first compiles
            for name, value in found.items():
                seconds[name].append(value)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"{device}, {precision}, batch {batch_size}, {size} px, {steps} steps, augment {augment}, median of {repeats}"
    )
    for name, values in seconds.items():
        print(f"{name:10} {medians[name]:7.2f} s  ({min(values):.2f} to {max(values):.2f})")
    pairs = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["bare"], strict=True))
    print(f"ours / bare       {pairs:.3f}   (aim: at most 1.05)")
    print(f"published / ours  {medians['published'] / medians['ours']:.2f}")
    print(
        f"memory a patch    ours {4 * size**2 / 1024:.0f} KiB mapped, published {in_memory / len(chosen) / 1024:.0f} KiB held"
    )


if __name__ == "__main__":
    main()

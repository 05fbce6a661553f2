"""Keras callbacks of a training: one row and one checkpoint per epoch, a progress bar, the same dropout when resumed."""

import math
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
from tqdm import tqdm

from segmentation.checkpoint import Checkpoint
from segmentation.config import OBJECTIVE
from segmentation.ending import RunEnded
from segmentation.losses import unpack
from segmentation.metrics import summarize


class EpochLogger(keras.callbacks.Callback):
    """Makes the row of each epoch, saves the checkpoint, then calls `log(row)`: what is logged can be resumed."""

    def __init__(
        self, checkpoint: Checkpoint, patches: int, keep_epoch: int, log: Callable[[dict], None]
    ):
        super().__init__()
        self.checkpoint, self.patches, self.keep_epoch, self.log = (
            checkpoint,
            patches,
            keep_epoch,
            log,
        )
        self.best = min((row["val_loss"] for row in checkpoint.rows), default=math.inf)

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter() - self.started

    def on_epoch_end(self, epoch, logs=None):
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"])):
            raise RunEnded("diverged", f"the loss of epoch {epoch + 1} is not finite")
        improved, self.best = logs["val_loss"] < self.best, min(self.best, logs["val_loss"])
        row = {
            "epoch": epoch + 1,
            "loss": logs["loss"],
            "val_loss": logs["val_loss"],
            OBJECTIVE: self.best,
        }
        row |= summarize(*unpack(logs["sums"]))
        row |= {
            f"val_{name}": value for name, value in summarize(*unpack(logs["val_sums"])).items()
        }
        row |= {
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": time.perf_counter() - self.started,
            "images_per_second": self.patches / self.trained,
        }
        self.checkpoint.save(self.model, row, improved, keep=epoch + 1 == self.keep_epoch)
        self.log(row)


class Reseed(keras.callbacks.Callback):
    """Makes dropout a function of seed and epoch alone. Keras saves no random state, so a resumed run would draw other masks."""

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        random = [
            layer.seed_generator
            for layer in _layers(self.model)
            if getattr(layer, "seed_generator", None)
        ]
        for index, generator in enumerate(random):
            state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
            generator.state.assign(state >> 1)  # 31 bits: the state's type is signed


class Progress(keras.callbacks.Callback):
    """A bar for the steps of each epoch on a terminal, and one line an epoch everywhere; ends a run whose loss is not finite."""

    EVERY = 50  # steps between looks at the loss: each makes the host wait for the device

    def __init__(self, epochs: int, steps: int):
        super().__init__()
        self.epochs, self.steps = epochs, steps

    def on_epoch_begin(self, epoch, logs=None):
        self.bar = tqdm(
            total=self.steps,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            unit="step",
            leave=False,
            disable=None,
            dynamic_ncols=True,
        )

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if batch % self.EVERY == self.EVERY - 1:
            loss = float(logs["loss"])
            self.bar.set_postfix(loss=f"{loss:.4f}")
            if not math.isfinite(loss):
                self.bar.close()
                raise RunEnded("diverged", f"the loss is {loss} at step {batch + 1}")

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        row = {name: logs[name] for name in ("loss", "val_loss")} | summarize(
            *unpack(logs["val_sums"])
        )
        print(
            f"epoch {epoch + 1:>3}/{self.epochs}  loss {row['loss']:.4f}  val_loss {row['val_loss']:.4f}  "
            f"val accuracy {row['accuracy']:.3f}  val mean IoU {row['mean_iou']:.3f}",
            flush=True,
        )


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Every layer in a fixed order, those of nested models too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer

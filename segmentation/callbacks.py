"""Keras callbacks: one row and one checkpoint per epoch, a progress bar, reproducible dropout."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from segmentation.checkpoint import Checkpoint, Row
from segmentation.config import OBJECTIVE, Config
from segmentation.ending import RunEnded
from segmentation.metrics import summarize

Logs = dict[str, Any]
"""What Keras measured: `loss` and the results of `SplitSums`, those of validation with `val_`."""


class EpochLogger(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no annotations
    """Makes the row of each epoch, saves the checkpoint, logs the row, and prints it as one line.

    The checkpoint is saved before the row is logged, so every logged epoch can be resumed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Config,
        patches: int,
        log: Callable[[Row], None],
    ) -> None:
        """Starts after the last epoch of `checkpoint`.

        Args:
            checkpoint: Where rows and weights are saved.
            config: The run's hyperparameters.
            patches: Number of training patches, for the speed in images per second.
            log: Called with the row of each epoch.
        """
        super().__init__()
        self.checkpoint, self.config, self.patches, self.log = checkpoint, config, patches, log
        self.best = min((row["val_loss"] for row in checkpoint.rows), default=math.inf)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.started = time.perf_counter()

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self.train_seconds = time.perf_counter() - self.started

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Raises RunEnded if a loss is not finite. Such an epoch is neither saved nor logged."""
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"])):
            raise RunEnded("diverged", f"the loss of epoch {epoch + 1} is not finite")
        improved, self.best = logs["val_loss"] < self.best, min(self.best, logs["val_loss"])
        row = {
            "epoch": epoch + 1,
            "loss": logs["loss"],
            "val_loss": logs["val_loss"],
            OBJECTIVE: self.best,
        }
        row |= _scores(logs, "") | _scores(logs, "val_")
        row |= {
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": time.perf_counter() - self.started,
            "images_per_second": self.patches / self.train_seconds,
        }
        keep = epoch + 1 == self.config.keep_epoch
        self.checkpoint.save(self.model, row, improved, keep)
        self.log(row)
        print(
            f"epoch {epoch + 1:>3}/{self.config.epochs}  loss {row['loss']:.4f}  "
            f"val_loss {row['val_loss']:.4f}  val accuracy {row['val_accuracy']:.3f}  "
            f"val mean IoU {row['val_mean_iou']:.3f}  {row['seconds']:.1f} s",
            flush=True,
        )


class Reseed(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no annotations
    """Makes dropout depend on seed and epoch alone.

    Keras does not save random state, so a resumed run would otherwise drop other units.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        generators = [
            layer.seed_generator
            for layer in _layers(self.model)
            if getattr(layer, "seed_generator", None)
        ]
        for index, generator in enumerate(generators):
            state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
            generator.state.assign(state >> 1)  # 31 bits: the state's type is signed


class Progress(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no annotations
    """Shows a bar of the epoch's steps on a terminal, and ends a run whose loss is not finite."""

    EVERY = 50  # steps between two checks of the loss; each makes the host wait for the device

    def __init__(self, epochs: int, steps: int) -> None:
        """Shows `epochs` epochs of `steps` steps each."""
        super().__init__()
        self.epochs, self.steps = epochs, steps

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.bar = tqdm(
            total=self.steps,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            unit="step",
            leave=False,
            disable=None,
            dynamic_ncols=True,
        )

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Raises RunEnded if the loss is not finite at one of the checked steps."""
        self.bar.update()
        if batch % self.EVERY == self.EVERY - 1:
            loss = float(logs["loss"])
            self.bar.set_postfix(loss=f"{loss:.4f}")
            if not math.isfinite(loss):
                self.bar.close()
                raise RunEnded("diverged", f"the loss is {loss} at step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.bar.close()


def _scores(logs: Logs, prefix: str) -> dict[str, float]:
    """The scores of one split, with `prefix` before each name."""
    counts = (logs[prefix + name] for name in ("confusion", "confident_hits", "confident"))
    return {prefix + name: value for name, value in summarize(*counts).items()}


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Every layer in a fixed order, including those of nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer

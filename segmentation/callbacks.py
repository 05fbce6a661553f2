"""Keras callbacks: validation, one row and one checkpoint per epoch, progress, dropout's seeds."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from segmentation.checkpoint import Checkpoint, Row
from segmentation.config import BEST_BY, OBJECTIVES, Config
from segmentation.datasets import Patches
from segmentation.ending import RunEnded
from segmentation.metrics import summarize
from segmentation.optimizers import averaged_weights

PUBLISHED_RULER = ("dice_focal_published", 16)
"""Loss and validation batch size with which the published notebooks report `val_loss`: the mean of
the batches' losses. A row has it as `val_loss_batch16`, beside the exact loss of the split."""

Logs = dict[str, Any]
"""What Keras measured on one split: `loss` and the results of `SplitSums`."""


class EpochLogger(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no annotations
    """Validates after each epoch, saves the checkpoint, logs the epoch's row, and prints a line.

    Averaged weights are validated and saved as the best ones, if the optimizer keeps averages. The
    checkpoint is saved before the row is logged, so every logged epoch can be resumed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Config,
        val_data: Patches | None,
        patches: int,
        check: Callable[..., None],
        log: Callable[[Row], None],
    ) -> None:
        """Starts after the last epoch of `checkpoint`.

        Args:
            checkpoint: Where rows and weights are saved.
            config: The run's hyperparameters.
            val_data: The validation split. Without one, the last weights count as the best.
            patches: Number of training patches, for the speed in images per second.
            check: Called after each batch of the validation; it may raise RunEnded.
            log: Called with the row of each epoch.
        """
        super().__init__()
        self.checkpoint, self.config, self.val_data, self.log = checkpoint, config, val_data, log
        self.patches = patches
        self.val_callbacks = [keras.callbacks.LambdaCallback(on_test_batch_end=check)]

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Raises RunEnded if a loss is not finite. Such an epoch is neither saved nor logged."""
        train_seconds = time.perf_counter() - self.started
        row = {"epoch": epoch + 1, "loss": logs["loss"]} | _scores(logs, "")
        if self.val_data is not None:
            row |= self._validate(self.val_data)
        if not (math.isfinite(row["loss"]) and math.isfinite(row.get("val_loss", 0.0))):
            raise RunEnded("diverged", f"the loss of epoch {epoch + 1} is not finite")
        for objective, name in OBJECTIVES.items():
            if name in row:
                row[objective] = min(row[name], self.checkpoint.lowest(name))
        row |= {
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": time.perf_counter() - self.started,
            "images_per_second": self.patches / train_seconds,
        }
        judged_by = BEST_BY[self.config.best_by]
        best = judged_by not in row or row[judged_by] < self.checkpoint.lowest(judged_by)
        self.checkpoint.save(self.model, row, best, epoch + 1 == self.config.keep_epoch)
        self.log(row)
        print(self._line(row), flush=True)

    def _validate(self, val_data: Patches) -> Row:
        """The validation part of an epoch's row."""
        with averaged_weights(self.model):
            logs = self.model.evaluate(
                val_data, callbacks=self.val_callbacks, return_dict=True, verbose=0
            )
        scores = _scores(logs, "val_")
        error = 1 - scores.get("val_mean_iou_labeled", 0.0)  # no real class: as bad as can be
        row = {"val_loss": logs["loss"], "val_error": error}
        if (self.config.loss, self.config.val_batch_size) == PUBLISHED_RULER:
            row["val_loss_batch16"] = float(logs["batch_mean"])
        return row | scores

    def _line(self, row: Row) -> str:
        """The epoch for the terminal."""
        words = [f"epoch {row['epoch']:>3}/{self.config.epochs}  loss {row['loss']:.4f}"]
        if "val_loss" in row:
            words.append(f"val_loss {row['val_loss']:.4f}")
            words.append(f"val accuracy {row['val_accuracy']:.3f}")
            words.append(f"val mean IoU {row['val_mean_iou']:.3f}")
        return "  ".join([*words, f"{row['seconds']:.1f} s"])


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
    """The scores of the split that `logs` measured, with `prefix` before each name."""
    counts = (logs[name] for name in ("confusion", "confident_hits", "confident"))
    return {prefix + name: value for name, value in summarize(*counts).items()}


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Every layer in a fixed order, including those of nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer

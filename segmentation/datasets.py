"""Batches of a prepared set for Keras: memory-mapped, shuffled and augmented in threads."""

import os
import threading
from collections.abc import Iterator

import keras
import numpy as np
from numpy.typing import NDArray

from segmentation.augmentation import Augment, augmenter
from segmentation.config import Config
from segmentation.prepared import PreparedSet


class Patches(keras.utils.PyDataset):  # type: ignore[misc] # keras has no annotations
    """Batches of (images (b, p, p, 3) uint8 RGB, masks (b, p, p) uint8) of one split.

    The model scales the images, so they stay uint8 here.

    With a `shuffle_seed`, order and augmentation depend only on that seed and the epoch, whatever
    the number of threads. So a run that is resumed at epoch k gets the same batches as one that
    was never interrupted.

    Args:
        prepared: The prepared set.
        split: `train`, `val` or `test`.
        batch_size: Patches per batch. The last batch of an epoch may be smaller.
        shuffle_seed: Seed of order and augmentation. Without it the patches come in the order of
            the set, and nothing is augmented.
        augment: A kind of `augmentation.augmenter`.
        first_epoch: Epoch of the first pass.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        split: str,
        batch_size: int,
        shuffle_seed: int | None = None,
        augment: str = "none",
        first_epoch: int = 0,
    ) -> None:
        super().__init__(workers=min(4, os.cpu_count() or 1), max_queue_size=8)
        self.images, self.masks = prepared.images, prepared.masks
        self.indices, self.batch_size = prepared.indices(split), batch_size
        self.shuffle_seed, self.kind, self.epoch = shuffle_seed, augment, first_epoch
        # An albumentations pipeline holds its random state, so each thread needs its own pipeline.
        self._local = threading.local()

    @property
    def images_per_epoch(self) -> int:
        return len(self.indices)

    def __len__(self) -> int:
        """Batches per epoch. All patches of the split occur."""
        return -(-len(self.indices) // self.batch_size)

    def __getitem__(self, batch: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        chosen = self._order()[batch * self.batch_size : (batch + 1) * self.batch_size]
        images, masks = self.images[chosen], self.masks[chosen]
        if self.shuffle_seed is not None and (augment := self._augment()):
            for i, patch in enumerate(chosen.tolist()):
                seeds = np.random.SeedSequence([self.shuffle_seed, self.epoch, patch])
                seed = int(seeds.generate_state(1)[0])
                images[i], masks[i] = augment(images[i], masks[i], seed)
        return images, masks

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def _order(self) -> NDArray[np.int64]:
        """Indices of the split's patches in the order of this epoch."""
        if self.shuffle_seed is None:
            return self.indices
        return np.random.default_rng([self.shuffle_seed, self.epoch]).permutation(self.indices)

    def _augment(self) -> Augment | None:
        """This thread's augmentation."""
        if not hasattr(self._local, "augment"):
            self._local.augment = augmenter(self.kind)
        augment: Augment | None = self._local.augment
        return augment


def training(prepared: PreparedSet, config: Config, first_epoch: int) -> Patches:
    """The training data of a configuration."""
    return Patches(prepared, "train", config.batch_size, config.seed, config.augment, first_epoch)


def predict(
    model: keras.Model, patches: Patches
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]]:
    """Yields images, masks and probabilities (b, p, p, classes) float32, one batch at a time.

    So the predictions of a split need not fit into memory.
    """
    for batch in range(len(patches)):
        images, masks = patches[batch]
        yield images, masks, np.asarray(model.predict_on_batch(images))

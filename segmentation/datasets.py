"""Prepared set -> batches: mapped patches, shuffled by seed and epoch, augmented in threads that keep the step loop fed."""

import os
import threading
from collections.abc import Iterator

import keras
import numpy as np

from segmentation.augmentation import augmenter
from segmentation.prepared import PreparedSet


class Patches(keras.utils.PyDataset):
    """Batches of (images (b, h, w, 3) uint8, masks (b, h, w) uint8); the model scales, so nothing is converted here.

    Without `shuffle_seed` the order is the set's and nothing is augmented. With it, order and augmentation are a function of
    seed and epoch alone: a run that is resumed at epoch k sees what it would have seen, whatever the number of threads.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        split: str,
        batch_size: int,
        shuffle_seed: int | None = None,
        augment: str = "none",
        first_epoch: int = 0,
    ):
        super().__init__(workers=min(4, os.cpu_count() or 1), max_queue_size=8)
        self.images, self.masks = prepared.images, prepared.masks
        self.indices, self.batch_size = prepared.indices(split), batch_size
        self.shuffle_seed, self.kind, self.epoch = shuffle_seed, augment, first_epoch
        self._local = (
            threading.local()
        )  # an albumentations pipeline holds its random state: one for each thread

    def __len__(self) -> int:
        """Batches an epoch, the last one perhaps smaller: every patch is seen."""
        return -(-len(self.indices) // self.batch_size)

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order()[batch * self.batch_size : (batch + 1) * self.batch_size]
        images, masks = self.images[chosen], self.masks[chosen]
        if self.shuffle_seed is not None and self.kind != "none":
            augment = self._augment()
            for i, patch in enumerate(chosen):
                seed = np.random.SeedSequence(
                    [self.shuffle_seed, self.epoch, int(patch)]
                ).generate_state(1)[0]
                images[i], masks[i] = augment(images[i], masks[i], int(seed))
        return images, masks

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def _order(self) -> np.ndarray:
        if self.shuffle_seed is None:
            return self.indices
        return np.random.default_rng([self.shuffle_seed, self.epoch]).permutation(self.indices)

    def _augment(self):
        if not hasattr(self._local, "augment"):
            self._local.augment = augmenter(self.kind)
        return self._local.augment


def predict(
    model: keras.Model, patches: Patches
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batch by batch (images, masks, probabilities (b, h, w, classes) float32), so that no split has to fit into memory."""
    for batch in range(len(patches)):
        images, masks = patches[batch]
        yield images, masks, np.asarray(model.predict_on_batch(images))

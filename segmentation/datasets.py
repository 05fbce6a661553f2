"""Batches of a prepared set for Keras: memory-mapped, shuffled and augmented in threads."""

import os
import threading
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from segmentation.augmentation import Augment, Pair, augmenter, gain_and_gamma
from segmentation.config import Config
from segmentation.prepared import Mosaic, PreparedSet
from segmentation.windows import Sampler

PHOTOMETRIC, WINDOW = 1, 2
"""Last number of the seeds of gain and gamma, and of a window. Augmentation has none.

So each of the three has its own random numbers, and windows do not depend on the other two.
"""


class Batches(keras.utils.PyDataset):  # type: ignore[misc] # keras has no annotations
    """Batches of (images (b, p, p, 3) uint8 RGB, masks (b, p, p) uint8).

    The model scales the images, so they stay uint8 here.

    With a seed, order, windows and augmentation depend only on that seed and the epoch, whatever
    the number of threads. So a run that is resumed at epoch k gets the same batches as one that
    was never interrupted.

    Args:
        images_per_epoch: The last batch of an epoch may be smaller than the others.
        batch_size: Images per batch.
        seed: Seed of everything random. Without it, nothing is augmented.
        augment: A kind of `augmentation.augmenter`.
        photometric: Strength of `augmentation.gain_and_gamma`; 0 for none.
        first_epoch: Epoch of the first pass.
    """

    def __init__(
        self,
        images_per_epoch: int,
        batch_size: int,
        seed: int | None,
        augment: str,
        photometric: float,
        first_epoch: int,
    ) -> None:
        super().__init__(workers=min(4, os.cpu_count() or 1), max_queue_size=8)
        self.images_per_epoch, self.batch_size = images_per_epoch, batch_size
        self.seed, self.kind, self.photometric = seed, augment, photometric
        self.epoch = first_epoch
        # An albumentations pipeline holds its random state, so each thread needs its own pipeline.
        self._local = threading.local()

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-self.images_per_epoch // self.batch_size)

    def __getitem__(self, batch: int) -> Pair:
        chosen = self._order()[batch * self.batch_size : (batch + 1) * self.batch_size]
        images, masks = self._load(chosen)
        if self.seed is not None and (self.kind != "none" or self.photometric):
            for i, example in enumerate(chosen.tolist()):
                seeds = [self.seed, self.epoch, example]
                images[i], masks[i] = self._changed(images[i], masks[i], seeds)
        return images, masks

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def _order(self) -> NDArray[np.int64]:
        """Numbers of the examples in the order of this epoch."""
        raise NotImplementedError

    def _load(self, chosen: NDArray[np.int64]) -> Pair:
        """Images and masks of the chosen examples, copied."""
        raise NotImplementedError

    def _changed(self, image: NDArray[np.uint8], mask: NDArray[np.uint8], seeds: list[int]) -> Pair:
        """Image and mask after augmentation with these seeds."""
        if augment := self._augment():
            seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
            image, mask = augment(image, mask, seed)
        if self.photometric:
            random = np.random.default_rng([*seeds, PHOTOMETRIC])
            image = gain_and_gamma(image, self.photometric, random)
        return image, mask

    def _augment(self) -> Augment | None:
        """This thread's augmentation."""
        if not hasattr(self._local, "augment"):
            self._local.augment = augmenter(self.kind)
        augment: Augment | None = self._local.augment
        return augment


class Patches(Batches):
    """Batches of fixed patches. All patches occur once per epoch.

    Args:
        prepared: The prepared set.
        split: `train`, `val` or `test`; or the indices of patches.
        batch_size: Patches per batch.
        shuffle_seed: Seed of order and augmentation. Without it the patches come in the given
            order, and nothing is augmented.
        augment: See `Batches`.
        first_epoch: See `Batches`.
        photometric: See `Batches`.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        split: str | NDArray[np.int64],
        batch_size: int,
        shuffle_seed: int | None = None,
        augment: str = "none",
        first_epoch: int = 0,
        photometric: float = 0.0,
    ) -> None:
        self.images, self.masks = prepared.images, prepared.masks
        self.indices = prepared.indices(split) if isinstance(split, str) else split
        super().__init__(
            len(self.indices), batch_size, shuffle_seed, augment, photometric, first_epoch
        )

    def _order(self) -> NDArray[np.int64]:
        if self.seed is None:
            return self.indices
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.indices)

    def _load(self, chosen: NDArray[np.int64]) -> Pair:
        return self.images[chosen], self.masks[chosen]


class Windows(Batches):
    """Batches of windows drawn from mosaics. An epoch has as many pixels as the mosaics.

    Args:
        mosaics: The training mosaics.
        config: Batch size, seed, and everything that changes windows; see `windows.Sampler`.
        first_epoch: See `Batches`.

    Raises:
        UserError: A mosaic is smaller than a window.
    """

    def __init__(self, mosaics: Sequence[Mosaic], config: Config, first_epoch: int = 0) -> None:
        self.sampler, self.config = Sampler(mosaics, config), config
        super().__init__(
            len(self.sampler),
            config.batch_size,
            config.seed,
            config.augment,
            config.photometric,
            first_epoch,
        )

    def _order(self) -> NDArray[np.int64]:
        return np.arange(self.images_per_epoch)

    def _load(self, chosen: NDArray[np.int64]) -> Pair:
        windows = [
            self.sampler.draw(np.random.default_rng([self.config.seed, self.epoch, number, WINDOW]))
            for number in chosen.tolist()
        ]
        images, masks = zip(*windows, strict=True)
        return np.stack(images), np.stack(masks)


def training(prepared: PreparedSet, config: Config, first_epoch: int) -> Batches:
    """Training batches as `config` asks for: windows of mosaics, or the fixed patches.

    Raises:
        UserError: The set has no training patches; or, for windows, no mosaics or too small ones.
    """
    if config.window:
        return Windows(prepared.mosaics("train"), config, first_epoch)
    return Patches(
        prepared,
        "train",
        config.batch_size,
        config.seed,
        config.augment,
        first_epoch,
        config.photometric,
    )


def predict(
    model: keras.Model, patches: Patches
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]]:
    """Yields images, masks and probabilities (b, p, p, classes) float32, one batch at a time.

    So the predictions of a split need not fit into memory.
    """
    for batch in range(len(patches)):
        images, masks = patches[batch]
        yield images, masks, np.asarray(model.predict_on_batch(images))

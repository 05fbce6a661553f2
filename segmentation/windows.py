"""Training windows: squares cut at random places out of whole mosaics.

This module needs no framework. `datasets.Windows` makes batches of the windows.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segmentation.augmentation import Pair, paste
from segmentation.config import UNET_MULTIPLE, Config
from segmentation.errors import UserError
from segmentation.labels import NUM_CLASSES, UNLABELED
from segmentation.prepared import Mosaic, PreparedSet

PIXELS_PER_CLASS = 50_000
"""Pixels per class that are kept for `class_sampling`: 400 kB per class."""

BAND = 512
"""Rows of a mask that are searched for classes at a time. Limits the memory."""


def check(config: Config, prepared: PreparedSet) -> None:
    """Raises UserError if the set cannot serve the configuration's windows, if it has any."""
    if config.window:
        check_sizes(prepared.mosaics("train"), config.window)


def check_sizes(mosaics: Sequence[Mosaic], window: int) -> None:
    """Raises UserError if a mosaic is smaller than `window` x `window` px."""
    smallest = min(mosaics, key=lambda mosaic: min(mosaic.mask.shape))
    height, width = smallest.mask.shape
    largest = min(height, width) // UNET_MULTIPLE * UNET_MULTIPLE
    if window > min(height, width):
        raise UserError(
            f"window={window} is larger than the mosaic of tile {smallest.tile}, which has "
            f"{height} x {width} px; take at most window={largest}, or prepare the set with a "
            "smaller --scale"
        )


class Sampler:
    """Draws windows of `config.window` x `config.window` px at random.

    Windows are uniform over all positions in all mosaics, except for the share
    `config.class_sampling`. Those contain a pixel of a class that is drawn from the real classes in
    the mosaics, each with the same probability. So a rare class occurs in more windows.

    Args:
        mosaics: The training mosaics.
        config: `window`, `scale_jitter`, `class_sampling`, `cutmix` and `seed` are used.

    Raises:
        UserError: A mosaic is smaller than a window.
    """

    def __init__(self, mosaics: Sequence[Mosaic], config: Config) -> None:
        check_sizes(mosaics, config.window)
        self.mosaics, self.config = mosaics, config
        self._shapes = np.array([mosaic.mask.shape for mosaic in mosaics], dtype=np.int64)
        self._pixels: list[NDArray[np.int64]] = []
        if config.class_sampling:
            masks = [mosaic.mask for mosaic in mosaics]
            self._pixels = class_pixels(masks, PIXELS_PER_CLASS, config.seed)

    def __len__(self) -> int:
        """Windows per epoch: together they have as many pixels as the mosaics."""
        return max(1, round(int(self._shapes.prod(axis=1).sum()) / self.config.window**2))

    def draw(self, random: np.random.Generator) -> Pair:
        """A window: (w, w, 3) uint8 RGB and (w, w) uint8, copied.

        With the probability `config.cutmix`, a square of it comes from another window.
        """
        window = self._draw_plain(random)
        if random.random() < self.config.cutmix:
            paste(window, self._draw_plain(random), random)
        return window

    def _draw_plain(self, random: np.random.Generator) -> Pair:
        """A window that comes from one place."""
        side = self._side(random)
        if random.random() < self.config.class_sampling:
            number, row, column = self._around_class(side, random)
        else:
            positions = self._shapes - side + 1  # of the square's top-left pixel
            index = int(random.integers(positions.prod(axis=1).sum()))
            number, row, column = _locate(index, positions)
        square = slice(row, row + side), slice(column, column + side)
        mosaic = self.mosaics[number]
        return resized(mosaic.image[square], mosaic.mask[square], self.config.window)

    def _side(self, random: np.random.Generator) -> int:
        """Side of the square to cut out, in px of the mosaic. It fits into every mosaic.

        It is the window times a factor, log-uniform from 1 / (1 + jitter) to 1 + jitter.
        """
        factor = (1 + self.config.scale_jitter) ** random.uniform(-1, 1)
        return min(round(float(self.config.window * factor)), int(self._shapes.min()))

    def _around_class(self, side: int, random: np.random.Generator) -> tuple[int, int, int]:
        """Mosaic, row and column of a square of this side that contains a pixel of some class.

        All squares inside the mosaic that contain the pixel have the same probability.
        """
        pixels = self._pixels[random.integers(len(self._pixels))]
        number, *place = _locate(int(pixels[random.integers(len(pixels))]), self._shapes)
        row, column = (
            int(random.integers(max(0, pixel - side + 1), min(pixel, length - side) + 1))
            for pixel, length in zip(place, self._shapes[number].tolist(), strict=True)
        )
        return number, row, column


def class_pixels(
    masks: Sequence[NDArray[np.uint8]], count: int, seed: int
) -> list[NDArray[np.int64]]:
    """The places of pixels, one array per class other than Unlabeled that occurs in the masks.

    Each array holds indices of pixels in all masks one after the other, row by row. These are all
    pixels of the class, or `count` of them drawn at random without replacement: each pixel gets a
    random number, and the pixels with the lowest numbers are kept.
    """
    random = np.random.default_rng(seed)
    kept: dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]] = {
        label: (np.empty(0, np.int64), np.empty(0))
        for label in range(NUM_CLASSES)
        if label != UNLABELED
    }
    first = 0
    for mask in masks:
        for top in range(0, len(mask), BAND):
            band = mask[top : top + BAND]
            for label, (places, numbers) in kept.items():
                found = first + np.flatnonzero(band == label)
                places = np.concatenate([places, found])
                numbers = np.concatenate([numbers, random.random(len(found))])
                if len(numbers) > count:
                    lowest = np.argpartition(numbers, count)[:count]
                    places, numbers = places[lowest], numbers[lowest]
                kept[label] = places, numbers
            first += band.size
    return [places for places, _ in kept.values() if len(places)]


def resized(image: NDArray[np.uint8], mask: NDArray[np.uint8], size: int) -> Pair:
    """Copies of a square image and its mask with `size` x `size` px.

    Shrunk images are means over areas, and enlarged ones are interpolated linearly. A pixel of the
    mask is the nearest one of the original.
    """
    import cv2  # imported late: train.py checks the sizes of windows before its slow imports

    if len(mask) == size:
        return image.copy(), mask.copy()
    method = cv2.INTER_AREA if len(mask) > size else cv2.INTER_LINEAR
    # INTER_NEAREST_EXACT takes the pixel at the centre; INTER_NEAREST would shift by half a pixel
    return (
        np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8),
        np.asarray(cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8),
    )


def _locate(index: int, shapes: NDArray[np.int64]) -> tuple[int, int, int]:
    """Grid, row and column of element `index`, counted through grids of these (rows, columns)."""
    ends = np.cumsum(shapes.prod(axis=1))
    grid = int(np.searchsorted(ends, index, side="right"))
    rows, columns = shapes[grid].tolist()
    row, column = divmod(index - int(ends[grid]) + rows * columns, columns)
    return grid, row, column

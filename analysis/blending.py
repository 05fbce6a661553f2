"""An image of any size through a model of one size: overlapping patches, blended by a smooth window. NumPy only."""

from collections.abc import Callable, Iterator

import numpy as np

BATCH = 16
FLOOR = 1e-3  # of the window, so that a pixel that one patch alone covers keeps that patch's answer exactly


def blend(
    image: np.ndarray, size: int, model: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Class probabilities in bands from top to bottom: (h, w, 3) uint8 -> (rows, w, classes) float32, h rows in all.

    `model` maps (n, size, size, 3) uint8 to (n, size, size, classes). Patches overlap by half, the last ones end at the far
    edge, and each pixel is the mean of what its patches say, weighted by `window`. What is smaller than a patch is mirrored
    up to one. Bands keep the memory to a few patches' rows, however high the image is.
    """
    height, width = image.shape[:2]
    missing = [max(0, size - side) for side in (height, width)]
    padded = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    weight = window(size)[..., None]
    rows, columns = (starts(side, size) for side in padded.shape[:2])
    sums = weights = None
    for place, row in enumerate(rows):
        band = padded[row : row + size]
        found = np.concatenate(
            [model(np.stack([band[:, c : c + size] for c in some])) for some in _batches(columns)]
        )
        if sums is None:
            sums = np.zeros((size, padded.shape[1], found.shape[-1]), np.float32)
            weights = np.zeros((size, padded.shape[1], 1), np.float32)
        for column, probabilities in zip(columns, found, strict=True):
            sums[:, column : column + size] += weight * probabilities
            weights[:, column : column + size] += weight
        done = rows[place + 1] - row if place + 1 < len(rows) else size
        yield (sums[:done] / weights[:done])[: max(0, height - row), :width]
        for array in (sums, weights):
            array[: size - done], array[size - done :] = array[done:].copy(), 0


def starts(length: int, size: int) -> list[int]:
    """Where patches of `size` begin along an axis of `length` >= size: every half patch, and one that ends at its end."""
    step = max(1, size // 2)
    return sorted({*range(0, length - size + 1, step), length - size})


def window(size: int) -> np.ndarray:
    """(size, size) float32: highest in the middle, falling as a squared sine to FLOOR at the border."""
    line = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    return (FLOOR + (1 - FLOOR) * np.outer(line, line)).astype(np.float32)


def shrink(image: np.ndarray, scale: int) -> np.ndarray:
    """Mean of every scale x scale block, rounded half up as in the prepared set; an edge that fills no block is mirrored."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % scale), (0, -width % scale), (0, 0)), mode="symmetric")
    blocks = padded.reshape(padded.shape[0] // scale, scale, padded.shape[1] // scale, scale, 3)
    return (
        (blocks.sum(axis=(1, 3), dtype=np.uint32) + scale * scale // 2) // (scale * scale)
    ).astype(np.uint8)


def _batches(columns: list[int]) -> Iterator[list[int]]:
    for first in range(0, len(columns), BATCH):
        yield columns[first : first + BATCH]

"""Predictions of a model averaged: over overlapping patches, symmetries, and several models.

Uses only NumPy.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Model = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(n, h, w, 3) uint8 RGB patches -> (n, h, w, classes) float32 probabilities."""

BATCH = 16  # patches predicted at the same time
FLOOR = 1e-3  # smallest weight of the window; above 0, so that border pixels have a weight too


def blend(image: NDArray[np.uint8], size: int, model: Model) -> Iterator[NDArray[np.float32]]:
    """Bands of class probabilities (rows, w, classes) from top to bottom, h rows in total.

    Each pixel is the mean over the patches that cover it, weighted by `window`. Patches overlap by
    half; the last ones end at the edge of the image. An image that is smaller than a patch is
    extended by reflection. Bands keep the memory to a few rows of patches, however high the image
    is.

    Args:
        image: (h, w, 3) uint8 RGB.
        size: Height and width of a patch in pixels.
        model: Predicts patches of this size.
    """
    height, width = image.shape[:2]
    missing = [max(0, size - side) for side in (height, width)]
    padded = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    weight = window(size)[..., None]
    rows, columns = (starts(side, size) for side in padded.shape[:2])
    weights = np.zeros((size, padded.shape[1], 1), np.float32)
    sums = None
    for row, following in zip(rows, [*rows[1:], rows[-1] + size], strict=True):
        predicted = _predict_band(padded[row : row + size], size, columns, model)
        if sums is None:
            sums = np.zeros((size, padded.shape[1], predicted.shape[-1]), np.float32)
        for column, probabilities in zip(columns, predicted, strict=True):
            sums[:, column : column + size] += weight * probabilities
            weights[:, column : column + size] += weight
        done = following - row  # rows that no later patch covers
        yield (sums[:done] / weights[:done])[: max(0, height - row), :width]
        for array in (sums, weights):
            array[: size - done], array[size - done :] = array[done:].copy(), 0


def mean_of(models: Sequence[Model]) -> Model:
    """A model whose probabilities are the mean over those of `models`, at least one."""

    def predict(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        total = models[0](patches)
        for model in models[1:]:
            total = total + model(patches)
        return total / np.float32(len(models))

    return predict


def with_symmetries(model: Model) -> Model:
    """A model whose probabilities are the mean over the eight symmetries of the square.

    The group of these symmetries is called D4. Each patch is rotated by 0, 90, 180 and 270
    degrees, with and without a reflection; each prediction is turned back. So a rotated or
    reflected patch gets the rotated or reflected prediction. Takes eight predictions per patch.
    """

    def predict(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        total: NDArray[np.float32] | np.float32 = np.float32(0)
        for turns in range(4):
            turned = np.rot90(patches, turns, axes=(1, 2))
            for step in (1, -1):  # -1 reflects left and right
                seen = model(np.ascontiguousarray(turned[:, :, ::step]))
                total = total + np.rot90(seen[:, :, ::step], -turns, axes=(1, 2))
        return np.asarray(total / np.float32(8), np.float32)

    return predict


def starts(length: int, size: int) -> list[int]:
    """Offsets of patches along an axis of `length` >= `size` px: every half patch, and the end."""
    step = max(1, size // 2)
    return sorted({*range(0, length - size + 1, step), length - size})


def window(size: int) -> NDArray[np.float32]:
    """(size, size) weights: a squared sine, 1 in the middle and FLOOR at the border."""
    line = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    return (FLOOR + (1 - FLOOR) * np.outer(line, line)).astype(np.float32)


def shrink(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """(ceil(h / scale), ceil(w / scale), 3): the mean of each scale x scale block, rounded half up.

    As in the prepared set. An edge that fills no block is extended by reflection.
    """
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % scale), (0, -width % scale), (0, 0)), mode="symmetric")
    blocks = padded.reshape(padded.shape[0] // scale, scale, padded.shape[1] // scale, scale, 3)
    sums = blocks.sum(axis=(1, 3), dtype=np.uint32)
    means: NDArray[np.uint8] = ((sums + scale * scale // 2) // (scale * scale)).astype(np.uint8)
    return means


def _predict_band(
    band: NDArray[np.uint8], size: int, columns: list[int], model: Model
) -> NDArray[np.float32]:
    """(n, size, size, classes) probabilities of the band's patches, which start at `columns`."""
    patches = [band[:, column : column + size] for column in columns]
    batches = [patches[first : first + BATCH] for first in range(0, len(patches), BATCH)]
    return np.concatenate([model(np.stack(batch)) for batch in batches])

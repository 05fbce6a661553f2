"""One part <-> its patches: where they lie, cutting them out, shrinking them. NumPy and patchify only."""

import numpy as np
from patchify import patchify


def _crop(length: int, size: int) -> np.ndarray:
    """Multiples of `size` from the near edge; what is left over at the far edge is dropped. The published protocol."""
    return np.arange(0, length - size + 1, size)


def _cover(length: int, size: int) -> np.ndarray:
    """As `_crop`, and where something is left over, one more that ends at the far edge: every pixel is used."""
    starts = _crop(length, size)
    return starts if length % size == 0 else np.append(starts, length - size)


GRIDS = {"cover": _cover, "crop": _crop}
"""Grid name -> the starts of the patches along one axis."""


def positions(height: int, width: int, size: int, grid: str) -> np.ndarray:
    """(n, 2) int64, row-major: row and column of every patch's top-left pixel in a part of height x width px."""
    rows, columns = GRIDS[grid](height, size), GRIDS[grid](width, size)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def cut(image: np.ndarray, size: int, grid: str) -> tuple[np.ndarray, np.ndarray]:
    """Patches of an image (h, w, 3) or mask (h, w): (n, size, size[, 3]) of its dtype, and their (n, 2) `positions`.

    Both sides must be at least `size`. The patches are copies.
    """
    where = positions(*image.shape[:2], size, grid)
    windows = patchify(
        image, (size, size, *image.shape[2:]), step=1
    )  # a view of every window there is, nothing copied
    if image.ndim == 3:
        windows = windows[
            :, :, 0
        ]  # patchify slides along the channels too, and finds one place there
    return windows[where[:, 0], where[:, 1]], where


def shrink_images(images: np.ndarray, scale: int) -> np.ndarray:
    """Mean of every scale x scale block, rounded half up: (n, p, p, 3) uint8 -> (n, p / scale, p / scale, 3) uint8."""
    area = scale * scale
    return ((_block_sums(images, scale, np.uint32) + area // 2) // area).astype(np.uint8)


def shrink_masks(masks: np.ndarray, scale: int, values: tuple[int, ...]) -> np.ndarray:
    """Most frequent value of every scale x scale block: (n, p, p) uint8 -> (n, p / scale, p / scale) uint8.

    `values` lists every value that occurs; of those that tie, the one listed first wins.
    """
    best = np.zeros((len(masks), *(side // scale for side in masks.shape[1:])), np.uint32)
    winner = np.full(best.shape, values[0], np.uint8)
    for value in values:
        votes = _block_sums((masks == value).view(np.uint8), scale, np.uint32)
        winner[votes > best] = value
        np.maximum(best, votes, out=best)
    return winner


def _block_sums(arrays: np.ndarray, scale: int, dtype: type) -> np.ndarray:
    """Sum of every scale x scale block over axes 1 and 2. Whole rows first: they add up fast, and leave less to pick from."""
    rows = arrays[:, 0::scale].astype(dtype)
    for offset in range(1, scale):
        rows += arrays[:, offset::scale]
    sums = rows[:, :, 0::scale].copy()
    for offset in range(1, scale):
        sums += rows[:, :, offset::scale]
    return sums

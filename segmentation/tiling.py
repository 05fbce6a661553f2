"""Cuts images and masks into patches and shrinks them. Needs only NumPy and patchify."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from patchify import patchify

Scalar = TypeVar("Scalar", bound=np.generic)


def _crop(length: int, size: int) -> NDArray[np.int64]:
    """Starts of patches side by side. A remainder at the far edge is dropped: the published way."""
    return np.arange(0, length - size + 1, size)


def _cover(length: int, size: int) -> NDArray[np.int64]:
    """As `_crop`, plus one patch that ends at the far edge where there is a remainder."""
    starts = _crop(length, size)
    return starts if length % size == 0 else np.append(starts, length - size)


GRIDS: dict[str, Callable[[int, int], NDArray[np.int64]]] = {"cover": _cover, "crop": _crop}
"""Name of the grid -> function (length, size of a patch) -> starts of the patches on one axis."""


def positions(height: int, width: int, size: int, grid: str) -> NDArray[np.int64]:
    """(n, 2) int64: row and column of each patch's top-left pixel, row by row.

    Args:
        height: Height of the part in px.
        width: Width of the part in px.
        size: Side of a patch in px.
        grid: A key of GRIDS.
    """
    rows, columns = GRIDS[grid](height, size), GRIDS[grid](width, size)
    grid_points = np.meshgrid(rows, columns, indexing="ij")
    corners: NDArray[np.int64] = np.stack(grid_points, axis=-1).reshape(-1, 2)
    return corners


def cut(image: NDArray[Scalar], size: int, grid: str) -> tuple[NDArray[Scalar], NDArray[np.int64]]:
    """The patches of an image (h, w, 3) or mask (h, w), and their positions.

    Both sides of the image must be at least `size`.

    Returns:
        (n, size, size[, 3]) patches with the dtype of the image, copied, and (n, 2) `positions`.
    """
    height, width, *channels = image.shape
    corners = positions(height, width, size, grid)
    # patchify gives a view of the window at every pixel. Only the chosen windows are copied.
    windows = patchify(image, (size, size, *channels), step=1)
    if channels:
        windows = windows[:, :, 0]  # patchify has an axis for positions along the channels: one
    patches: NDArray[Scalar] = windows[corners[:, 0], corners[:, 1]]
    return patches, corners


def shrink_images(images: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Mean of each scale x scale block, rounded half up.

    (n, h, w, 3) uint8 -> (n, h / scale, w / scale, 3) uint8. `scale` divides both sides.
    """
    area = scale * scale
    return ((_block_sums(images, scale) + area // 2) // area).astype(np.uint8)


def shrink_masks(
    masks: NDArray[np.uint8], scale: int, values: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Most frequent value of each scale x scale block.

    (n, h, w) uint8 -> (n, h / scale, w / scale) uint8. `scale` divides both sides. `values` lists
    all values that occur. In a tie the value that is listed first wins.
    """
    most = np.zeros((len(masks), *(side // scale for side in masks.shape[1:])), np.uint32)
    winner = np.full(most.shape, values[0], np.uint8)
    for value in values:
        votes = _block_sums((masks == value).view(np.uint8), scale)
        winner[votes > most] = value
        np.maximum(most, votes, out=most)
    return winner


def _block_sums(arrays: NDArray[np.uint8], scale: int) -> NDArray[np.uint32]:
    """Sum of each scale x scale block over axes 1 and 2.

    Rows are added first. Whole rows are contiguous, and adding them leaves fewer values for the
    slower sums along the columns.
    """
    rows = arrays[:, 0::scale].astype(np.uint32)
    for offset in range(1, scale):
        rows += arrays[:, offset::scale]
    sums = rows[:, :, 0::scale].copy()
    for offset in range(1, scale):
        sums += rows[:, :, offset::scale]
    return sums

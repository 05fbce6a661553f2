"""The agreement of two annotators: masks of tiles that show the same pixels, compared.

It estimates the best score that a model can reach against one of the annotations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segmentation import metrics, splits
from segmentation.convert import decode_pair
from segmentation.errors import BadFilesError, UserError
from segmentation.labels import IGNORE
from segmentation.sources import Part, find_parts, find_root

CORRELATION = 0.8
"""Least correlation of brightness that two views of the same picture have where they overlap.

On the Dubai set it is 0.99 for both pairs of tiles that overlap, as `analysis.references` prints.
"""

SMALLEST = 32
"""Least height and width of an overlap in px. Smaller ones correlate by accident."""

Box = tuple[slice, slice]
"""Rows and columns of a rectangle."""


@dataclass(frozen=True)
class Agreement:
    """Two annotations of the same ground."""

    tiles: tuple[int, int]
    confusion: NDArray[np.int64]
    """(classes, classes) pixels, row = mask of the first tile, column = mask of the second."""
    height: int
    width: int
    correlation: float
    """Correlation of brightness of the two images in the overlap, -1..1."""
    identical: float
    """Share of the overlap's pixels with the same colour in both images, 0..1."""


def find(raw: Path) -> Iterator[Agreement]:
    """The agreement of each pair of tiles in `raw` whose images overlap.

    Only tiles of one group of `splits.OVERLAPPING` are compared.

    Raises:
        BadFilesError: Files cannot be used.
        UserError: `raw` holds no tiles, or the parts of a tile do not fit together.
    """
    parts, problems = find_parts(find_root(raw), 1)
    if problems:
        raise BadFilesError(problems)
    for group in splits.groups(sorted({part.tile for part in parts})):
        mosaics = {
            tile: mosaic([part for part in parts if part.tile == tile])
            for tile in (group if len(group) > 1 else ())
        }
        for first, second in combinations(mosaics, 2):
            agreement = compare((first, second), mosaics[first], mosaics[second])
            if agreement:
                yield agreement


def compare(
    tiles: tuple[int, int],
    first: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    second: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> Agreement | None:
    """The agreement of the masks where both images show the same picture; None if they never do.

    Args:
        tiles: Numbers of the two tiles.
        first: Image (h, w, 3) uint8 RGB and mask (h, w) of the first tile.
        second: Image and mask of the second tile, of any size.
    """
    boxes, correlation = overlap(first[0], second[0])
    if correlation < CORRELATION:
        return None
    image, mask = (pixels[boxes[0]] for pixels in first)
    other_image, other_mask = (pixels[boxes[1]] for pixels in second)
    labelled = other_mask != IGNORE
    confusion = metrics.confusion_matrix(mask[labelled], other_mask[labelled])
    identical = float((image == other_image).all(axis=-1).mean())
    height, width = mask.shape
    return Agreement(tiles, confusion, height, width, correlation, identical)


def overlap(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> tuple[tuple[Box, Box], float]:
    """The rectangles of two RGB images that show the same picture, and their correlation.

    The shift between the images is the peak of the phase correlation (Kuglin and Hines 1975) of
    their brightness. It is known up to whole sizes of the transform, so up to four rectangles are
    compared; the one with the highest correlation is taken. Without any rectangle of SMALLEST px
    the correlation is -1.
    """
    from scipy import fft

    views = [
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (first, second)
    ]
    sides = [max(view.shape[axis] for view in views) for axis in (0, 1)]
    shape = [fft.next_fast_len(side, real=True) for side in sides]
    spectra = [fft.rfft2(view - view.mean(), shape) for view in views]
    cross = spectra[0] * np.conj(spectra[1])
    cross /= np.abs(cross) + np.float32(1e-6)
    peak = np.unravel_index(int(fft.irfft2(cross, shape).argmax()), shape)
    shifts = [(int(place), int(place) - side) for place, side in zip(peak, shape, strict=True)]
    best: tuple[tuple[Box, Box], float] = ((np.s_[:0, :0], np.s_[:0, :0]), -1.0)
    for shift in product(*shifts):
        boxes = _boxes(first.shape, second.shape, shift)
        here, there = (view[box] for view, box in zip(views, boxes, strict=True))
        if min(here.shape) >= SMALLEST:
            best = max(best, (boxes, _correlation(here, there)), key=lambda found: found[1])
    return best


def mosaic(parts: Sequence[Part]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (h, w, 3) uint8 RGB and mask (h, w) of a tile: its nine parts, row by row.

    Raises:
        UserError: The parts do not fit together, or a file is damaged.
    """
    pairs = [decode_pair(part, "error") for part in parts]
    try:
        image, mask = (
            np.vstack([np.hstack([pair[i] for pair in pairs[row : row + 3]]) for row in (0, 3, 6)])
            for i in (0, 1)
        )
    except ValueError as error:
        raise UserError(
            f"the {len(parts)} parts of tile {parts[0].tile} do not fit together as 3 x 3: {error}"
        ) from error
    return image, mask


def _boxes(
    first: tuple[int, ...], second: tuple[int, ...], shift: tuple[int, ...]
) -> tuple[Box, Box]:
    """The rectangles of both images that lie on each other, perhaps empty.

    Args:
        first: Shape of the first image.
        second: Shape of the second image.
        shift: Row and column of the second image's top-left pixel in the first image.
    """
    boxes = []
    for size, other, sign in ((first, second, 1), (second, first, -1)):
        starts = [max(0, sign * offset) for offset in shift]
        ends = [
            max(start, min(size[axis], sign * shift[axis] + other[axis]))
            for axis, start in enumerate(starts)
        ]
        boxes.append((slice(starts[0], ends[0]), slice(starts[1], ends[1])))
    return boxes[0], boxes[1]


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Pearson's correlation of two arrays, -1..1; 0 if one of them is constant."""
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum(dtype=np.float64) * (second**2).sum(dtype=np.float64)))
    return float((first * second).sum(dtype=np.float64)) / norm if norm else 0.0

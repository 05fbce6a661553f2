"""Assigns patches to train, val and test so that no ground is shown in two splits.

Facts about the Dubai set that this code relies on. Each was measured on all 72 pairs:

- It has 8 tiles. Each tile is one image, cut row by row into 3 x 3 parts without overlap. Parts are
  509 to 2149 px wide or high, and parts of one tile differ by at most 1 px. Together they have
  99,032,243 px.
- Tiles overlap on the ground: see OVERLAPPING. Two independent annotations of the same pixels
  agree on 81.0 % of them in tiles 7 and 8, and on 84.5 % in tiles 1 and 3.
- Not all tiles show all classes: tile 4 has no Unlabeled.
- In the published random split of 1305 patches, 259 of the 261 patches of val lie in the same
  image as a neighbouring patch of train.

The images are by MBRSC (satellites), the annotation by Humans in the Loop, the licence is CC0 1.0:
https://www.kaggle.com/datasets/humansintheloop/semantic-segmentation-of-aerial-imagery. The ground
resolution is not published.

This module needs only NumPy.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from segmentation.errors import UserError
from segmentation.labels import CLASSES, NUM_CLASSES

SPLITS = ("train", "val", "test")

TARGETS = np.array([0.7, 0.15, 0.15])
"""Share of each class's pixels that each split should hold, as far as whole tiles allow."""

OVERLAPPING = (frozenset({1, 3}), frozenset({4, 7, 8}))
"""Groups of tiles of the Dubai set that show the same ground, measured.

Tiles 1 and 3 share identical pixels, and so do tiles 7 and 8. Tile 4 shows the place of tile 8 on
another date. The synthetic city overlaps in the same way. A group is never divided between splits.
"""

_MAX_EXHAUSTIVE = 8
"""Groups for which every assignment is compared: 3^8 = 6561. The Dubai set has 5 groups."""


def groups(tiles: Sequence[int]) -> list[tuple[int, ...]]:
    """The tiles, grouped by the ground that they show; sorted."""
    joined = {tuple(sorted(group & set(tiles))) for group in OVERLAPPING}
    joined |= {(tile,) for tile in tiles if not any(tile in group for group in OVERLAPPING)}
    return sorted(joined - {()})


def by_tiles(counts: Mapping[int, NDArray[np.int64]]) -> dict[int, str]:
    """Tile -> split, with tiles that show the same ground in the same split.

    Of all assignments that leave no split empty and give train all six classes, this takes those
    in which val and test lack the fewest classes. Of these it takes the one whose shares of the
    classes come closest to TARGETS, by least squares with equal weights for the classes. For more
    than _MAX_EXHAUSTIVE groups, the smaller ones are assigned greedily.

    The result depends only on the pixels of whole tiles. So every patch size, grid and scale of
    one data set gets the same splits.

    Args:
        counts: Tile -> (7,) int64, pixels per class and of ignore of the whole tile.

    Raises:
        UserError: The tiles do not suffice for three splits, or train cannot hold all classes.
    """
    units = sorted(
        groups(sorted(counts)), key=lambda unit: (-sum(counts[tile].sum() for tile in unit), unit)
    )
    if len(units) < len(SPLITS):
        raise UserError(
            f"whole tiles make {len(units)} groups that show different ground, and three splits "
            "need three; add tiles, or take --split random, which leaks"
        )
    pixels = np.array(
        [np.sum([counts[tile] for tile in unit], axis=0)[:NUM_CLASSES] for unit in units], float
    )
    absent = [CLASSES[index] for index in np.flatnonzero(pixels.sum(axis=0) == 0)]
    if absent:
        raise UserError(f"no tile shows any {', '.join(absent)}: train cannot hold all six classes")
    choices = np.array(list(product(range(len(SPLITS)), repeat=min(len(units), _MAX_EXHAUSTIVE))))
    best = min(choices, key=lambda choice: _cost(choice, pixels))
    for _ in units[_MAX_EXHAUSTIVE:]:  # greedy assignment of the remaining groups, largest first
        best = min(
            (np.append(best, split) for split in range(len(SPLITS))),
            key=lambda choice: _cost(choice, pixels),
        )
    if not np.all(_class_shares(best, pixels)[0] > 0):
        raise UserError(
            "no choice of whole tiles gives train all six classes; take --split random, which leaks"
        )
    return {tile: SPLITS[split] for unit, split in zip(units, best, strict=True) for tile in unit}


def at_random(count: int, fraction: float = 0.2, seed: int = 42) -> list[str]:
    """Split of each of `count` patches, sorted: the published protocol.

    It leaks, because patches of one image land in both splits. There is no test split. Val gets
    the patches of sklearn's train_test_split(patches, test_size=fraction, random_state=seed).

    Raises:
        UserError: There are fewer than two patches, so that a split would be empty.
    """
    if count < 2:
        raise UserError(
            f"{count} patch cannot be split into train and val; add images, or lower --patch-size"
        )
    in_val = np.random.RandomState(seed).permutation(count)[: int(np.ceil(count * fraction))]
    split = ["train"] * count
    for index in in_val.tolist():
        split[index] = "val"
    return split


def _class_shares(choice: NDArray[np.int64], pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 6): the share of each class's pixels in each split.

    Args:
        choice: (m,) index of the split of each of the first m groups.
        pixels: (groups, 6) pixels per class of all groups.
    """
    sums = np.zeros((len(SPLITS), NUM_CLASSES))
    np.add.at(sums, choice, pixels[: len(choice)])
    shares: NDArray[np.float64] = sums / pixels.sum(axis=0)
    return shares


def _cost(choice: NDArray[np.int64], pixels: NDArray[np.float64]) -> tuple[int, int, int, float]:
    """What `by_tiles` minimises, most important first. Arguments as for `_class_shares`.

    Returns:
        The number of empty splits, of classes that train lacks, of classes that val and test lack,
        and the sum of squared deviations from TARGETS.
    """
    shares = _class_shares(choice, pixels)
    lacking = np.count_nonzero(shares == 0, axis=1)
    empty = len(SPLITS) - len(set(choice.tolist()))
    deviations = shares - TARGETS[:, None]
    return empty, int(lacking[0]), int(lacking[1:].sum()), float((deviations**2).sum())

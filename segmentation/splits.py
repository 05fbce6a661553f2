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

import re
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from segmentation.errors import UserError
from segmentation.labels import CLASSES, NUM_CLASSES, UNLABELED

SPLITS = ("train", "val", "test")

TARGETS = np.array([0.7, 0.15, 0.15])
"""Share of each class's pixels that each split should hold, as far as whole tiles allow."""

OVERLAPPING = (frozenset({1, 3}), frozenset({4, 7, 8}))
"""Groups of tiles of the Dubai set that show the same ground, measured.

Tiles 1 and 3 share identical pixels, and so do tiles 7 and 8. Tile 4 shows the place of tile 8 on
another date. The synthetic city overlaps in the same way. A group is never divided between splits.
"""

METHODS = ("tiles", "random")
"""Ways to choose the splits without lists of tiles: `by_tiles` and `at_random`."""

_TILE = re.compile(r"[1-9][0-9]{0,8}")

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


def parse_lists(text: str) -> dict[str, list[int]]:
    """Split -> its tiles, ascending, from a text such as "4,7,8/1,3,5/2,6" (train/val/test).

    Raises:
        UserError: The text is not three lists of tile numbers.
    """
    fields = text.split("/")
    if len(fields) != len(SPLITS):
        raise UserError(
            f"{text!r} is not a list of tiles per split; "
            "separate tiles by commas, as in --train 4,7,8 --val 1,3 --test 2,6"
        )
    tiles = {}
    for split, field in zip(SPLITS, fields, strict=True):
        numbers = [number.strip() for number in field.split(",")] if field else []
        if not all(_TILE.fullmatch(number) for number in numbers):
            raise UserError(
                f"--{split} {field!r} is not a list of tile numbers; "
                f"separate them by commas, as in --{split} 4,7,8"
            )
        tiles[split] = sorted(set(map(int, numbers)))
    return tiles


def as_options(text: str) -> str:
    """Lists of tiles as the command line sets them: "4,7,8//2" -> "--train 4,7,8 --test 2"."""
    fields = zip(SPLITS, text.split("/"), strict=False)
    return " ".join(f"--{split} {tiles}" for split, tiles in fields if tiles)


def canonical_lists(text: str) -> str:
    """The lists of tiles in `text`, sorted: "8,7,4//2" -> "4,7,8//2".

    Raises:
        UserError: `text` is not three lists, train is empty or alone, or two lists name the same
            tile or the same ground.
    """
    tiles = parse_lists(text)
    if not tiles["train"]:
        raise UserError(f"{as_options(text)} needs --train; name the tiles to train on too")
    if not tiles["val"] and not tiles["test"]:
        raise UserError(
            f"{as_options(text)} needs --val or --test; name the tiles to validate or test on too"
        )
    owners: dict[int, str] = {}
    for split, numbers in tiles.items():
        for tile in numbers:
            if other := owners.get(tile):
                raise UserError(
                    f"tile {tile} is in --{other} and in --{split}; leave it out of one of them"
                )
            owners[tile] = split
    for group in groups(sorted(owners)):
        if len({owners[tile] for tile in group}) > 1:
            where = ", ".join(f"{tile} (--{owners[tile]})" for tile in group)
            raise UserError(
                f"tiles {where} show the same ground, and one split must have them all; "
                "name them in the same list, or leave tiles out"
            )
    return "/".join(",".join(map(str, numbers)) for numbers in tiles.values())


def by_lists(text: str, counts: Mapping[int, NDArray[np.int64]]) -> dict[int, str]:
    """Tile -> split, from canonical lists of tiles.

    Args:
        text: What `canonical_lists` returned.
        counts: Tile -> (7,) int64, pixels per class and of ignore of the whole tile.

    Raises:
        UserError: The training tiles lack a class other than Unlabeled.
    """
    tiles = parse_lists(text)
    pixels = np.sum([counts[tile] for tile in tiles["train"]], axis=0)
    absent = [CLASSES[index] for index in np.flatnonzero(pixels[:NUM_CLASSES] == 0)]
    if missing := [name for name in absent if name != CLASSES[UNLABELED]]:
        raise UserError(
            f"the tiles {', '.join(map(str, tiles['train']))} of --train show no "
            f"{', '.join(missing)}; add tiles that do"
        )
    return {tile: split for split, numbers in tiles.items() for tile in numbers}


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

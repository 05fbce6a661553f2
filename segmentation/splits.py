"""Which patch belongs to which split, and the tiles that show the same ground. NumPy only."""

from collections.abc import Mapping
from itertools import product

import numpy as np

from segmentation.errors import UserError
from segmentation.labels import CLASSES, NUM_CLASSES

SPLITS = ("train", "val", "test")

TARGETS = np.array([0.7, 0.15, 0.15])
"""Share of every class's pixels that each split should hold, if whole tiles allowed it."""

OVERLAPPING = (frozenset({1, 3}), frozenset({4, 7, 8}))
"""Tiles of the real set that show the same ground, measured: 1 and 3 share identical pixels, so do 7 and 8, and 4 shows
8's place on another date. The made-up city overlaps in the same way. A group is never divided between splits."""

_EXHAUSTIVE = 8  # groups: 3^8 = 6561 choices are looked at; the real set has 5


def groups(tiles: list[int]) -> list[tuple[int, ...]]:
    """The tiles, joined where they overlap on the ground; sorted."""
    joined = {tuple(sorted(group & set(tiles))) for group in OVERLAPPING}
    joined |= {(tile,) for tile in tiles if not any(tile in group for group in OVERLAPPING)}
    return sorted(joined - {()})


def by_tiles(counts: Mapping[int, np.ndarray]) -> dict[int, str]:
    """Tile -> split. `counts[tile]` is (7,) int64, pixels per class and of IGNORE last, over the whole tile.

    Of all choices that keep overlapping tiles together, leave no split empty and give train all six classes, this is the
    one where val and test lack the fewest classes, and then the one whose shares of every class come closest to TARGETS
    (least squares, each class weighing the same). It depends on the tiles' own pixels only, so every patch size, grid and
    scale of one data set gets the same choice.
    """
    units = sorted(
        groups(sorted(counts)), key=lambda unit: (-sum(counts[tile].sum() for tile in unit), unit)
    )
    if len(units) < len(SPLITS):
        raise UserError(
            f"whole tiles make {len(units)} groups that show different ground, and three splits need three; "
            f"add tiles, or take --split random, which leaks"
        )
    pixels = np.array(
        [sum(counts[tile] for tile in unit)[:NUM_CLASSES] for unit in units], dtype=float
    )
    absent = [CLASSES[index] for index in np.flatnonzero(pixels.sum(axis=0) == 0)]
    if absent:
        raise UserError(f"no tile shows any {', '.join(absent)}: train cannot hold all six classes")
    choices = np.array(list(product(range(len(SPLITS)), repeat=min(len(units), _EXHAUSTIVE))))
    best = min(choices, key=lambda choice: _badness(choice, pixels))
    for _ in units[_EXHAUSTIVE:]:  # the smaller rest, largest first, each where it helps most
        best = min(
            (np.append(best, split) for split in range(len(SPLITS))),
            key=lambda choice: _badness(choice, pixels),
        )
    if not np.all(_held(best, pixels)[0] > 0):
        raise UserError(
            "no choice of whole tiles gives train all six classes; take --split random, which leaks"
        )
    return {tile: SPLITS[split] for unit, split in zip(units, best, strict=True) for tile in unit}


def at_random(count: int, fraction: float = 0.2, seed: int = 42) -> list[str]:
    """Split of each of `count` patches in sorted order: the published protocol, which leaks.

    The same patches go to val as sklearn's train_test_split(patches, test_size=fraction, random_state=seed) puts aside: the
    first of a permutation by NumPy's legacy generator, their number rounded up. There is no test split. UserError for
    fewer than two patches: one split would be empty.
    """
    if count < 2:
        raise UserError(
            f"{count} patch cannot be split into train and val; add images, or lower --patch-size"
        )
    split = np.full(count, "train")
    split[np.random.RandomState(seed).permutation(count)[: int(np.ceil(count * fraction))]] = "val"
    return split.tolist()


def _held(choice: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """(3, 6): the share of each class's pixels that each split holds, of the first len(choice) groups."""
    held = np.zeros((len(SPLITS), NUM_CLASSES))
    np.add.at(held, choice, pixels[: len(choice)])
    return held / pixels.sum(axis=0)


def _badness(choice: np.ndarray, pixels: np.ndarray) -> tuple[int, int, int, float]:
    """What `by_tiles` minimises: empty splits, classes that train lacks, those that val and test lack, squares."""
    held = _held(choice, pixels)
    lacking = np.count_nonzero(held == 0, axis=1)
    empty = len(SPLITS) - len(set(choice.tolist()))
    return (
        empty,
        int(lacking[0]),
        int(lacking[1:].sum()),
        float(((held - TARGETS[:, None]) ** 2).sum()),
    )

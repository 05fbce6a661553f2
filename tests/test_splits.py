"""Splits: tiles that show the same ground are in one split, and train holds all classes."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from segmentation.errors import UserError
from segmentation.splits import (
    OVERLAPPING,
    SPLITS,
    as_options,
    at_random,
    by_lists,
    by_tiles,
    canonical_lists,
    groups,
    parse_lists,
)

# Pixels of Building, Land, Road, Vegetation, Water, Unlabeled and black in the tiles of the Dubai
# set, counted with np.unique.
REAL = {
    1: (245227, 2879265, 589163, 216749, 646632, 39985, 0),
    2: (306455, 1487689, 316813, 143896, 181051, 57792, 0),
    3: (119347, 1861320, 298773, 175516, 1477809, 105733, 306),
    4: (3370502, 2420266, 1102379, 564064, 910575, 0, 0),
    5: (208944, 4086024, 462452, 316240, 5621845, 25761, 506),
    6: (115736, 1617263, 49765, 2100136, 2575695, 19120, 863),
    7: (2984459, 24544886, 3123580, 2477193, 519804, 49006, 3872),
    8: (5826876, 12953650, 3318987, 4212585, 1548785, 204294, 546609),
}


@st.composite
def counts(draw):
    """Tile -> pixels per class, for at least three groups of tiles; tiles may lack classes."""
    tiles = draw(
        st.sets(st.integers(1, 12), min_size=4, max_size=10).filter(
            lambda tiles: len(groups(sorted(tiles))) >= 3
        )
    )
    pixels = st.lists(st.sampled_from([0, 1, 50, 3000]), min_size=7, max_size=7)
    return {tile: np.array(draw(pixels)) for tile in sorted(tiles)}


def test_groups_join_tiles_that_overlap():
    assert groups(list(range(1, 9))) == [(1, 3), (2,), (4, 7, 8), (5,), (6,)]
    assert groups([3, 7, 9]) == [(3,), (7,), (9,)]


@settings(max_examples=60, deadline=None)
@given(counts())
def test_no_group_is_divided_and_train_holds_all_classes(tiles):
    shown = np.array([sum(tiles[tile] for tile in unit)[:6] > 0 for unit in groups(list(tiles))])
    possible = any(
        np.delete(shown, pair, axis=0).any(axis=0).all()
        for pair in combinations(range(len(shown)), 2)
    )
    if not possible:
        with pytest.raises(UserError, match="all six classes"):
            by_tiles(tiles)
        return
    split = by_tiles(tiles)
    assert split.keys() == tiles.keys() and set(split.values()) == set(SPLITS)
    for group in OVERLAPPING:
        assert len({split[tile] for tile in group & split.keys()}) <= 1
    assert (sum(tiles[tile] for tile in tiles if split[tile] == "train")[:6] > 0).all()


def test_the_splits_of_the_real_set():
    split = by_tiles({tile: np.array(pixels) for tile, pixels in REAL.items()})
    assert split == {
        4: "train",
        5: "train",
        7: "train",
        8: "train",
        1: "val",
        3: "val",
        2: "test",
        6: "test",
    }


@given(st.permutations(range(1, 9)))
def test_the_choice_does_not_depend_on_the_order_of_tiles(order):
    pixels = {tile: np.random.default_rng(tile).integers(1, 1000, 7) for tile in range(1, 9)}
    assert by_tiles({tile: pixels[tile] for tile in order}) == by_tiles(pixels)


def test_splits_of_many_tiles_are_close_to_the_targets():
    split = by_tiles(
        {tile: np.random.default_rng(tile).integers(100, 1000, 7) for tile in range(1, 41)}
    )
    number = {name: list(split.values()).count(name) for name in SPLITS}
    assert 24 <= number["train"] <= 32 and number["val"] >= 4 and number["test"] >= 4


def test_the_error_for_too_few_groups_says_what_to_do():
    with pytest.raises(UserError, match=r"make 2 groups .*--split random"):
        by_tiles({1: np.ones(7), 3: np.ones(7), 2: np.ones(7)})


def test_the_error_for_an_absent_class_names_it():
    pixels = np.array([1, 1, 1, 1, 0, 1, 1])
    with pytest.raises(UserError, match="any Water"):
        by_tiles(dict.fromkeys((1, 2, 5, 6), pixels))


@pytest.mark.parametrize("count", [5, 64, 1305])
def test_the_random_split_agrees_with_sklearn(count):
    train, val = train_test_split(np.arange(count), test_size=0.2, random_state=42)
    split = np.array(at_random(count))
    np.testing.assert_array_equal(np.flatnonzero(split == "val"), np.sort(val))
    np.testing.assert_array_equal(np.flatnonzero(split == "train"), np.sort(train))


def test_a_single_patch_cannot_be_split():
    with pytest.raises(UserError, match="1 patch cannot be split"):
        at_random(1)


@given(st.dictionaries(st.sampled_from(groups(range(1, 13))), st.sampled_from(SPLITS)))
def test_lists_that_keep_groups_together_are_what_the_patches_get(split_of_group):
    lists = {split: [] for split in SPLITS}
    for group, split in split_of_group.items():
        lists[split] += group
    text = "/".join(", ".join(map(str, reversed(tiles))) for tiles in lists.values())
    if not lists["train"] or not lists["val"] + lists["test"]:
        with pytest.raises(UserError, match="needs"):
            canonical_lists(text)
        return
    canonical = canonical_lists(text)
    assert canonical_lists(canonical) == canonical and " " not in canonical
    assert parse_lists(canonical) == {split: sorted(tiles) for split, tiles in lists.items()}
    named = {tile: split for split, tiles in lists.items() for tile in tiles}
    assert by_lists(canonical, {tile: np.ones(7, int) for tile in named}) == named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4,7/4,1/", r"tile 4 is in --train and in --val; leave it out of one"),
        ("2/5/6,2", r"tile 2 is in --train and in --test"),
        (
            "4,7/1/8",
            r"tiles 4 \(--train\), 7 \(--train\), 8 \(--test\) show the same ground.*same list",
        ),
        ("1/3/", r"tiles 1 \(--train\), 3 \(--val\) show the same ground"),
        ("/1/2", r"--val 1 --test 2 needs --train; name"),
        ("4,7//", r"--train 4,7 needs --val or --test; name"),
        ("//", "needs --train"),
        ("4;7/1/", r"--train '4;7' is not a list of tile numbers; .*--train 4,7,8"),
        ("4/1,/", r"--val '1,' is not a list"),
        ("4/0/", r"--val '0' is not a list"),
        ("4/-1/", r"--val '-1' is not a list"),
        ("4/٣/", r"--val .* is not a list"),
        ("4//1 2", r"--test '1 2' is not a list"),
        (f"4//{'9' * 5000}", r"--test .* is not a list"),
        ("4/1", r"'4/1' is not a list of tiles per split; .*--train 4,7,8"),
        ("hexagons", "'hexagons' is not a list of tiles per split"),
    ],
)
def test_lists_that_cannot_be_used_are_errors_that_say_what_to_do(text, message):
    with pytest.raises(UserError, match=message):
        canonical_lists(text)


def test_lists_read_as_the_command_line_that_sets_them():
    assert as_options("4,7,8//2,6") == "--train 4,7,8 --test 2,6"


def test_training_tiles_must_show_every_class_but_unlabeled():
    counts = {tile: np.array(pixels) for tile, pixels in REAL.items()}
    assert by_lists("4/5/", counts) == {4: "train", 5: "val"}  # tile 4 shows no Unlabeled
    counts[4][[2, 4]] = 0
    with pytest.raises(UserError, match=r"tiles 4 of --train show no Road, Water; add tiles"):
        by_lists("4/5/", counts)

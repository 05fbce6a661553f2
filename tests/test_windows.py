"""Training windows: where they lie, what changes them, and that they are reproducible."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from segmentation import windows
from segmentation.augmentation import LARGEST_PASTE
from segmentation.config import Config
from segmentation.datasets import Windows
from segmentation.errors import UserError
from segmentation.labels import IGNORE, UNLABELED
from segmentation.prepared import Mosaic


def positions(tile: int, height: int, width: int) -> Mosaic:
    """A mosaic whose image holds tile, row and column. Its mask is 2 row + column, modulo 256."""
    row, column = np.indices((height, width), dtype=np.uint8)
    return Mosaic(tile, np.dstack([np.full_like(row, tile), row, column]), 2 * row + column)


GROUNDS = [positions(1, 70, 90), positions(2, 64, 33)]


def drawn(config: Config, grounds: list[Mosaic] = GROUNDS, count: int = 400) -> list:
    """`count` windows, each drawn with its own random numbers."""
    sampler = windows.Sampler(grounds, config)
    return [sampler.draw(np.random.default_rng(i)) for i in range(count)]


def epoch(batches: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of all batches of an epoch."""
    images, masks = zip(*(batches[i] for i in range(len(batches))), strict=True)
    return np.concatenate(images), np.concatenate(masks)


EVERYTHING = {
    "augment": "flip",
    "scale_jitter": 0.5,
    "photometric": 0.2,
    "cutmix": 0.5,
    "class_sampling": 0.5,
}


def test_windows_are_slices_of_the_mosaics_and_every_position_occurs():
    seen = set()
    for image, mask in drawn(Config(window=32), count=2000):
        tile, row, column = image[0, 0].tolist()
        ground, square = GROUNDS[tile - 1], (slice(row, row + 32), slice(column, column + 32))
        np.testing.assert_array_equal(image, ground.image[square])
        np.testing.assert_array_equal(mask, ground.mask[square])
        seen.add((tile, row, column))
    assert {row for tile, row, _ in seen if tile == 1} == set(range(70 - 32 + 1))
    assert {column for tile, _, column in seen if tile == 1} == set(range(90 - 32 + 1))
    # 39 x 59 positions are in tile 1, and 33 x 2 in tile 2
    share = np.mean([image[0, 0, 0] == 2 for image, _ in drawn(Config(window=32), count=4000)])
    assert abs(share - 66 / (66 + 39 * 59)) < 0.01


def test_an_epoch_has_as_many_pixels_as_the_mosaics():
    batches = Windows(GROUNDS, Config(window=16, batch_size=7))
    assert batches.images_per_epoch == round((70 * 90 + 64 * 33) / 16**2)
    images, masks = epoch(batches)
    assert images.shape == (batches.images_per_epoch, 16, 16, 3) and images.dtype == np.uint8
    assert masks.shape == (batches.images_per_epoch, 16, 16) and masks.dtype == np.uint8


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_windows_depend_only_on_seed_epoch_and_number(changes):
    """Not on threads, batch size, or whether the run was resumed."""
    config = Config(window=16, batch_size=7, seed=3, **changes)
    whole = Windows(GROUNDS, config)
    first = epoch(whole)
    whole.on_epoch_end()
    with ThreadPoolExecutor(4) as threads:
        second = list(threads.map(whole.__getitem__, range(len(whole))))
    resumed = epoch(Windows(GROUNDS, replace(config, batch_size=5), first_epoch=1))
    for part in (0, 1):
        together = np.concatenate([batch[part] for batch in second])
        np.testing.assert_array_equal(together, resumed[part])
        assert not np.array_equal(together, first[part])
    other = epoch(Windows(GROUNDS, replace(config, seed=4)))
    assert not np.array_equal(first[0], other[0])


def test_augmentation_does_not_change_which_windows_are_drawn():
    plain = epoch(Windows(GROUNDS, Config(window=16)))[1]
    flipped = epoch(Windows(GROUNDS, Config(window=16, augment="flip", photometric=0.2)))[1]
    for one, other in zip(plain, flipped, strict=True):
        np.testing.assert_array_equal(np.sort(one, axis=None), np.sort(other, axis=None))


def test_scale_jitter_covers_its_range_and_keeps_image_and_mask_aligned():
    """Rows and columns of the image are linear, so they survive every interpolation."""
    steps = []
    for image, mask in drawn(Config(window=32, scale_jitter=0.5), [positions(1, 70, 90)]):
        # Per axis, rounding moves a value by half a pixel, and so does taking the nearest label.
        apart = 2 * image[..., 1].astype(int) + image[..., 2] - mask
        assert np.abs(apart).max() <= 3 and abs(apart.mean()) < 1.6
        steps.append((image[-1, -1, 1] - float(image[0, 0, 1])) / 31)
    assert 1 / 1.5 - 0.05 < min(steps) < 0.72 and 1.4 < max(steps) < 1.5 + 0.05
    assert abs(np.mean(np.log(steps))) < 0.05  # enlarged as often as shrunk


def test_a_jittered_window_is_never_larger_than_the_smallest_mosaic():
    spans = np.array(
        [
            image[-1, -1, 1:].astype(int) - image[0, 0, 1:]
            for image, _ in drawn(Config(window=32, scale_jitter=3))
        ]
    )
    assert spans.max() == 33 - 1  # rows and columns of a square of 33 px
    assert np.abs(spans[:, 0] - spans[:, 1]).max() <= 1


@pytest.mark.parametrize("size", [12, 16, 24, 40])
def test_resizing_keeps_blocks_of_a_class_where_they_are(size):
    """Pixels of the image and of the mask agree, except beside the borders between blocks."""
    blocks = np.array([[0, 200], [80, 255]], np.uint8)
    mask = np.kron(blocks, np.ones((size // 2, size // 2), np.uint8))
    image, labels = windows.resized(np.repeat(mask[..., None], 3, axis=-1), mask, 16)
    quarters = np.kron(blocks, np.ones((8, 8), np.uint8))
    np.testing.assert_array_equal(labels, quarters)
    inside = np.r_[0:7, 9:16]
    np.testing.assert_array_equal(
        image[inside[:, None], inside, 0], quarters[inside[:, None], inside]
    )


def with_rare_classes() -> Mosaic:
    """Land everywhere, except one pixel of Road, a corner of Water, and some Unlabeled."""
    mask = np.ones((200, 150), np.uint8)
    mask[120, 149] = 2
    mask[:10, :10] = 4
    mask[190:, 140:] = UNLABELED
    mask[190:, :40] = IGNORE
    return replace(positions(1, 200, 150), mask=mask)


def test_class_sampling_shows_each_class_equally_often():
    ground, share = with_rare_classes(), 0.6
    masks = [mask for _, mask in drawn(Config(window=16, class_sampling=share), [ground], 3000)]
    rates = {label: np.mean([(mask == label).any() for mask in masks]) for label in (2, 4)}
    # positions that show the pixel of Road, and the corner of Water, of 185 x 135
    by_chance = {2: 16 * 1 / (185 * 135), 4: 10 * 10 / (185 * 135)}
    for label, rate in rates.items():
        expected = share / 3 + (1 - share) * by_chance[label]  # Land is the third class
        assert abs(rate - expected) < 4 * (expected * (1 - expected) / 3000) ** 0.5
    places = {tuple(np.argwhere(mask == 2)[0].tolist()) for mask in masks if (mask == 2).any()}
    # a pixel at the right edge is always in the last column, and in any row
    assert places == {(row, 15) for row in range(16)}


def test_class_pixels_are_all_pixels_of_a_rare_class_and_a_sample_of_others():
    masks = [np.zeros((30, 20), np.uint8), with_rare_classes().mask, np.full((5, 5), 3, np.uint8)]
    building, land, road, vegetation, water = windows.class_pixels(masks, 100, seed=0)
    flat = np.concatenate([mask.ravel() for mask in masks])
    for label, places in enumerate((building, land, road, vegetation, water)):
        assert (flat[places] == label).all() and len(set(places.tolist())) == len(places)
    assert [len(places) for places in (building, land, road, vegetation, water)] == [
        *(100, 100, 1, 25, 100)
    ]
    assert abs(land.mean() / np.flatnonzero(flat == 1).mean() - 1) < 0.2  # not only the first ones


def test_cutmix_pastes_one_square_of_another_window_in_image_and_mask():
    config = Config(window=32, cutmix=1.0)
    ground, shares = positions(1, 100, 101), []
    for image, mask in drawn(config, [ground]):
        row, column = image[..., 1].astype(int), image[..., 2].astype(int)
        np.testing.assert_array_equal(
            mask, (2 * row + column) % 256
        )  # image and mask move together
        origin = (row - np.arange(32)[:, None]) * 1000 + column - np.arange(32)
        origins, counts = np.unique(origin, return_counts=True)
        assert len(origins) <= 2  # each pixel comes from one of two windows
        if len(origins) == 2:
            pasted = np.argwhere(origin == origins[counts.argmin()])
            height, width = np.ptp(pasted, axis=0) + 1
            assert height == width and height * width == counts.min()
            shares.append(counts.min() / 32**2)
    assert max(shares) <= LARGEST_PASTE
    # a little less than half of it, because sides are rounded down to whole pixels
    assert abs(np.mean(shares) - LARGEST_PASTE / 2) < 0.04


def test_cutmix_has_the_given_probability():
    sampler = windows.Sampler([positions(1, 100, 101)], Config(window=32, cutmix=0.3))
    plain = windows.Sampler([positions(1, 100, 101)], Config(window=32))
    pairs = [[s.draw(np.random.default_rng(i))[1] for s in (sampler, plain)] for i in range(1000)]
    assert abs(np.mean([not np.array_equal(*pair) for pair in pairs]) - 0.3) < 0.05


def test_a_mosaic_smaller_than_the_window_is_refused():
    with pytest.raises(UserError, match=r"window=48 .* tile 2, .* 64 x 33 px; .* window=32"):
        Windows(GROUNDS, Config(window=48))

"""Grids, cutting and shrinking, compared with brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segmentation.labels import IGNORE, VALUES
from segmentation.tiling import GRIDS, cut, positions, shrink_images, shrink_masks

sizes = st.integers(1, 12)


@st.composite
def parts(draw):
    """(height, width, size) with room for at least one patch."""
    size = draw(sizes)
    return draw(st.integers(size, 40)), draw(st.integers(size, 40)), size


@given(parts())
def test_cover_uses_every_pixel_with_the_fewest_patches(part):
    height, width, size = part
    used = np.zeros((height, width), int)
    where = positions(height, width, size, "cover")
    for row, column in where:
        assert 0 <= row <= height - size and 0 <= column <= width - size
        used[row : row + size, column : column + size] += 1
    assert used.min() >= 1
    assert (
        len(where)
        == len({tuple(place) for place in where.tolist()})
        == -(-height // size) * -(-width // size)
    )


@given(parts())
def test_crop_uses_the_pixels_at_the_top_left_once(part):
    height, width, size = part
    used = np.zeros((height, width), int)
    for row, column in positions(height, width, size, "crop"):
        used[row : row + size, column : column + size] += 1
    truth = np.zeros_like(used)
    truth[: height // size * size, : width // size * size] = 1
    np.testing.assert_array_equal(used, truth)


@pytest.mark.parametrize("grid", GRIDS)
@given(part=parts())
def test_patches_equal_slices_of_the_part(grid, part):
    height, width, size = part
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    patches, where = cut(image, size, grid)
    masks, same = cut(image[..., 0], size, grid)
    np.testing.assert_array_equal(where, same)
    np.testing.assert_array_equal(masks, patches[..., 0])
    assert patches.shape == (len(where), size, size, 3) and patches.dtype == np.uint8
    for patch, (row, column) in zip(patches, where, strict=True):
        np.testing.assert_array_equal(patch, image[row : row + size, column : column + size])
    assert where.tolist() == sorted(where.tolist())


def test_grids_agree_if_the_size_divides_both_sides():
    np.testing.assert_array_equal(positions(12, 20, 4, "cover"), positions(12, 20, 4, "crop"))


@given(st.integers(1, 4), st.data())
def test_shrunk_masks_hold_the_most_frequent_value(scale, data):
    side = 3 * scale
    masks = data.draw(
        arrays(np.uint8, (2, side, side), elements=st.sampled_from([0, 1, 4, IGNORE]))
    )
    shrunk = shrink_masks(masks, scale, VALUES)
    for n, i, j in np.ndindex(2, 3, 3):
        block = masks[n, i * scale : (i + 1) * scale, j * scale : (j + 1) * scale].ravel().tolist()
        assert shrunk[n, i, j] == max(
            VALUES, key=lambda value: (block.count(value), -VALUES.index(value))
        )


@given(st.integers(1, 4), st.data())
def test_shrunk_images_hold_the_mean(scale, data):
    images = data.draw(arrays(np.uint8, (2, 2 * scale, 2 * scale, 3)))
    shrunk = shrink_images(images, scale)
    mean = images.reshape(2, 2, scale, 2, scale, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(shrunk, np.floor(mean + 0.5 + 1e-9))


def test_large_blocks_do_not_overflow():
    white = np.full((1, 64, 64, 3), 255, np.uint8)
    assert shrink_images(white, 64).tolist() == [[[[255, 255, 255]]]]
    assert shrink_masks(white[..., 0], 64, VALUES).tolist() == [[[IGNORE]]]


def test_ties_go_to_the_first_class_and_ignore_loses_them():
    assert shrink_masks(np.array([[[2, 1], [1, 2]]], np.uint8), 2, VALUES).item() == 1
    assert shrink_masks(np.array([[[IGNORE, 5], [5, IGNORE]]], np.uint8), 2, VALUES).item() == 5
    assert (
        shrink_masks(np.array([[[IGNORE, 5], [4, IGNORE]]], np.uint8), 2, VALUES).item() == IGNORE
    )

"""Augmentation: image and mask change together."""

import numpy as np
import pytest

from segmentation.augmentation import augmenter, gain_and_gamma
from segmentation.labels import IGNORE


def test_flip_applies_the_same_symmetry_to_image_and_mask(random):
    mask = random.integers(0, 6, (32, 32)).astype(np.uint8)
    mask[0, :5] = IGNORE
    image = np.repeat(mask[..., None], 3, axis=-1)
    turned = [augmenter("flip")(image, mask, seed) for seed in range(40)]
    for changed_image, changed_mask in turned:
        np.testing.assert_array_equal(changed_image[..., 0], changed_mask)


def test_flips_are_the_group_of_the_eight_symmetries_of_the_square():
    """Two of them, one after the other, are one of them."""
    size = 6
    place = np.arange(size * size, dtype=np.uint8).reshape(size, size)
    image = np.dstack([place, place, place])
    flips = {augmenter("flip")(image, place, seed)[1].tobytes() for seed in range(60)}
    assert len(flips) == 8 and place.tobytes() in flips
    permutations = [np.frombuffer(flip, np.uint8) for flip in flips]
    for one in permutations:
        assert sorted(one.tolist()) == list(range(size * size))
        for other in permutations:
            assert one[other].tobytes() in flips


def test_brightness_and_contrast_do_not_change_the_mask(random):
    image = random.integers(60, 200, (32, 32, 3)).astype(np.uint8)
    mask = random.integers(0, 6, (32, 32)).astype(np.uint8)
    values = {tuple(sorted(augmenter("full")(image, mask, seed)[1].ravel())) for seed in range(20)}
    assert values == {tuple(sorted(mask.ravel()))}


RAMP = np.dstack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3)


@pytest.mark.parametrize("strength", [0.2, 1.0, 3.0])
def test_gain_and_gamma_are_bounded_and_keep_the_order_of_values(strength):
    tables = []
    for seed in range(200):
        changed = gain_and_gamma(RAMP, strength, np.random.default_rng(seed))
        assert changed.dtype == np.uint8 and changed.shape == RAMP.shape
        assert (changed == changed[..., :1]).all()  # the same for all channels
        tables.append(changed[..., 0].ravel().astype(float))
    values = np.array(tables)
    assert (values[:, 0] == 0).all()  # black stays black
    assert (np.diff(values, axis=1) >= 0).all()
    x, factor = np.arange(256) / 255, 1 + strength
    assert (values >= np.floor(255 / factor * x**factor)).all()
    assert (values <= np.ceil(255 * factor * x ** (1 / factor))).all()
    assert values[:, 255].min() < 255 / factor * 1.05  # white becomes gain x 255
    assert (values[:, 255] == 255).mean() == pytest.approx(0.5, abs=0.12)  # as often up as down


def test_gain_and_gamma_of_strength_0_change_nothing(random):
    np.testing.assert_array_equal(gain_and_gamma(RAMP, 0.0, random), RAMP)

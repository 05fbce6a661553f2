"""Augmentation: image and mask change together."""

import numpy as np

from segmentation.augmentation import augmenter
from segmentation.labels import IGNORE


def test_flip_applies_the_same_symmetry_to_image_and_mask(random):
    mask = random.integers(0, 6, (32, 32)).astype(np.uint8)
    mask[0, :5] = IGNORE
    image = np.repeat(mask[..., None], 3, axis=-1)
    turned = [augmenter("flip")(image, mask, seed) for seed in range(40)]
    for changed_image, changed_mask in turned:
        np.testing.assert_array_equal(changed_image[..., 0], changed_mask)
    # The square has eight symmetries.
    assert len({changed_mask.tobytes() for _, changed_mask in turned}) == 8


def test_brightness_and_contrast_do_not_change_the_mask(random):
    image = random.integers(60, 200, (32, 32, 3)).astype(np.uint8)
    mask = random.integers(0, 6, (32, 32)).astype(np.uint8)
    values = {tuple(sorted(augmenter("full")(image, mask, seed)[1].ravel())) for seed in range(20)}
    assert values == {tuple(sorted(mask.ravel()))}

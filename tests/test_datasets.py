"""Batches: which patches they hold, in which order, and that augmentation is reproducible."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from segmentation.augmentation import augmenter
from segmentation.config import Config
from segmentation.datasets import Patches, training
from segmentation.prepared import PreparedSet


@pytest.fixture
def prepared(tiny_set) -> PreparedSet:
    return PreparedSet.open(tiny_set)


def epoch(patches: Patches) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of all batches of an epoch."""
    images, masks = zip(*(patches[i] for i in range(len(patches))), strict=True)
    return np.concatenate(images), np.concatenate(masks)


def as_set(images) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_each_epoch_holds_every_patch_once(prepared):
    indices = prepared.indices("train")
    patches = Patches(prepared, "train", 7, shuffle_seed=1)
    for _ in range(2):
        images, masks = epoch(patches)
        assert images.dtype == masks.dtype == np.uint8
        assert images.shape == (len(indices), 32, 32, 3) and masks.shape == (len(indices), 32, 32)
        assert as_set(images) == as_set(prepared.images[indices])
        patches.on_epoch_end()


def test_order_depends_only_on_seed_and_epoch(prepared):
    first = Patches(prepared, "train", 7, shuffle_seed=1)
    one = epoch(first)[0]
    first.on_epoch_end()
    two = epoch(first)[0]
    resumed = epoch(Patches(prepared, "train", 5, shuffle_seed=1, first_epoch=1))[0]
    other = epoch(Patches(prepared, "train", 7, shuffle_seed=2))[0]
    assert not np.array_equal(one, two) and not np.array_equal(one, other)
    np.testing.assert_array_equal(two, resumed)


def test_without_a_seed_patches_are_neither_shuffled_nor_augmented(prepared):
    images, masks = epoch(Patches(prepared, "val", 4, augment="full"))
    np.testing.assert_array_equal(images, prepared.images[prepared.indices("val")])
    np.testing.assert_array_equal(masks, prepared.masks[prepared.indices("val")])


@pytest.mark.parametrize("kind", ["flip", "full"])
def test_augmentation_does_not_depend_on_threads(prepared, kind):
    patches = Patches(prepared, "train", 4, shuffle_seed=3, augment=kind)
    alone = [patches[i] for i in range(len(patches))]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(patches.__getitem__, range(len(patches))))
    for (images, masks), (other_images, other_masks) in zip(alone, together, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(masks, other_masks)
    assert as_set(np.concatenate([images for images, _ in alone])) != as_set(
        prepared.images[prepared.indices("train")]
    )


@pytest.mark.parametrize("kind", ["none", "flip", "full"])
def test_patches_are_shuffled_and_augmented_by_seed_epoch_and_index(prepared, kind):
    """The published numbers depend on these seeds."""
    order = np.random.default_rng([5, 2]).permutation(prepared.indices("train"))
    augment = augmenter(kind) or (lambda image, mask, seed: (image, mask))
    expected = [
        augment(
            np.array(prepared.images[patch]),
            np.array(prepared.masks[patch]),
            int(np.random.SeedSequence([5, 2, patch]).generate_state(1)[0]),
        )
        for patch in order
    ]
    config = Config(batch_size=7, seed=5, augment=kind)
    for got, wanted in zip(
        epoch(training(prepared, config, 2)), zip(*expected, strict=True), strict=True
    ):
        np.testing.assert_array_equal(got, np.stack(wanted))


def test_photometric_changes_images_by_epoch_and_never_masks(prepared):
    plain = Patches(prepared, "train", 7, shuffle_seed=1)
    changed = training(prepared, Config(batch_size=7, seed=1, photometric=0.5), first_epoch=0)
    images, masks = epoch(plain)
    first, first_masks = epoch(changed)
    np.testing.assert_array_equal(first_masks, masks)
    assert len(as_set(first) & as_set(images)) < len(images) / 10
    np.testing.assert_array_equal(epoch(changed)[0], first)
    changed.on_epoch_end()
    assert not as_set(epoch(changed)[0]) & as_set(first)


def test_patches_may_be_chosen_by_index(prepared):
    chosen = np.array([5, 0, 9])
    np.testing.assert_array_equal(epoch(Patches(prepared, chosen, 2))[0], prepared.images[chosen])

"""Batches: every patch once an epoch, in an order that seed and epoch alone decide, image and mask always together."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from segmentation.augmentation import augmenter
from segmentation.datasets import Patches
from segmentation.errors import UserError
from segmentation.labels import IGNORE
from segmentation.prepared import PreparedSet


@pytest.fixture
def prepared(tiny_set) -> PreparedSet:
    return PreparedSet.open(tiny_set)


def epoch(patches: Patches) -> tuple[np.ndarray, np.ndarray]:
    images, masks = zip(*(patches[i] for i in range(len(patches))), strict=True)
    return np.concatenate(images), np.concatenate(masks)


def as_set(images) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_every_patch_once_an_epoch(prepared):
    indices = prepared.indices("train")
    patches = Patches(prepared, "train", 7, shuffle_seed=1)
    for _ in range(2):
        images, masks = epoch(patches)
        assert images.dtype == masks.dtype == np.uint8
        assert images.shape == (len(indices), 32, 32, 3) and masks.shape == (len(indices), 32, 32)
        assert as_set(images) == as_set(prepared.images[indices])
        patches.on_epoch_end()


def test_order_is_of_seed_and_epoch_alone(prepared):
    first = Patches(prepared, "train", 7, shuffle_seed=1)
    one = epoch(first)[0]
    first.on_epoch_end()
    two = epoch(first)[0]
    resumed = epoch(Patches(prepared, "train", 5, shuffle_seed=1, first_epoch=1))[0]
    other = epoch(Patches(prepared, "train", 7, shuffle_seed=2))[0]
    assert not np.array_equal(one, two) and not np.array_equal(one, other)
    np.testing.assert_array_equal(two, resumed)


def test_without_a_seed_nothing_moves(prepared):
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


def test_image_and_mask_turn_together(random):
    mask = random.integers(0, 6, (32, 32)).astype(np.uint8)
    mask[0, :5] = IGNORE
    image = np.repeat(mask[..., None], 3, axis=-1)
    turned = [augmenter("flip")(image, mask, seed) for seed in range(40)]
    for changed_image, changed_mask in turned:
        np.testing.assert_array_equal(changed_image[..., 0], changed_mask)
    assert (
        len({changed_mask.tobytes() for _, changed_mask in turned}) == 8
    )  # all symmetries of the square, no more


def test_brightness_leaves_the_mask_alone(random):
    image = random.integers(60, 200, (32, 32, 3)).astype(np.uint8)
    mask = random.integers(0, 6, (32, 32)).astype(np.uint8)
    values = {tuple(sorted(augmenter("full")(image, mask, seed)[1].ravel())) for seed in range(20)}
    assert values == {tuple(sorted(mask.ravel()))}


def test_a_folder_that_is_no_set_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"python -m segmentation\.prepare RAW"):
        PreparedSet.open(tmp_path)


def test_another_format_is_refused(tiny_set, tmp_path):
    shutil.copy(tiny_set / "manifest.json", tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text()) | {"format_version": 99}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"format 99.*prepare it again"):
        PreparedSet.open(tmp_path)


def test_a_split_without_patches_is_named(prepared):
    with pytest.raises(UserError, match="no holdout patches"):
        prepared.indices("holdout")


DAMAGED = {
    "images.npy": lambda content: content[:-100],
    "masks.npy": lambda content: content[:200] + bytes([77]) + content[201:],
    "patches.csv": lambda content: content + content.splitlines(keepends=True)[-1],
    "manifest.json": lambda content: b"{}",
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("how", ["damaged", "empty", "garbage", "missing", "folder"])
def test_a_damaged_set_is_refused_when_it_is_opened(tiny_set, tmp_path, name, how):
    file = shutil.copytree(tiny_set, tmp_path / "set") / name
    PreparedSet.open(file.parent)
    contents = {
        "damaged": DAMAGED[name],
        "empty": lambda _: b"",
        "garbage": lambda content: bytes(reversed(content)),
    }
    if how in contents:
        file.write_bytes(contents[how](file.read_bytes()))
    else:
        file.unlink()
    if how == "folder":
        file.mkdir()
    with pytest.raises(UserError, match=r"python -m segmentation\.prepare RAW") as error:
        PreparedSet.open(file.parent)
    assert str(file if name != "manifest.json" else file.parent) in error.value.message
    assert "\n" not in error.value.message


def test_an_exchanged_array_of_the_same_shape_is_noticed(tiny_set, tmp_path):
    images = np.load(shutil.copytree(tiny_set, tmp_path / "set") / "images.npy")
    np.save(tmp_path / "set" / "images.npy", images[::-1])
    with pytest.raises(UserError, match=r"images\.npy is not the file that was prepared"):
        PreparedSet.open(tmp_path / "set")


def test_a_set_of_an_older_version_is_prepared_again(tiny_set, tmp_path):
    file = shutil.copytree(tiny_set, tmp_path / "set") / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["files"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="older version made this set"):
        PreparedSet.open(file.parent)

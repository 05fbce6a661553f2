"""The format of a prepared set: what it holds, and that damaged sets are refused."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from prepare_helpers import read_image, read_table, run_prepare

from segmentation.errors import UserError
from segmentation.labels import CLASSES, count, encode
from segmentation.prepared import (
    FILES,
    MOSAIC_FILES,
    ArrayWriter,
    PatchTable,
    PreparedSet,
    PrepareOptions,
    write_description,
)


def test_the_manifest_counts_patches_and_pixels_correctly(city, city_set):
    manifest = json.loads((city_set / "manifest.json").read_text())
    rows, masks = read_table(city_set), np.load(city_set / "masks.npy")
    splits = np.array([row["split"] for row in rows])
    assert (
        manifest["format_version"] == 1
        and manifest["leaks"] is False
        and manifest["patch_size"] == 32
    )
    assert manifest["patches"] == {
        "total": len(rows),
        **{name: int((splits == name).sum()) for name in ("train", "val", "test")},
    }
    for name in ("train", "val", "test"):
        assert list(manifest["pixels"][name].values()) == count(masks[splits == name]).tolist()
        assert manifest["split"]["tiles"][name] == sorted(
            {int(row["tile"]) for row in rows if row["split"] == name}
        )
        assert sum(manifest["split"]["shares"][name].values()) == pytest.approx(1, abs=1e-5)
    raw = sum(count(encode(read_image(path))) for path in city.glob("Tile */masks/*.png"))
    assert list(manifest["pixels"]["raw"].values()) == raw.tolist()
    assert len(manifest["sources"]) == 72 and len(manifest["checksum"]) == 64
    assert all(manifest["pixels"]["train"][name] > 0 for name in CLASSES)


def test_the_manifest_holds_the_checksums_of_the_files(city_set):
    files = json.loads((city_set / "manifest.json").read_text())["files"]
    assert files == {
        name: hashlib.sha256((city_set / name).read_bytes()).hexdigest() for name in FILES[:-1]
    }


def test_a_set_of_the_first_options_never_changes_its_bytes(tmp_path):
    """Runs know their data by the checksum. Both values are those of the code before mosaics."""
    masks = (np.arange(5 * 64) % 6).astype(np.uint8).reshape(5, 8, 8)
    images = np.repeat(masks[..., None] * 40, 3, axis=-1)
    for name, array in (("images.npy", images), ("masks.npy", masks)):
        with ArrayWriter(tmp_path / name, array.shape) as writer:
            writer.write_rows(0, array)
    places = np.array([(tile, 1, 0, 0) for tile in (1, 2, 3, 4, 5)])
    table = PatchTable(
        places, ["val", "test", "val", "train", "train"], np.stack([count(mask) for mask in masks])
    )
    options = PrepareOptions(patch_size=32, grid="crop", scale=4, on_unknown="ignore")
    pixels = {tile: 16 * table.pixels[tile - 1] for tile in (1, 2, 3, 4, 5)}
    sources = {f"Tile {tile}/images/image_part_001.jpg": str(tile) * 64 for tile in pixels}
    write_description(tmp_path, options, table, pixels, sources)
    manifest = (tmp_path / "manifest.json").read_bytes()  # it holds the SHA-256 of the other files
    assert json.loads(manifest)["checksum"] == (
        "21a88c3956156d4e2278365f3695efa965835f3dab9c8a81a98f0a900bdbf49c"
    )
    assert hashlib.sha256(manifest).hexdigest() == (
        "422fd7d3f8e6ee7f132abc8391ae25baff7fb61808d2c3c5ad2803e27c83c698"
    )
    PreparedSet.open(tmp_path)


def test_the_error_for_a_folder_without_a_set_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"python -m segmentation\.prepare RAW"):
        PreparedSet.open(tmp_path)


def test_a_set_of_another_format_version_is_refused(tiny_set, tmp_path):
    shutil.copy(tiny_set / "manifest.json", tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text()) | {"format_version": 99}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"format 99.*prepare it again"):
        PreparedSet.open(tmp_path)


def test_a_split_without_patches_is_an_error_that_names_it(tiny_set):
    with pytest.raises(UserError, match="no holdout patches"):
        PreparedSet.open(tiny_set).indices("holdout")


@pytest.fixture(scope="module")
def mosaic_set(city, tmp_path_factory):
    """The folder of a set with mosaics: train 1, 3; test 2; no val; tile 4 left out."""
    folder = tmp_path_factory.mktemp("mosaics") / "set"
    options = ["--train", "1,3", "--test", "2", "--mosaics"]
    assert run_prepare(city, folder, "--patch-size", 32, *options).exit_code == 0
    return folder


def test_a_set_knows_its_tiles_splits_and_ground(mosaic_set):
    prepared = PreparedSet.open(mosaic_set)
    assert [prepared.has(split) for split in ("train", "val", "test")] == [True, False, True]
    assert prepared.places == [(1, 3), (2,)]
    tiles = np.array([int(row["tile"]) for row in read_table(mosaic_set)])
    for chosen in ([3], [2, 1], (1, 2, 3), []):
        indices = prepared.indices_of(chosen)
        assert indices.dtype == np.int64
        np.testing.assert_array_equal(indices, np.flatnonzero(np.isin(tiles, chosen)))
    np.testing.assert_array_equal(prepared.indices_of([3, 1]), prepared.indices("train"))
    with pytest.raises(UserError, match="no val patches"):
        prepared.indices("val")
    with pytest.raises(UserError, match=r"has no tile 4, 9; name tiles that it has: 1, 2, 3"):
        prepared.indices_of([9, 1, 4])


def test_mosaics_belong_to_the_split_of_their_tile_and_stay_on_disk(mosaic_set, city_set):
    prepared = PreparedSet.open(mosaic_set)
    assert [mosaic.tile for mosaic in prepared.mosaics("train")] == [1, 3]
    (mosaic,) = prepared.mosaics("test")
    assert mosaic.tile == 2
    assert isinstance(mosaic.image, np.memmap) and isinstance(mosaic.mask, np.memmap)
    with pytest.raises(UserError, match="no val patches"):
        prepared.mosaics("val")
    with pytest.raises(UserError, match=r"holds no mosaics; .*--mosaics"):
        PreparedSet.open(city_set).mosaics("train")


@pytest.mark.parametrize("name", MOSAIC_FILES)
@pytest.mark.parametrize("damage", ["a changed byte", "missing"])
def test_damaged_mosaics_are_refused_when_the_set_is_opened(mosaic_set, tmp_path, name, damage):
    file = shutil.copytree(mosaic_set, tmp_path / "set") / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"{name} is .*prepare it again"):
        PreparedSet.open(file.parent)


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


def test_an_array_replaced_by_one_of_the_same_shape_is_refused(tiny_set, tmp_path):
    images = np.load(shutil.copytree(tiny_set, tmp_path / "set") / "images.npy")
    np.save(tmp_path / "set" / "images.npy", images[::-1])
    with pytest.raises(UserError, match=r"images\.npy is not the file that was prepared"):
        PreparedSet.open(tmp_path / "set")


def test_a_set_without_checksums_is_refused(tiny_set, tmp_path):
    file = shutil.copytree(tiny_set, tmp_path / "set") / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["files"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="older version made this set"):
        PreparedSet.open(file.parent)

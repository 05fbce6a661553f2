"""Conversion: each stored patch agrees with the pixels of the source files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepare_helpers import SMALL, contents, read_image, read_table, write_image

from segmentation.convert import mosaic_layouts
from segmentation.errors import BadFilesError
from segmentation.labels import CLASSES, IGNORE, VALUES, count, encode
from segmentation.prepare import prepare
from segmentation.prepared import MOSAIC_FILES, PreparedSet, PrepareOptions
from segmentation.sources import Part, find_parts
from segmentation.tiling import positions, shrink_masks

WITH_MOSAICS = replace(SMALL, mosaics=True)


@pytest.mark.parametrize("grid", ["cover", "crop"])
def test_every_stored_patch_equals_the_pixels_at_its_place_in_the_table(city, tmp_path, grid):
    prepare(city, tmp_path / "set", PrepareOptions(patch_size=32, grid=grid))
    stored, masks = (
        np.load(tmp_path / "set" / name, mmap_mode="r") for name in ("images.npy", "masks.npy")
    )
    rows = read_table(tmp_path / "set")
    assert stored.shape == (len(rows), 32, 32, 3) and masks.shape == (len(rows), 32, 32)
    assert stored.dtype == masks.dtype == np.uint8
    expected = []
    for row, image, mask in zip(rows, stored, masks, strict=True):
        tile, part, top, left = (int(row[name]) for name in ("tile", "part", "row", "column"))
        expected.append((tile, part, top, left))
        window = slice(top, top + 32), slice(left, left + 32)
        folder = city / f"Tile {tile}"
        np.testing.assert_array_equal(
            image, read_image(folder / "images" / f"image_part_{part:03d}.jpg")[window]
        )
        np.testing.assert_array_equal(
            mask, encode(read_image(folder / "masks" / f"image_part_{part:03d}.png"))[window]
        )
        shares = [float(row[name]) for name in (*CLASSES, "ignore")]
        np.testing.assert_allclose(shares, count(mask) / mask.size, atol=1e-6)
    assert expected == sorted(expected) and len(set(expected)) == len(expected)
    assert [int(row["index"]) for row in rows] == list(range(len(rows)))
    sizes = [read_image(path).shape[:2] for path in city.glob("Tile */images/*.jpg")]
    assert len(rows) == sum(len(positions(*size, 32, grid)) for size in sizes)


def test_scale_keeps_the_grid_and_shrinks_the_patches(city, city_set, tmp_path):
    prepare(city, tmp_path / "set", PrepareOptions(patch_size=32, scale=4))
    full, small = read_table(city_set), read_table(tmp_path / "set")
    place = ("tile", "part", "row", "column", "split")
    assert [[row[name] for name in place] for row in full] == [
        [row[name] for name in place] for row in small
    ]
    whole, shrunk = (np.load(folder / "images.npy") for folder in (city_set, tmp_path / "set"))
    mean = whole.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    assert shrunk.shape[1:] == (8, 8, 3) and np.abs(shrunk - mean).max() <= 0.5


def test_the_set_does_not_depend_on_the_number_of_workers(city, city_set, tmp_path):
    for workers in (1, 5):
        prepare(city, tmp_path / str(workers), SMALL, workers=workers)
        assert contents(tmp_path / str(workers)) == contents(city_set)


def test_unknown_colors_are_an_error_or_become_ignore(city_copy, tmp_path):
    path = city_copy / "Tile 1/masks/image_part_001.png"
    mask = read_image(path)
    mask[0, :5] = (10, 20, 30)
    write_image(path, mask)
    with pytest.raises(
        BadFilesError,
        match=r"1 file cannot be used:\n  Tile 1/masks/image_part_001.png: .* #0A141E on 5 px",
    ):
        prepare(city_copy, tmp_path / "set", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    assert prepare(city_copy, tmp_path / "set", PrepareOptions(patch_size=32, on_unknown="ignore"))
    assert (np.load(tmp_path / "set" / "masks.npy")[0, 0, :5] == IGNORE).all()


def read_part(raw, tile, part):
    """(h, w, 3) uint8 RGB image and (h, w) uint8 class indices of one part."""
    folder, name = raw / f"Tile {tile}", f"image_part_{part:03d}"
    image = read_image(folder / "images" / f"{name}.jpg")
    return image, encode(read_image(folder / "masks" / f"{name}.png"))


def read_tile(raw, tile):
    """The same of a whole tile."""
    pairs = [read_part(raw, tile, part) for part in range(1, 10)]
    return [
        np.concatenate([np.concatenate(whole[row : row + 3], axis=1) for row in (0, 3, 6)])
        for whole in zip(*pairs, strict=True)
    ]


@pytest.mark.parametrize(("scale", "band"), [(1, 256), (1, 50), (4, 256), (4, 51)])
def test_mosaics_are_the_joined_parts_at_the_scale_of_the_set(
    city, city_set, tmp_path, scale, band, monkeypatch
):
    monkeypatch.setattr("segmentation.convert.BAND", band)
    prepare(city, tmp_path / "set", replace(WITH_MOSAICS, scale=scale))
    prepared = PreparedSet.open(tmp_path / "set")
    mosaics = [mosaic for split in ("train", "val", "test") for mosaic in prepared.mosaics(split)]
    assert sorted(mosaic.tile for mosaic in mosaics) == [1, 2, 3, 4]
    for mosaic in mosaics:
        image, mask = read_tile(city, mosaic.tile)
        height, width = (side // scale for side in mask.shape)
        image, mask = (array[: height * scale, : width * scale] for array in (image, mask))
        mean = image.reshape(height, scale, width, scale, 3).mean(axis=(1, 3))
        np.testing.assert_array_equal(mosaic.image, np.floor(mean + 0.5 + 1e-9))
        np.testing.assert_array_equal(mosaic.mask, shrink_masks(mask[None], scale, VALUES)[0])
        assert mosaic.image.dtype == mosaic.mask.dtype == np.uint8
    pixels = sum(mosaic.mask.size for mosaic in mosaics)
    stored = [np.load(tmp_path / "set" / name, mmap_mode="r").shape for name in MOSAIC_FILES]
    assert stored == [(pixels, 3), (pixels,)]
    if scale == 1:  # the patches are those of a set without mosaics
        for name in ("images.npy", "masks.npy", "patches.csv"):
            assert contents(tmp_path / "set")[name] == contents(city_set)[name]


def test_mosaics_do_not_depend_on_the_number_of_workers(city, tmp_path):
    for workers in (1, 5):
        prepare(city, tmp_path / str(workers), WITH_MOSAICS, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "5")


def test_parts_that_do_not_fit_together_are_mosaics_of_their_own(city_copy, tmp_path):
    for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
        (city_copy / "Tile 1" / kind / f"image_part_005{suffix}").unlink()
        odd = city_copy / "Tile 2" / kind / f"image_part_009{suffix}"
        write_image(odd, read_image(odd)[:-1])
    prepare(city_copy, tmp_path / "set", WITH_MOSAICS)
    prepared = PreparedSet.open(tmp_path / "set")
    mosaics = [mosaic for split in ("train", "val", "test") for mosaic in prepared.mosaics(split)]
    for tile, parts in ((1, [1, 2, 3, 4, 6, 7, 8, 9]), (2, list(range(1, 10)))):
        alone = [mosaic for mosaic in mosaics if mosaic.tile == tile]
        for mosaic, part in zip(alone, parts, strict=True):
            image, mask = read_part(city_copy, tile, part)
            np.testing.assert_array_equal(mosaic.image, image)
            np.testing.assert_array_equal(mosaic.mask, mask)
    assert sum(mosaic.tile > 2 for mosaic in mosaics) == 2


sides = st.tuples(*[st.integers(4, 20)] * 3)


def parts_of(heights, widths, numbers=range(1, 10)):
    """Nine parts of one tile, row by row, with these sides."""
    shapes = [(height, width) for height in heights for width in widths]
    return [
        Part(1, number, Path(), Path(), *shape, ("", ""))
        for number, shape in zip(numbers, shapes, strict=True)
    ]


@given(sides, sides, st.integers(1, 4))
def test_the_parts_of_a_mosaic_use_every_pixel_once(heights, widths, scale):
    parts = parts_of(heights, widths)
    (layout,) = mosaic_layouts(parts, scale)
    used = np.zeros((sum(heights), sum(widths)), int)
    for part in parts:
        row, column = layout.corners[part]
        used[row : row + part.height, column : column + part.width] += 1
    assert (used == 1).all()
    assert (layout.height, layout.width) == (sum(heights) // scale, sum(widths) // scale)
    assert len(mosaic_layouts(parts_of(heights, widths, range(2, 11)), scale)) == 9
    odd = replace(parts[4], width=parts[4].width + 1)
    alone = mosaic_layouts([*parts[:4], odd, *parts[5:]], scale)
    ends = np.cumsum([layout.height * layout.width for layout in alone])
    assert [layout.first for layout in alone] == [0, *ends[:-1]] and len(alone) == 9


def test_every_tile_of_the_real_set_is_one_mosaic(real_set):
    parts, _ = find_parts(real_set, 256)
    layouts = mosaic_layouts(parts, 1)
    assert [layout.entry()["tile"] for layout in layouts] == list(range(1, 9))
    assert sum(layout.height * layout.width for layout in layouts) == 99_032_243

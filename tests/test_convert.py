"""Conversion: each stored patch agrees with the pixels of the source files."""

import numpy as np
import pytest
from prepare_helpers import SMALL, contents, read_image, read_table, write_image

from segmentation.errors import BadFilesError
from segmentation.labels import CLASSES, IGNORE, count, encode
from segmentation.prepare import prepare
from segmentation.prepared import PrepareOptions
from segmentation.tiling import positions


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

"""The synthetic city has the layout, colours and oddities of the Dubai set."""

import json

import cv2
import damaged_images as images
import numpy as np
import pytest
from click.testing import CliRunner

from segmentation import synthetic
from segmentation.city import draw
from segmentation.labels import COLORS, IGNORE, NUM_CLASSES, count, encode
from segmentation.sources import find_parts
from segmentation.splits import by_tiles


def _read(path):
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)


def _mosaic(folder, kind, ending):
    parts = [_read(folder / kind / f"image_part_{number:03d}{ending}") for number in range(1, 10)]
    return np.vstack([np.hstack(parts[row : row + 3]) for row in (0, 3, 6)])


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "city"
    synthetic.write(folder, seed=3, tiles=8, size=64)
    return folder


def test_the_layout_is_that_of_the_real_set(city):
    assert sorted(path.name for path in city.iterdir()) == [
        *(f"Tile {n}" for n in range(1, 9)),
        "classes.json",
    ]
    parts, problems = find_parts(city, 32)
    assert not problems and [(part.tile, part.part) for part in parts] == [
        (t, p) for t in range(1, 9) for p in range(1, 10)
    ]


def test_parts_of_a_tile_differ_by_one_pixel(city):
    parts, _ = find_parts(city, 32)
    for tile in range(1, 9):
        heights, widths = (
            {getattr(part, side) for part in parts if part.tile == tile}
            for side in ("height", "width")
        )
        assert max(heights) - min(heights) == 1 and max(widths) - min(widths) == 1


def test_masks_hold_the_published_colors_and_classes_json_holds_others(city):
    for path in city.glob("Tile */masks/*.png"):
        encode(_read(path), path.name)
    listed = {
        entry["title"]: entry["color"]
        for entry in json.loads((city / "classes.json").read_text())["classes"]
    }
    ours = {"#" + bytes(color).hex().upper() for color in COLORS}
    assert len(listed) == 6 and set(listed.values()) & ours == {listed["Unlabeled"]}


def test_palette_masks_differ_in_the_order_of_the_palette(city):
    palettes = {}
    for path in sorted(city.glob("Tile */masks/*.png")):
        content = path.read_bytes()
        if content[25] == 3:  # the header's color type: palette
            start = content.index(b"PLTE") + 4
            palettes.setdefault(path.parts[-3], set()).add(content[start : start + 21])
    assert palettes.keys() == {"Tile 2", "Tile 4"} and all(
        len(orders) > 1 for orders in palettes.values()
    )


def test_tiles_overlap_as_the_real_ones_do(city):
    masks = {tile: encode(_mosaic(city / f"Tile {tile}", "masks", ".png")) for tile in range(1, 9)}
    images = {
        tile: _mosaic(city / f"Tile {tile}", "images", ".jpg").astype(int) for tile in range(1, 9)
    }
    half = {tile: masks[tile].shape[1] // 2 for tile in masks}
    for left, right in ((1, 3), (7, 8)):
        shared = masks[left].shape[1] - half[left]
        same = masks[left][:, half[left] :] == masks[right][:, :shared]
        assert same.mean() > 0.9  # all except the black pixels
        # Equal except for the noise of JPEG.
        assert np.abs(images[left][:, half[left] :] - images[right][:, :shared]).mean() < 6
    assert (masks[4] == masks[8]).mean() > 0.9
    assert np.abs(images[4] - images[8]).mean() > 6  # another date


def test_all_classes_and_black_pixels_occur(city):
    counts = {
        tile: sum(
            count(encode(_read(path))) for path in (city / f"Tile {tile}" / "masks").iterdir()
        )
        for tile in range(1, 9)
    }
    total = sum(counts.values())
    assert (total > 0).all() and total[1] == total[:NUM_CLASSES].max()
    assert {"train", "val", "test"} == set(by_tiles(counts).values())


@pytest.mark.parametrize("seed", range(4))
def test_the_smallest_city_can_be_split(seed):
    split = by_tiles({tile: count(mask) for tile, _, mask in draw(seed, 4, 48)})
    assert set(split.values()) == {"train", "val", "test"}


def test_the_same_seed_gives_the_same_files(city, tmp_path):
    synthetic.write(tmp_path / "again", seed=3, tiles=8, size=64)
    for path in city.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(city)).read_bytes()
    _, other, _ = next(iter(draw(4, 4, 64)))
    _, first, _ = next(iter(draw(3, 4, 64)))
    assert other.shape != first.shape or (other != first).any()


def test_color_alone_does_not_determine_the_class():
    """The best classifier by colour alone (4 bits per channel) misses 20 % of some class."""
    images, masks = zip(*((image, mask) for _, image, mask in draw(0, 4, 96)), strict=True)
    pixels = np.concatenate([image.reshape(-1, 3) // 16 for image in images]).astype(int) @ (
        256,
        16,
        1,
    )
    truth = np.concatenate([mask.ravel() for mask in masks])
    table = np.zeros((4096, NUM_CLASSES), int)
    labelled = truth != IGNORE
    np.add.at(table, (pixels[labelled], truth[labelled]), 1)
    guess = table.argmax(axis=1)[pixels]
    recall = [float((guess[truth == index] == index).mean()) for index in range(NUM_CLASSES)]
    assert min(recall[:5]) < 0.8, recall
    # Yet colour helps: it beats the answer Land for every pixel.
    assert (guess == truth).mean() > (truth == 1).mean() + 0.1


def test_the_command_refuses_a_folder_in_use_and_draws_into_a_new_one(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    refused = CliRunner().invoke(synthetic.main, [str(tmp_path / "used")])
    assert refused.exit_code == 1 and "not empty; name another folder" in refused.output
    drawn = CliRunner().invoke(
        synthetic.main, [str(tmp_path / "new"), "--tiles", "4", "--size", "48"]
    )
    assert drawn.exit_code == 0 and "4 tiles of 9 parts" in drawn.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "used"]


def test_a_full_disk_and_an_impossible_folder_are_one_line_of_error_and_leave_nothing(tmp_path):
    (tmp_path / "file").touch()
    command = ["--tiles", "4", "--size", "48"]
    for out in (tmp_path / "file" / "city", tmp_path / ("x" * 300)):
        refused = CliRunner().invoke(synthetic.main, [str(out), *command])
        assert refused.exit_code == 1 and refused.output.startswith(f"Error: cannot write {out}"), (
            refused.output
        )
    with images.largest_file(500):
        full = CliRunner().invoke(synthetic.main, [str(tmp_path / "city"), *command])
    assert (
        full.exit_code == 1
        and full.output.startswith("Error: cannot write")
        and full.output.count("\n") == 1
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

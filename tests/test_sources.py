"""Raw folders: which files are found, and what is reported about damaged and misnamed ones."""

import os
import shutil

import damaged_images as images
import numpy as np
import pytest
from prepare_helpers import SMALL, contents, read_image, run_prepare, write_image

from segmentation.labels import COLORS
from segmentation.prepare import prepare


def test_tiles_inside_another_folder_give_the_same_set(city, city_set, tmp_path):
    shutil.copytree(city, tmp_path / "raw" / "Semantic segmentation dataset")
    prepare(tmp_path / "raw", tmp_path / "set", SMALL)
    assert contents(tmp_path / "set") == contents(city_set)


def damage(raw):
    """Damages the files of a raw folder in many ways. Returns file -> the problem to report."""
    one, two, three, four = (raw / f"Tile {number}" for number in range(1, 5))
    problems = {}
    (one / "masks/image_part_001.png").unlink()
    problems["Tile 1/images/image_part_001.jpg"] = "its mask is missing"
    (one / "images/image_part_002.jpg").unlink()
    problems["Tile 1/masks/image_part_002.png"] = "its image is missing"
    for name, share in (("images/image_part_003.jpg", 2), ("masks/image_part_004.png", 2)):
        content = (one / name).read_bytes()
        (one / name).write_bytes(content[: len(content) // share])
        problems[f"Tile 1/{name}"] = f"truncated {name[-3:].upper().replace('JPG', 'JPEG')}"
    # A download that reserved its space and was then interrupted.
    content = (two / "images/image_part_001.jpg").read_bytes()
    (two / "images/image_part_001.jpg").write_bytes(
        content[: len(content) // 2].ljust(len(content), b"\0")
    )
    problems["Tile 2/images/image_part_001.jpg"] = "truncated JPEG"
    (two / "images/image_part_002.jpg").write_bytes(b"<html>")
    problems["Tile 2/images/image_part_002.jpg"] = "not a JPEG file"
    (two / "masks/image_part_003.png").write_bytes(b"")
    problems["Tile 2/masks/image_part_003.png"] = "empty file"
    content = bytearray((two / "masks/image_part_004.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (two / "masks/image_part_004.png").write_bytes(content)
    problems["Tile 2/masks/image_part_004.png"] = "damaged PNG"
    mask = read_image(three / "masks/image_part_005.png")
    write_image(three / "masks/image_part_005.png", mask[:-1])
    height, width = mask.shape[:2]
    problems["Tile 3/images/image_part_005.jpg"] = (
        f"{height}x{width} px, but its mask is {height - 1}x{width} px"
    )
    for kind, ending in (("images", ".jpg"), ("masks", ".png")):
        path = three / kind / f"image_part_006{ending}"
        write_image(path, read_image(path)[:20])
    problems["Tile 3/images/image_part_006.jpg"] = (
        "smaller than one 32 px patch; lower --patch-size"
    )
    mask[3, 7:9] = (1, 2, 3)
    mask[4, 0] = COLORS[0] + 1
    write_image(
        four / "masks/image_part_001.png",
        np.resize(mask, read_image(four / "images/image_part_001.jpg").shape),
    )
    (four / "images/holiday.jpg").touch()
    problems["Tile 4/images/holiday.jpg"] = "expected a name like image_part_001.jpg"
    (four / "images/.DS_Store").touch()  # macOS writes such files
    mask = np.full_like(read_image(four / "masks/image_part_002.png"), COLORS[1])
    mask[3, 7:9] = (1, 2, 3)
    write_image(four / "masks/image_part_002.png", mask)
    problems["Tile 4/masks/image_part_002.png"] = (
        "unknown colour #010203 on 2 px, first at row 3, column 7"
    )
    return problems


def assert_reported(problems, lines):
    """Each file of `problems` has a line that starts with its name and contains the problem."""
    for path, problem in problems.items():
        assert any(line.startswith(f"{path}: ") and problem in line for line in lines), (
            path,
            problem,
            lines,
        )


def test_all_bad_files_are_reported_and_nothing_is_written(city_copy, tmp_path):
    problems = damage(city_copy)
    result = run_prepare(city_copy, tmp_path / "set", "--patch-size", 32)
    lines = [line.strip() for line in result.output.splitlines()]
    assert result.exit_code == 1
    assert_reported(problems, lines)
    # One more: the first mask of Tile 4, resized, has unknown colours at places not listed here.
    assert f"{len(problems) + 1} files cannot be used" in result.output
    assert ".DS_Store" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_damage_that_only_decoding_shows_and_odd_files_are_reported(city_copy, tmp_path):
    one, two = city_copy / "Tile 1", city_copy / "Tile 2"
    problems = {}

    def replace(path, content, problem):
        path.unlink()
        if content is None:
            os.mkfifo(path)
        else:
            path.write_bytes(content)
        problems["/".join(path.parts[-3:])] = problem

    jpegs = sorted((one / "images").iterdir())
    whole = [path.read_bytes() for path in jpegs]
    half = [len(content) // 2 for content in whole]
    replace(jpegs[0], whole[0][: half[0]] + b"\xff\xd9", "damaged JPEG")
    replace(jpegs[1], whole[1][: half[1]] + bytes(500) + whole[1][half[1] + 500 :], "damaged JPEG")
    replace(jpegs[2], whole[2][: half[2]] + bytes(2000) + whole[2][half[2] :], "damaged JPEG")
    replace(jpegs[3], None, "not a regular file")
    pngs = sorted((two / "masks").iterdir())
    replace(pngs[0], images.png_of_size(65000, 65000), "65000x65000 px, and an image may have")
    replace(pngs[1], pngs[1].read_bytes()[:20], "truncated PNG")
    replace(
        pngs[2],
        pngs[2].read_bytes()[:8] + pngs[2].read_bytes()[33:],
        "does not begin with a header",
    )
    result = run_prepare(city_copy, tmp_path / "set", "--patch-size", 32)
    assert result.exit_code == 1
    lines = [line.strip() for line in result.output.splitlines()]
    assert len(lines) == 1 + len(problems)
    assert_reported(problems, lines)


@pytest.mark.parametrize("name", ["tile 3", "Tile 03", "Tile3", "Tile ٣", "Tile  3", "TILE_3"])
def test_a_folder_spelled_almost_like_a_tile_is_reported(city_copy, tmp_path, name):
    (city_copy / "Tile 3").rename(city_copy / name)
    result = run_prepare(city_copy, tmp_path / "set", "--patch-size", 32)
    assert result.exit_code == 1 and f"{name}: expected a name like 'Tile 3'" in result.output


def test_an_exif_orientation_is_ignored(city_copy, city_set, tmp_path):
    for path in city_copy.glob("Tile */images/*.jpg"):
        path.write_bytes(images.turned(path.read_bytes()))
    prepare(city_copy, tmp_path / "set", SMALL)
    for name in ("images.npy", "masks.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "set" / name), np.load(city_set / name))

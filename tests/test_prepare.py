"""The way from raw tiles to a prepared set: what it holds, what it refuses, and that an interrupted run harms nothing."""

import csv
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import damaged_images as images
import numpy as np
import pytest
from click.testing import CliRunner

from segmentation import synthetic
from segmentation.errors import BadFilesError, UserError
from segmentation.labels import CLASSES, COLORS, IGNORE, count, encode
from segmentation.prepare import main, prepare
from segmentation.prepared import FILES, PrepareOptions
from segmentation.splits import OVERLAPPING
from segmentation.tiling import positions

ROOT = Path(__file__).parents[1]
SMALL = PrepareOptions(patch_size=32)

# Counted with np.unique over the packed colours of the 72 masks; the shares in per cent are 13.31, 52.36, 9.35, 10.31, 13.61,
# 0.51 and 0.56, as measured before.
REAL_PIXELS = {
    "Building": 13_177_546,
    "Land": 51_850_363,
    "Road": 9_261_912,
    "Vegetation": 10_206_379,
    "Water": 13_482_196,
    "Unlabeled": 501_691,
    "ignore": 552_156,
}


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """A raw folder of four tiles with parts of about 64 px."""
    folder = tmp_path_factory.mktemp("raw") / "city"
    synthetic.write(folder, seed=1, tiles=4, size=64)
    return folder


@pytest.fixture(scope="module")
def prepared(city, tmp_path_factory):
    """The city, prepared with the small options."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    assert prepare(city, out, SMALL)
    return out


@pytest.fixture
def copy(city, tmp_path):
    """A copy of the city to spoil."""
    return shutil.copytree(city, tmp_path / "raw")


def read(path):
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)


def rows_of(folder):
    with (folder / "patches.csv").open() as file:
        return list(csv.DictReader(file))


def content_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def save(path, pixels):
    path.write_bytes(cv2.imencode(path.suffix, pixels[..., ::-1])[1].tobytes())


@pytest.mark.parametrize("grid", ["cover", "crop"])
def test_every_stored_patch_is_where_the_table_says(city, tmp_path, grid):
    prepare(city, tmp_path / "set", PrepareOptions(patch_size=32, grid=grid))
    stored, masks = (
        np.load(tmp_path / "set" / name, mmap_mode="r") for name in ("images.npy", "masks.npy")
    )
    rows = rows_of(tmp_path / "set")
    assert stored.shape == (len(rows), 32, 32, 3) and masks.shape == (len(rows), 32, 32)
    assert stored.dtype == masks.dtype == np.uint8
    expected = []
    for row, image, mask in zip(rows, stored, masks, strict=True):
        tile, part, top, left = (int(row[name]) for name in ("tile", "part", "row", "column"))
        expected.append((tile, part, top, left))
        window = slice(top, top + 32), slice(left, left + 32)
        folder = city / f"Tile {tile}"
        np.testing.assert_array_equal(
            image, read(folder / "images" / f"image_part_{part:03d}.jpg")[window]
        )
        np.testing.assert_array_equal(
            mask, encode(read(folder / "masks" / f"image_part_{part:03d}.png"))[window]
        )
        shares = [float(row[name]) for name in (*CLASSES, "ignore")]
        np.testing.assert_allclose(shares, count(mask) / mask.size, atol=1e-6)
    assert expected == sorted(expected) and len(set(expected)) == len(expected)
    assert [int(row["index"]) for row in rows] == list(range(len(rows)))
    sizes = [read(path).shape[:2] for path in city.glob("Tile */images/*.jpg")]
    assert len(rows) == sum(len(positions(*size, 32, grid)) for size in sizes)


def test_manifest_counts_what_is_there(city, prepared):
    manifest = json.loads((prepared / "manifest.json").read_text())
    rows, masks = rows_of(prepared), np.load(prepared / "masks.npy")
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
    raw = sum(count(encode(read(path))) for path in city.glob("Tile */masks/*.png"))
    assert list(manifest["pixels"]["raw"].values()) == raw.tolist()
    assert len(manifest["sources"]) == 72 and len(manifest["checksum"]) == 64
    assert all(manifest["pixels"]["train"][name] > 0 for name in CLASSES)


def test_no_ground_lies_in_two_splits(prepared):
    split_of = {}
    for row in rows_of(prepared):
        split_of.setdefault(int(row["tile"]), set()).add(row["split"])
    assert all(len(names) == 1 for names in split_of.values())
    for group in OVERLAPPING:
        assert len(set().union(*(split_of.get(tile, set()) for tile in group))) <= 1


def test_random_split_is_marked_as_leaking(city, tmp_path):
    prepare(city, tmp_path / "set", PrepareOptions(patch_size=32, split="random"))
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["leaks"] is True and manifest["patches"]["test"] == 0
    assert manifest["patches"]["val"] == -(-manifest["patches"]["total"] // 5)


def test_scale_keeps_the_grid_and_shrinks_the_patches(city, prepared, tmp_path):
    prepare(city, tmp_path / "set", PrepareOptions(patch_size=32, scale=4))
    full, small = rows_of(prepared), rows_of(tmp_path / "set")
    place = ("tile", "part", "row", "column", "split")
    assert [[row[name] for name in place] for row in full] == [
        [row[name] for name in place] for row in small
    ]
    whole, shrunk = (np.load(folder / "images.npy") for folder in (prepared, tmp_path / "set"))
    mean = whole.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    assert shrunk.shape[1:] == (8, 8, 3) and np.abs(shrunk - mean).max() <= 0.5


def test_a_second_run_does_nothing_and_says_so(city, prepared):
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    again = run(city, prepared, "--patch-size", 32)
    assert again.exit_code == 0 and "already prepared, nothing to do" in again.output
    assert before == {path: path.stat().st_mtime_ns for path in prepared.iterdir()}


def test_other_options_or_files_never_overwrite_silently(copy, tmp_path):
    out = tmp_path / "set"
    prepare(copy, out, SMALL)
    before = content_of(out)
    other = run(copy, out, "--patch-size", 32, "--grid", "crop")
    assert (
        other.exit_code == 1
        and "was prepared with --grid cover; name another folder" in other.output
    )
    shutil.copy(
        copy / "Tile 1/images/image_part_001.jpg", copy / "Tile 1/images/image_part_004.jpg"
    )
    shutil.copy(copy / "Tile 1/masks/image_part_001.png", copy / "Tile 1/masks/image_part_004.png")
    changed = run(copy, out, "--patch-size", 32)
    assert (
        changed.exit_code == 1
        and "from other files" in changed.output
        and "--force" in changed.output
    )
    assert content_of(out) == before
    forced = run(copy, out, "--patch-size", 32, "--grid", "crop", "--force")
    assert forced.exit_code == 0 and content_of(out) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "set"]


def test_a_folder_that_is_no_prepared_set_is_never_touched(city, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "manifest.json").write_text("not JSON")
    for out in (tmp_path / "photos", city):
        refused = run(city, out, "--patch-size", 32, "--force")
        assert refused.exit_code == 1 and "is not a prepared set" in refused.output


def test_the_number_of_workers_does_not_show(city, prepared, tmp_path):
    for workers in (1, 5):
        prepare(city, tmp_path / str(workers), SMALL, workers=workers)
        assert content_of(tmp_path / str(workers)) == content_of(prepared)


def test_an_archive_with_a_folder_around_the_tiles_is_the_same_set(city, prepared, tmp_path):
    shutil.copytree(city, tmp_path / "raw" / "Semantic segmentation dataset")
    prepare(tmp_path / "raw", tmp_path / "set", SMALL)
    assert content_of(tmp_path / "set") == content_of(prepared)


def spoil(raw):
    """Spoil a raw folder in every way there is; path -> what must be said about it."""
    one, two, three, four = (raw / f"Tile {number}" for number in range(1, 5))
    said = {}
    (one / "masks/image_part_001.png").unlink()
    said["Tile 1/images/image_part_001.jpg"] = "its mask is missing"
    (one / "images/image_part_002.jpg").unlink()
    said["Tile 1/masks/image_part_002.png"] = "its image is missing"
    for name, share in (("images/image_part_003.jpg", 2), ("masks/image_part_004.png", 2)):
        content = (one / name).read_bytes()
        (one / name).write_bytes(content[: len(content) // share])
        said[f"Tile 1/{name}"] = f"truncated {name[-3:].upper().replace('JPG', 'JPEG')}"
    content = (
        two / "images/image_part_001.jpg"
    ).read_bytes()  # a download that reserved its space and then broke off
    (two / "images/image_part_001.jpg").write_bytes(
        content[: len(content) // 2].ljust(len(content), b"\0")
    )
    said["Tile 2/images/image_part_001.jpg"] = "truncated JPEG"
    (two / "images/image_part_002.jpg").write_bytes(b"<html>")
    said["Tile 2/images/image_part_002.jpg"] = "not a JPEG file"
    (two / "masks/image_part_003.png").write_bytes(b"")
    said["Tile 2/masks/image_part_003.png"] = "empty file"
    content = bytearray((two / "masks/image_part_004.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (two / "masks/image_part_004.png").write_bytes(content)
    said["Tile 2/masks/image_part_004.png"] = "damaged PNG"
    mask = read(three / "masks/image_part_005.png")
    save(three / "masks/image_part_005.png", mask[:-1])
    height, width = mask.shape[:2]
    said["Tile 3/images/image_part_005.jpg"] = (
        f"{height}x{width} px, but its mask is {height - 1}x{width} px"
    )
    for kind, ending in (("images", ".jpg"), ("masks", ".png")):
        path = three / kind / f"image_part_006{ending}"
        save(path, read(path)[:20])
    said["Tile 3/images/image_part_006.jpg"] = "smaller than one 32 px patch; lower --patch-size"
    mask[3, 7:9] = (1, 2, 3)
    mask[4, 0] = COLORS[0] + 1
    save(
        four / "masks/image_part_001.png",
        np.resize(mask, read(four / "images/image_part_001.jpg").shape),
    )
    (four / "images/holiday.jpg").touch()
    said["Tile 4/images/holiday.jpg"] = "expected a name like image_part_001.jpg"
    (four / "images/.DS_Store").touch()  # what computers leave behind is no part
    mask = np.full_like(read(four / "masks/image_part_002.png"), COLORS[1])
    mask[3, 7:9] = (1, 2, 3)
    save(four / "masks/image_part_002.png", mask)
    said["Tile 4/masks/image_part_002.png"] = (
        "unknown colour #010203 on 2 px, first at row 3, column 7"
    )
    return said


def test_all_bad_files_are_told_at_once_before_anything_is_written(copy, tmp_path):
    said = spoil(copy)
    result = run(copy, tmp_path / "set", "--patch-size", 32)
    lines = [line.strip() for line in result.output.splitlines()]
    assert result.exit_code == 1
    for path, words in said.items():
        assert any(line.startswith(f"{path}: ") and words in line for line in lines), (
            path,
            words,
            result.output,
        )
    assert (
        f"{len(said) + 1} files cannot be used" in result.output
    )  # and Tile 4's first mask, of resized colours
    assert ".DS_Store" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_what_only_decoding_finds_and_odd_files_are_lines(copy, tmp_path):
    one, two = copy / "Tile 1", copy / "Tile 2"
    said = {}

    def spoiled(path, content, words):
        path.unlink()
        if content is None:
            os.mkfifo(path)
        else:
            path.write_bytes(content)
        said["/".join(path.parts[-3:])] = words

    jpegs = sorted((one / "images").iterdir())
    whole = [path.read_bytes() for path in jpegs]
    half = [len(content) // 2 for content in whole]
    spoiled(jpegs[0], whole[0][: half[0]] + b"\xff\xd9", "damaged JPEG")
    spoiled(jpegs[1], whole[1][: half[1]] + bytes(500) + whole[1][half[1] + 500 :], "damaged JPEG")
    spoiled(jpegs[2], whole[2][: half[2]] + bytes(2000) + whole[2][half[2] :], "damaged JPEG")
    spoiled(jpegs[3], None, "not a regular file")
    pngs = sorted((two / "masks").iterdir())
    spoiled(pngs[0], images.png_of_size(65000, 65000), "65000x65000 px, and an image may have")
    spoiled(pngs[1], pngs[1].read_bytes()[:20], "truncated PNG")
    spoiled(
        pngs[2],
        pngs[2].read_bytes()[:8] + pngs[2].read_bytes()[33:],
        "does not begin with a header",
    )
    result = run(copy, tmp_path / "set", "--patch-size", 32)
    assert result.exit_code == 1
    lines = [line.strip() for line in result.output.splitlines()]
    assert len(lines) == 1 + len(said)
    for path, words in said.items():
        assert any(line.startswith(f"{path}: ") and words in line for line in lines), (
            path,
            words,
            result.output,
        )


@pytest.mark.parametrize("name", ["tile 3", "Tile 03", "Tile3", "Tile ٣", "Tile  3", "TILE_3"])
def test_a_folder_spelled_almost_like_a_tile_is_a_line(copy, tmp_path, name):
    (copy / "Tile 3").rename(copy / name)
    result = run(copy, tmp_path / "set", "--patch-size", 32)
    assert result.exit_code == 1 and f"{name}: expected a name like 'Tile 3'" in result.output


def test_image_and_mask_are_taken_as_stored_whatever_the_orientation(copy, prepared, tmp_path):
    for path in copy.glob("Tile */images/*.jpg"):
        path.write_bytes(images.turned(path.read_bytes()))
    prepare(copy, tmp_path / "set", SMALL)
    for name in ("images.npy", "masks.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "set" / name), np.load(prepared / name))


def test_the_manifest_holds_the_checksums_of_the_files(prepared):
    files = json.loads((prepared / "manifest.json").read_text())["files"]
    assert files == {
        name: hashlib.sha256((prepared / name).read_bytes()).hexdigest() for name in FILES[:-1]
    }


def test_a_damaged_set_is_not_taken_for_a_prepared_one(city, tmp_path):
    out = tmp_path / "set"
    prepare(city, out, SMALL)
    before = content_of(out)
    (out / "masks.npy").write_bytes(before["masks.npy"][:-1])
    damaged = run(city, out, "--patch-size", 32)
    assert (
        damaged.exit_code == 1
        and f"{out / 'masks.npy'} is not the file that was prepared" in damaged.output
    )
    assert (
        run(city, out, "--patch-size", 32, "--force").exit_code == 0 and content_of(out) == before
    )


@pytest.mark.parametrize("size", [0, 60, 400, 20_000, 100_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(city, tmp_path, size):
    """Of the city: images.npy 885 kB, masks.npy 295 kB, patches.csv 24 kB, manifest.json 11 kB."""
    with images.largest_file(size):
        full = run(city, tmp_path / "set", "--patch-size", 32)
    assert full.exit_code == 1 and full.output.startswith(
        f"Error: cannot write {tmp_path / 'set'}: File too large"
    )
    assert full.output.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["_write_table", "write_text", "rename"])
def test_a_disk_that_fails_late_leaves_nothing(city, tmp_path, name, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        f"segmentation.prepared.{name}" if name.startswith("_") else f"pathlib.Path.{name}", full
    )
    result = run(city, tmp_path / "set", "--patch-size", 32)
    assert (
        result.exit_code == 1
        and "No space left on device" in result.output
        and result.output.count("\n") == 1
    )
    assert not list(tmp_path.iterdir())


def test_an_impossible_place_is_one_line_before_any_image_is_read(city, tmp_path, monkeypatch):
    monkeypatch.setattr("segmentation.prepare.find_parts", None)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "set", tmp_path / "file" / "a" / "b", tmp_path / ("x" * 300)):
        refused = run(city, out, "--patch-size", 32)
        assert refused.exit_code == 1 and refused.output.startswith(f"Error: cannot write {out}"), (
            refused.output
        )
        assert refused.output.count("\n") == 1
    refused = run(Path("x" * 300), tmp_path / "set")
    assert refused.exit_code == 1 and refused.output.startswith("Error: RAW cannot be xxx"), (
        refused.output
    )
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UserError, match=f"{tmp_path} is not writable"):
        prepare(city, tmp_path / "set", SMALL)


def test_unknown_colors_stop_or_are_ignored(copy, tmp_path):
    path = copy / "Tile 1/masks/image_part_001.png"
    mask = read(path)
    mask[0, :5] = (10, 20, 30)
    save(path, mask)
    with pytest.raises(
        BadFilesError,
        match=r"1 file cannot be used:\n  Tile 1/masks/image_part_001.png: .* #0A141E on 5 px",
    ):
        prepare(copy, tmp_path / "set", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    assert prepare(copy, tmp_path / "set", PrepareOptions(patch_size=32, on_unknown="ignore"))
    assert (np.load(tmp_path / "set" / "masks.npy")[0, 0, :5] == IGNORE).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scale", "5"], "--patch-size 256 is not a multiple of --scale 5"),
        (["--grid", "hexagons"], "'hexagons' is not one of"),
        (["--patch-size", "0"], "0 is not in the range"),
    ],
)
def test_bad_options_are_told_before_the_folder_is_looked_at(tmp_path, arguments, words):
    result = run(tmp_path / "nowhere", tmp_path / "set", *arguments)
    assert result.exit_code != 0 and words in result.output


def test_a_missing_or_empty_folder_says_the_way_out(tmp_path):
    assert (
        "nowhere does not exist; --download" in run(tmp_path / "nowhere", tmp_path / "set").output
    )
    (tmp_path / "empty").mkdir()
    assert "holds no folder named 'Tile 1'" in run(tmp_path / "empty", tmp_path / "set").output
    (tmp_path / "hollow/Tile 1/images").mkdir(parents=True)
    (tmp_path / "hollow/Tile 1/masks").mkdir()
    assert "no image in any of them" in run(tmp_path / "hollow", tmp_path / "set").output


def test_a_failed_download_is_one_plain_message(tmp_path, monkeypatch):
    class NoKaggle:
        @staticmethod
        def dataset_download(handle, output_dir):
            raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "kagglehub", NoKaggle)
    result = run(tmp_path / "raw", tmp_path / "set", "--download")
    assert (
        result.exit_code == 1
        and "could not download the data set: no route to host" in result.output
    )
    assert (
        "kaggle.com/datasets/humansintheloop" in result.output and "Traceback" not in result.output
    )


def test_two_runs_at_once_do_not_mix(city, tmp_path):
    (tmp_path / ".set.partial").mkdir()
    lock = os.open(tmp_path / ".set.partial", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert "another process is writing" in run(city, tmp_path / "set", "--patch-size", 32).output
    os.close(lock)
    assert run(city, tmp_path / "set", "--patch-size", 32).exit_code == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from segmentation import prepare, prepared
name, calls = sys.argv[3], int(sys.argv[4])
owner = next(owner for owner in (prepared, prepared.ArrayWriter, Path) if hasattr(owner, name))
original = getattr(owner, name)
def deadly(*arguments, **keywords):
    global calls
    calls -= 1
    if calls < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **keywords)
setattr(owner, name, deadly)
options = prepared.PrepareOptions(patch_size=32)
prepare.prepare(Path(sys.argv[1]), Path(sys.argv[2]), options, force=len(sys.argv) > 5)
"""


@pytest.mark.parametrize(
    ("where", "calls"),
    [
        ("write_rows", 0),
        ("write_rows", 30),
        ("_write_table", 0),
        ("_counts", 0),
        ("write_text", 0),
        ("rename", 0),
    ],
)
def test_kill_leaves_no_half_set_and_the_next_run_makes_the_same(
    city, prepared, tmp_path, where, calls
):
    out = tmp_path / "set"
    command = [sys.executable, "-c", KILLED, str(city), str(out), where, str(calls)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert not out.exists() and (tmp_path / ".set.partial").exists()
    prepare(city, out, SMALL)
    assert content_of(out) == content_of(prepared)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("calls", [0, 1])
def test_kill_while_replacing_leaves_a_whole_set_or_none(city, prepared, tmp_path, calls):
    out = tmp_path / "set"
    prepare(city, out, PrepareOptions(patch_size=32, grid="crop"))
    command = [sys.executable, "-c", KILLED, str(city), str(out), "rename", str(calls), "force"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert out.exists() == (calls == 0)
    prepare(city, out, SMALL, force=True)
    assert content_of(out) == content_of(prepared)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_real_set_gives_1305_patches_and_its_class_totals(real_set, tmp_path):
    command = [
        sys.executable,
        "-m",
        "segmentation.prepare",
        real_set,
        tmp_path / "set",
        "--grid",
        "crop",
        "--scale",
        "4",
    ]
    # From a small process in between: a child's peak memory counts from what its parent held when it was forked.
    watch = "import resource as r, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
    watch += "print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run(
        [sys.executable, "-c", watch, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 1024 * 1024  # KiB: peak memory stays under 1 GiB
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["patches"]["total"] == 1305 and manifest["pixels"]["raw"] == REAL_PIXELS
    assert np.load(tmp_path / "set" / "images.npy", mmap_mode="r").shape == (1305, 64, 64, 3)
    assert manifest["split"]["overlapping"] == [[1, 3], [4, 7, 8]]
    assert manifest["split"]["tiles"] == {"train": [4, 5, 7, 8], "val": [1, 3], "test": [2, 6]}
    assert all(manifest["pixels"]["train"][name] > 0 for name in CLASSES)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == sorted(FILES)

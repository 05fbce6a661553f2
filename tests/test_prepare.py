"""The command `segmentation.prepare`: what it writes, what it refuses, and its messages."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import damaged_images as images
import numpy as np
import pytest
from prepare_helpers import SMALL, contents, read_image, read_table, run_prepare, write_image
from project_helpers import ROOT

from segmentation import overview
from segmentation.errors import UserError
from segmentation.labels import CLASSES, COLORS
from segmentation.prepare import prepare
from segmentation.prepared import DATA_FILES, FILES, PreparedSet, PrepareOptions
from segmentation.splits import OVERLAPPING, SPLITS

# Pixels of the 72 masks of the Dubai set, counted with np.unique over their packed colours.
REAL_PIXELS = {
    "Building": 13_177_546,
    "Land": 51_850_363,
    "Road": 9_261_912,
    "Vegetation": 10_206_379,
    "Water": 13_482_196,
    "Unlabeled": 501_691,
    "ignore": 552_156,
}


def test_tiles_that_show_the_same_ground_are_in_one_split(city_set):
    split_of = {}
    for row in read_table(city_set):
        split_of.setdefault(int(row["tile"]), set()).add(row["split"])
    assert all(len(names) == 1 for names in split_of.values())
    for group in OVERLAPPING:
        assert len(set().union(*(split_of.get(tile, set()) for tile in group))) <= 1


def test_random_split_is_marked_as_leaking(city, tmp_path):
    prepare(city, tmp_path / "set", PrepareOptions(patch_size=32, split="random"))
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["leaks"] is True and manifest["patches"]["test"] == 0
    assert manifest["patches"]["val"] == -(-manifest["patches"]["total"] // 5)


def test_the_default_splits_written_as_lists_give_the_same_patches(city, city_set, tmp_path):
    tiles = json.loads((city_set / "manifest.json").read_text())["split"]["tiles"]
    lists = [(f"--{split}", ",".join(map(str, tiles[split]))) for split in SPLITS]
    options = [word for pair in lists for word in pair]
    made = run_prepare(city, tmp_path / "set", "--patch-size", 32, *options)
    assert made.exit_code == 0 and "left out" not in made.output
    for name in DATA_FILES:
        assert contents(tmp_path / "set")[name] == contents(city_set)[name]
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["options"]["split"] == "/".join(text for _, text in lists)
    assert manifest["leaks"] is False and "left_out" not in manifest["split"]
    PreparedSet.open(tmp_path / "set")


def test_tiles_in_no_list_are_left_out_and_val_may_be_empty(city, city_set, tmp_path):
    made = run_prepare(city, tmp_path / "set", "--patch-size", 32, "--train", "4, 1", "--test", "2")
    assert made.exit_code == 0 and "left out, because no list names them: tiles 3\n" in made.output
    prepared = PreparedSet.open(tmp_path / "set")
    split = prepared.manifest["split"]
    assert split["tiles"] == {"train": [1, 4], "val": [], "test": [2]} and split["left_out"] == [3]
    assert not any("Tile 3" in name for name in prepared.manifest["sources"])
    whole = PreparedSet.open(city_set)
    kept = whole.indices_of([1, 2, 4])
    np.testing.assert_array_equal(prepared.images, whole.images[kept])
    np.testing.assert_array_equal(prepared.masks, whole.masks[kept])
    again = run_prepare(city, tmp_path / "set", "--patch-size", 32, "--train", "1,4", "--test", "2")
    assert again.exit_code == 0 and "already prepared" in again.output
    other = run_prepare(city, tmp_path / "set", "--patch-size", 32)
    assert "was prepared with --train 1,4 --test 2; name another folder" in other.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "1,9", "--val", "2"], "has no tile 9; name tiles that it has: 1, 2, 3, 4"),
        (["--train", "1", "--test", "12,2,11"], "has no tile 11, 12; name tiles"),
        (["--train", "1", "--val", "3"], "tiles 1 (--train), 3 (--val) show the same ground"),
        (["--val", "3"], "--val 3 needs --train"),
        (["--train", "1", "--val", "2", "--split", "random"], "combined with --train 1 --val 2;"),
        (["--mosaics", "--split", "random"], "--mosaics cannot be combined with --split random"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_before_any_pixel_is_decoded(
    city, tmp_path, arguments, message, monkeypatch
):
    monkeypatch.setattr("segmentation.convert.decode", None)
    refused = run_prepare(city, tmp_path / "set", "--patch-size", 32, *arguments)
    assert refused.exit_code == 1 and message in refused.output, refused.output
    assert refused.output.count("\n") == 1 and not list(tmp_path.iterdir())


def test_training_tiles_without_a_class_leave_no_set(city_copy, tmp_path):
    for path in (city_copy / "Tile 2/masks").iterdir():
        write_image(path, np.full_like(read_image(path), COLORS[0]))
    lists = ["--train", "2", "--val", "4"]
    refused = run_prepare(city_copy, tmp_path / "set", "--patch-size", 32, *lists)
    assert refused.exit_code == 1 and "tiles 2 of --train show no Land, Road," in refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_second_run_changes_nothing_and_reports_that(city, city_set):
    before = {path: path.stat().st_mtime_ns for path in city_set.iterdir()}
    again = run_prepare(city, city_set, "--patch-size", 32)
    assert again.exit_code == 0 and "already prepared, nothing to do" in again.output
    assert before == {path: path.stat().st_mtime_ns for path in city_set.iterdir()}


def test_a_set_of_other_options_or_files_is_replaced_only_with_force(city_copy, tmp_path):
    out = tmp_path / "set"
    prepare(city_copy, out, SMALL)
    before = contents(out)
    other = run_prepare(city_copy, out, "--patch-size", 32, "--grid", "crop")
    assert (
        other.exit_code == 1
        and "was prepared with --grid cover; name another folder" in other.output
    )
    shutil.copy(
        city_copy / "Tile 1/images/image_part_001.jpg",
        city_copy / "Tile 1/images/image_part_004.jpg",
    )
    shutil.copy(
        city_copy / "Tile 1/masks/image_part_001.png", city_copy / "Tile 1/masks/image_part_004.png"
    )
    changed = run_prepare(city_copy, out, "--patch-size", 32)
    assert (
        changed.exit_code == 1
        and "from other files" in changed.output
        and "--force" in changed.output
    )
    assert contents(out) == before
    forced = run_prepare(city_copy, out, "--patch-size", 32, "--grid", "crop", "--force")
    assert forced.exit_code == 0 and contents(out) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "set"]


def test_a_folder_that_is_not_a_prepared_set_is_never_replaced(city, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "manifest.json").write_text("not JSON")
    for out in (tmp_path / "photos", city):
        refused = run_prepare(city, out, "--patch-size", 32, "--force")
        assert refused.exit_code == 1 and "is not a prepared set" in refused.output


def test_a_damaged_set_is_an_error_until_force_replaces_it(city, tmp_path):
    out = tmp_path / "set"
    prepare(city, out, SMALL)
    before = contents(out)
    (out / "masks.npy").write_bytes(before["masks.npy"][:-1])
    damaged = run_prepare(city, out, "--patch-size", 32)
    assert (
        damaged.exit_code == 1
        and f"{out / 'masks.npy'} is not the file that was prepared" in damaged.output
    )
    assert run_prepare(city, out, "--patch-size", 32, "--force").exit_code == 0
    assert contents(out).items() >= before.items()


@pytest.mark.parametrize("size", [0, 60, 400, 20_000, 100_000])
def test_a_full_disk_is_one_line_of_error_and_leaves_nothing(city, tmp_path, size):
    """The set has images.npy 885 kB, masks.npy 295 kB, patches.csv 24 kB, manifest.json 11 kB."""
    with images.largest_file(size):
        full = run_prepare(city, tmp_path / "set", "--patch-size", 32)
    assert full.exit_code == 1 and full.output.startswith(
        f"Error: cannot write {tmp_path / 'set'}: File too large"
    )
    assert full.output.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["_write_table", "write_text", "rename"])
def test_a_disk_that_is_full_after_the_arrays_leaves_nothing(city, tmp_path, name, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        f"segmentation.prepared.{name}" if name.startswith("_") else f"pathlib.Path.{name}", full
    )
    result = run_prepare(city, tmp_path / "set", "--patch-size", 32)
    assert (
        result.exit_code == 1
        and "No space left on device" in result.output
        and result.output.count("\n") == 1
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error_before_any_image_is_read(
    city, tmp_path, monkeypatch
):
    monkeypatch.setattr("segmentation.prepare.find_parts", None)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "set", tmp_path / "file" / "a" / "b", tmp_path / ("x" * 300)):
        refused = run_prepare(city, out, "--patch-size", 32)
        assert refused.exit_code == 1 and refused.output.startswith(f"Error: cannot write {out}"), (
            refused.output
        )
        assert refused.output.count("\n") == 1
    refused = run_prepare(Path("x" * 300), tmp_path / "set")
    assert refused.exit_code == 1 and refused.output.startswith("Error: RAW cannot be xxx"), (
        refused.output
    )
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UserError, match=f"{tmp_path} is not writable"):
        prepare(city, tmp_path / "set", SMALL)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scale", "5"], "--patch-size 256 is not a multiple of --scale 5"),
        (["--grid", "hexagons"], "'hexagons' is not one of"),
        (["--patch-size", "0"], "0 is not in the range"),
    ],
)
def test_bad_options_are_errors_before_the_folder_is_read(tmp_path, arguments, words):
    result = run_prepare(tmp_path / "nowhere", tmp_path / "set", *arguments)
    assert result.exit_code != 0 and words in result.output


def test_the_error_for_a_missing_or_empty_folder_says_what_to_do(tmp_path):
    assert (
        "nowhere does not exist; --download"
        in run_prepare(tmp_path / "nowhere", tmp_path / "set").output
    )
    (tmp_path / "empty").mkdir()
    assert (
        "holds no folder named 'Tile 1'" in run_prepare(tmp_path / "empty", tmp_path / "set").output
    )
    (tmp_path / "hollow/Tile 1/images").mkdir(parents=True)
    (tmp_path / "hollow/Tile 1/masks").mkdir()
    assert "no image in any of them" in run_prepare(tmp_path / "hollow", tmp_path / "set").output


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_the_real_set_gives_1305_patches_and_its_class_totals(real_set, tmp_path):
    module = [sys.executable, "-m", "segmentation.prepare"]
    command = [*module, str(real_set), str(tmp_path / "set"), "--grid", "crop", "--scale", "4"]
    # A small process starts the command: the peak memory of a child includes the memory that its
    # parent had when it forked.
    measure = [sys.executable, "-c", MEASURE, *command]
    done = subprocess.run(measure, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1024 * 1024  # KiB: peak memory stays under 1 GiB
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["patches"]["total"] == 1305 and manifest["pixels"]["raw"] == REAL_PIXELS
    assert np.load(tmp_path / "set" / "images.npy", mmap_mode="r").shape == (1305, 64, 64, 3)
    assert manifest["split"]["overlapping"] == [[1, 3], [4, 7, 8]]
    assert manifest["split"]["tiles"] == {"train": [4, 5, 7, 8], "val": [1, 3], "test": [2, 6]}
    assert all(manifest["pixels"]["train"][name] > 0 for name in CLASSES)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == sorted(
        [*FILES, overview.FILE]
    )

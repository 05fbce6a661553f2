"""overview.py: the picture and the table of a prepared set, and that the set stays as it was."""

import shutil

import matplotlib as mpl
import numpy as np
import pytest
from prepare_helpers import contents, read_table, run_prepare

from segmentation import overview
from segmentation.errors import UserError
from segmentation.labels import VALUES
from segmentation.prepare import prepare
from segmentation.prepared import FILES, PreparedSet, PrepareOptions
from segmentation.splits import SPLITS


@pytest.fixture
def copied(city_set, tmp_path):
    return PreparedSet.open(shutil.copytree(city_set, tmp_path / "set"))


def test_the_picture_changes_no_file_of_the_set_and_is_always_the_same(copied, monkeypatch):
    before = contents(copied.folder)
    first = overview.write(copied).read_bytes()
    after = contents(copied.folder)
    assert after.pop("overview.png") == first and after == before
    PreparedSet.open(copied.folder)
    monkeypatch.setitem(mpl.rcParams, "font.size", 20.0)
    monkeypatch.setitem(mpl.rcParams, "axes.facecolor", "red")
    assert overview.write(copied).read_bytes() == first
    assert mpl.rcParams["font.size"] == 20.0  # of the caller, and kept


def test_prepare_writes_the_picture_and_prints_shares_and_the_next_command(city, tmp_path):
    out = tmp_path / "my set"
    said = run_prepare(city, out, "--patch-size", 32)
    assert said.exit_code == 0, said.output
    assert sorted(contents(out)) == sorted([*FILES, overview.FILE])
    assert said.output.endswith(f"next: python train.py --data '{out}'\n")
    prepared = PreparedSet.open(out)
    assert overview.share_table(prepared.manifest["split"]["shares"]) in said.output
    (out / overview.FILE).unlink()
    older = run_prepare(city, out, "--patch-size", 32)
    assert older.exit_code == 0 and "already prepared, nothing to do" in older.output
    assert "share of pixels" not in older.output and sorted(contents(out)) == sorted(FILES)


def test_the_table_holds_the_shares_of_the_masks(city_set):
    prepared = PreparedSet.open(city_set)
    header, *lines = overview.share_table(prepared.manifest["split"]["shares"]).splitlines()
    assert header.split()[-3:] == list(SPLITS) and len(lines) == len(VALUES)
    for column, split in enumerate(SPLITS):
        masks = prepared.masks[prepared.indices(split)]
        for line, value in zip(lines, VALUES, strict=True):
            shown = float(line.replace("not annotated", "-").split()[1::2][column])
            assert shown == pytest.approx(100 * np.mean(masks == value), abs=0.0051)


def test_a_split_without_patches_has_no_column(city, tmp_path):
    prepare(city, tmp_path / "set", PrepareOptions(patch_size=32, split="1,4/2/"))
    prepared = PreparedSet.open(tmp_path / "set")
    table = overview.share_table(prepared.manifest["split"]["shares"])
    assert table.splitlines()[0].split()[-2:] == ["train", "val"]
    assert overview.write(prepared).is_file()


@pytest.mark.parametrize("grid", ["cover", "crop"])
def test_the_map_has_one_square_per_patch_in_the_order_of_the_ground(city, tmp_path, grid):
    prepare(city, tmp_path / "set", PrepareOptions(patch_size=32, grid=grid, split="random"))
    rows = read_table(tmp_path / "set")
    found = list(overview.blocks(rows))
    assert [block.tile for block in found] == [1, 2, 3, 4]
    for block in found:
        mine = [row for row in rows if int(row["tile"]) == block.tile]
        assert block.splits == [row["split"] for row in mine]
        assert len(np.unique(block.corners, axis=0)) == len(mine)
        assert (block.corners >= 0).all()
        np.testing.assert_allclose(block.corners.max(axis=0) + 1, (block.width, block.height))
        for axis, (key, band) in enumerate(
            (("column", lambda p: p % 3), ("row", lambda p: p // 3))
        ):
            ground = [(band(int(row["part"]) - 1), int(row[key])) for row in mine]
            for one, place in zip(ground, block.corners[:, axis], strict=True):
                same = {x for x, y in zip(block.corners[:, axis], ground, strict=True) if y == one}
                assert same == {place}
            order = np.argsort(block.corners[:, axis], kind="stable")
            assert [ground[i] for i in order] == sorted(ground)


def test_no_two_tiles_of_the_map_overlap(city_set):
    block = next(overview.blocks(read_table(city_set)))
    found = [
        block._replace(tile=i, width=float(1 + i % 7), height=float(1 + 4 * (i % 5)))
        for i in range(300)
    ]
    corners, height, width = overview._shelves(found)
    taken = np.zeros((round(10 * height) + 1, round(10 * width) + 1), int)
    for (x, y), one in zip(corners, found, strict=True):
        rows = slice(round(10 * y), round(10 * (y + one.height)))
        taken[rows, round(10 * x) : round(10 * (x + one.width))] += 1
    assert taken.max() == 1 and taken.sum() == sum(100 * b.width * b.height for b in found)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0001, "<0.01"), (0.35, "0.35"), (3.04, "3.0"), (9.7, "9.7"), (54.95, "55")],
)
def test_a_percentage_that_is_not_zero_does_not_look_like_zero(value, text):
    assert overview._percent(value) == text


def test_a_folder_that_cannot_be_written_is_a_user_error_and_nothing_is_left(copied, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        overview.write(copied)
    assert sorted(contents(copied.folder)) == sorted(FILES)

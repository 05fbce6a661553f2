"""Whole images: blending, shrinking, every size; panels chosen as by brute force.

No Keras: models are functions here.
"""

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import damaged_images as images
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import best_run, blending, predict, reader, trained
from analysis.results import Results, save
from analysis.runs import Run, Sweep
from analysis.trained import Weights
from segmentation import tiling
from segmentation.errors import UserError
from segmentation.labels import COLORS, NUM_CLASSES, encode
from segmentation.model_facts import ModelFacts

SIZE = 16


def by_color(patches: np.ndarray) -> np.ndarray:
    """A model that looks at a single pixel: the softmax of its first six sums of channels."""
    values = (
        patches.astype(np.float32)
        @ np.linspace(-1, 1, 3 * NUM_CLASSES, dtype=np.float32).reshape(3, NUM_CLASSES)
        / 64
    )
    exponents = np.exp(values - values.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


@settings(max_examples=60)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 99))
def test_blending_does_not_change_a_model_of_single_pixels_at_any_image_size(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    whole = np.concatenate(list(blending.blend(image, SIZE, by_color)))
    assert whole.shape == (height, width, NUM_CLASSES)
    np.testing.assert_allclose(whole, by_color(image[None])[0], atol=1e-5)


def test_pixels_covered_by_one_patch_have_its_prediction(random):
    image = random.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    noise = random.dirichlet(np.ones(NUM_CLASSES), (SIZE, SIZE)).astype(np.float32)
    whole = np.concatenate(
        list(blending.blend(image, SIZE, lambda patches: np.tile(noise, (len(patches), 1, 1, 1))))
    )
    half = SIZE // 2
    np.testing.assert_allclose(whole[:half, :half], noise[:half, :half], atol=1e-6)
    np.testing.assert_allclose(whole[-half:, -half:], noise[-half:, -half:], atol=1e-6)
    alone = np.concatenate(
        list(blending.blend(image[:SIZE, :SIZE], SIZE, lambda patches: noise[None]))
    )
    np.testing.assert_allclose(alone, noise, atol=1e-6)


def test_a_constant_image_has_no_seams():
    size = 64
    ramp = np.add.outer(np.arange(size), np.arange(size)).astype(np.float32) / (
        2 * size
    )  # answers differ most between borders

    def by_border(patches: np.ndarray) -> np.ndarray:
        return np.stack([np.stack([ramp, 1 - ramp], axis=-1)] * len(patches))

    blended = np.concatenate(
        list(blending.blend(np.full((200, 260, 3), 120, np.uint8), size, by_border))
    )[..., 0]
    inside = blended[
        size:-size, size:-size
    ]  # away from the image's own border, which no second patch sees
    steps = max(np.abs(np.diff(inside, axis=axis)).max() for axis in (0, 1))
    seams = np.abs(
        np.diff(np.tile(ramp, (2, 2)), axis=0)
    ).max()  # of the same patches laid side by side
    assert steps < 2 / size < 0.45 < seams


def test_bands_have_as_many_rows_as_the_image():
    for height in (1, 15, 16, 17, 24, 31, 32, 33, 100):
        bands = list(blending.blend(np.zeros((height, 20, 3), np.uint8), SIZE, by_color))
        assert sum(len(band) for band in bands) == height


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_images_are_shrunk_as_in_the_prepared_set(scale, random):
    images = random.integers(0, 256, (3, 12 * scale, 8 * scale, 3), dtype=np.uint8)
    for image, witness in zip(images, tiling.shrink_images(images, scale), strict=True):
        np.testing.assert_array_equal(blending.shrink(image, scale), witness)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 1), (5, 7), (16, 16), (33, 50)])
@pytest.mark.parametrize("scale", [1, 4])
def test_mask_and_overlay_have_the_size_of_the_image_and_areas_count_the_mask(
    shape, scale, tmp_path, random
):
    image = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    section = predict.make(image, "x", tmp_path, SIZE, by_color, scale)
    section.write()
    mask = encode(predict.read(tmp_path / "x_mask.png"))
    assert mask.shape == predict.read(tmp_path / "x_overlay.png").shape[:2] == shape
    counted = dict(zip(*np.unique(mask, return_counts=True), strict=True))
    assert [row[2] for row in section.tables[0].rows] == [
        counted.get(i, 0) for i in range(NUM_CLASSES)
    ]
    assert sum(row[3] for row in section.tables[0].rows) == pytest.approx(1)


def test_an_image_is_read_as_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), COLORS[None, :, ::-1])
    np.testing.assert_array_equal(predict.read(tmp_path / "a.png")[0], COLORS)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\nhalf", "truncated"),
        (b"x", "not an image"),
    ],
)
def test_a_file_that_is_no_image_is_a_user_error(content, word, tmp_path):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=word):
        predict.read(tmp_path / "a.png")


@pytest.mark.parametrize("weights", ["nothing.keras", "nowhere", "a/b"])
def test_missing_weights_are_an_error_of_one_line(weights, tmp_path):
    said = CliRunner().invoke(predict.main, ["a.png", "--weights", weights, "--out", str(tmp_path)])
    assert said.exit_code == 1
    assert said.output.startswith("Error: ")
    assert said.output.count("\n") == 1


def test_bad_images_are_one_line_each_and_the_others_are_predicted(tmp_path, monkeypatch, random):
    content = images.jpeg(random.integers(0, 256, (64, 48, 3), dtype=np.uint8))
    half = len(content) // 2
    files = {
        "cut.jpg": content[:half] + b"\xff\xd9",
        "huge.png": images.png_of_size(65000, 65000),
        "short.png": images.png_of_size(8, 8)[:20],
        "turned.jpg": images.turned(content),
        "zeros.jpg": content[:half] + bytes(200) + content[half + 200 :],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.setattr(predict.trained, "find", lambda *_: Weights(tmp_path / "x.keras", 1))
    monkeypatch.setattr(predict.trained, "open_model", lambda _: (by_color, SIZE))
    bad = ["cut.jpg", "huge.png", "short.png", "zeros.jpg", "pipe.jpg"]
    names = [str(tmp_path / name) for name in (*bad, "turned.jpg")]
    said = CliRunner().invoke(
        predict.main, [*names, "--weights", "x", "--out", str(tmp_path / "out")]
    )
    assert said.exit_code == 1 and "5 of 6 images could not be predicted" in said.stderr
    assert [line.split(":")[0] for line in said.stderr.splitlines()[:-1]] == names[:-1]
    mask = cv2.imread(str(tmp_path / "out" / "turned_mask.png"))
    assert mask.shape[:2] == (64, 48)  # the pixels of the file, whatever its EXIF orientation


def test_a_full_disk_and_an_impossible_folder_are_an_error_of_one_line(
    tmp_path, monkeypatch, random
):
    (tmp_path / "a.png").write_bytes(
        cv2.imencode(".png", random.integers(0, 256, (90, 90, 3), dtype=np.uint8))[1].tobytes()
    )
    monkeypatch.setattr(predict.trained, "find", lambda *_: Weights(tmp_path / "x.keras", 1))
    monkeypatch.setattr(predict.trained, "open_model", lambda _: (by_color, SIZE))
    command = [str(tmp_path / "a.png"), "--weights", "x", "--out"]
    for out in (tmp_path / "a.png" / "out", tmp_path / ("x" * 300)):
        said = CliRunner().invoke(predict.main, [*command, str(out)])
        assert said.exit_code == 1 and said.output.startswith(f"Error: cannot write {out}"), (
            said.output
        )
    with images.largest_file(60):
        said = CliRunner().invoke(predict.main, [*command, str(tmp_path / "full")])
    assert (
        said.exit_code == 1 and f"cannot write {tmp_path / 'full'}: File too large" in said.output
    )
    assert not list((tmp_path / "full").iterdir())


def test_images_with_the_same_file_name_have_different_results(tmp_path):
    parts = [tmp_path / f"Tile {tile}" / "images" / "image_part_001.jpg" for tile in (1, 2)]
    assert predict.names(parts[:1]) == ["image_part_001"]
    assert predict.names(parts) == ["Tile_1_images_image_part_001", "Tile_2_images_image_part_001"]


def test_several_models_are_averaged_and_must_have_one_scale(tmp_path, monkeypatch, random):
    image = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    always = {
        name: lambda patches, label=label, sure=sure: np.broadcast_to(
            np.eye(NUM_CLASSES, dtype=np.float32)[label] * sure, (*patches.shape[:3], NUM_CLASSES)
        )
        for name, label, sure in (("low", 1, 0.5), ("high", 2, 1.0))
    }
    scales = {"low": 1, "high": 1}
    monkeypatch.setattr(predict.trained, "find", lambda n, *_: Weights(tmp_path / n, scales[n]))
    monkeypatch.setattr(predict.trained, "open_model", lambda file: (always[file.name], SIZE))
    command = [str(tmp_path / "a.png"), "--weights", "low", "--weights", "high", "--tta"]
    said = CliRunner().invoke(predict.main, [*command, "--out", str(tmp_path / "out")])
    assert said.exit_code == 0, said.output
    assert (encode(predict.read(tmp_path / "out" / "a_mask.png")) == 2).all()
    scales["high"] = 4
    said = CliRunner().invoke(predict.main, [*command, "--out", str(tmp_path / "out")])
    assert said.exit_code == 1 and "trained at the scales 1, 4" in said.output


def by_red(patches: np.ndarray) -> np.ndarray:
    """A model that predicts a class for each sixth of the range of red."""
    return np.eye(NUM_CLASSES, dtype=np.float32)[patches[..., 0] // 43]


FACTS = ModelFacts(scale=4, size=SIZE, checksum="c", split="tiles", epoch=3)


@pytest.fixture
def sources(tmp_path, monkeypatch) -> dict[str, str]:
    """Kind of --weights -> its name, for one model that was trained on images shrunk by 4."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "ab12"
    folder.mkdir(parents=True)
    history = [{"epoch": 3, "loss": 0.1, "val_loss": 0.1, "best_val_loss": 0.1}]
    files = {role: f"{role}-00001.keras" for role in ("last", "best")}
    state = {"identity": {"data": "c"}, "rows": [history[0] | {"epoch": 1}], "files": files}
    (folder / "state.json").write_text(json.dumps(state))
    for name in files.values():
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("config.json", "{}")
        FACTS.write(folder / name)
    file = folder / files["best"]
    run = Run("ab12", history=history, config={"data": {"checksum": "c"}})
    results = Results(tmp_path / "results", *_choice_of(run))
    save(results.choice, results.sweep, results.folder)
    monkeypatch.setattr(reader, "read_run", lambda _: run)
    monkeypatch.setattr(reader, "read_maker", lambda _: (run, "v0"))
    monkeypatch.setattr(reader, "download", lambda *_: file)
    monkeypatch.setattr(trained, "open_model", lambda _: (by_red, None))
    return {
        "results folder": "results",
        ".keras file": str(file),
        "checkpoint": "runs/ab12",
        "run in W&B": "me/city/ab12",
        "artifact in W&B": "me/city/model:v0",
    }


def _choice_of(run: Run):
    sweep = Sweep("me/city/s", config={"method": "grid"}, runs=(run,))
    return best_run.choose(sweep), sweep


KINDS = ("results folder", ".keras file", "checkpoint", "run in W&B", "artifact in W&B")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_weights_predicts_at_the_scale_of_its_training(
    sources, kind, tmp_path, random
):
    image = random.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    cv2.imwrite("a.png", image[..., ::-1])
    said = CliRunner().invoke(predict.main, ["a.png", "--weights", sources[kind], "--out", "out"])
    assert said.exit_code == 0 and said.stderr == "", said.output
    assert f"epoch 3, scale 4, patches of {SIZE} px" in said.output
    expected = predict.segment(image, SIZE, by_red, 4)
    np.testing.assert_array_equal(encode(predict.read(Path("out/a_mask.png"))), expected)
    assert (expected != predict.segment(image, SIZE, by_red, 1)).any()  # so that it would show


def test_another_scale_than_that_of_the_training_is_warned_about(sources, random):
    cv2.imwrite("a.png", random.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    arguments = ["a.png", "--weights", sources[".keras file"], "--out", "out"]
    said = CliRunner().invoke(predict.main, [*arguments, "--scale", "2"])
    assert said.exit_code == 0
    assert "was trained on images shrunk by 4, and these are shrunk by 2" in said.stderr
    assert "use --scale 4" in said.stderr
    assert CliRunner().invoke(predict.main, [*arguments, "--scale", "4"]).stderr == ""


def test_a_file_without_facts_is_used_at_scale_1_with_a_warning(sources, random):
    cv2.imwrite("a.png", random.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    with zipfile.ZipFile("old.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    arguments = ["a.png", "--weights", "old.keras", "--out", "out"]
    said = CliRunner().invoke(predict.main, arguments)
    assert said.exit_code == 0 and "epoch unknown, scale unknown" in said.output
    assert "old.keras does not say at which scale it was trained, and 1 is used" in said.stderr
    assert CliRunner().invoke(predict.main, [*arguments, "--scale", "4"]).stderr == ""


def test_a_model_of_other_classes_is_refused(tmp_path):
    file = tmp_path / "other.keras"
    replace(FACTS, classes=("Sky", "Ground")).write(file)
    with pytest.raises(UserError, match="predicts the classes Sky, Ground"):
        trained.find(str(file), "best", tmp_path, tmp_path)


def test_a_figure_with_a_legend_lies_beside_the_map(tmp_path, random):
    image = random.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    section = predict.make(image, "x", tmp_path, SIZE, by_red, 4)
    assert section.pictures[0].file == tmp_path / "x_figure.png"
    assert "predicted at 1/4 of the resolution" in section.pictures[0].caption
    height, width = predict.read(tmp_path / "x_figure.png").shape[:2]
    assert width > 1000 and height > 200

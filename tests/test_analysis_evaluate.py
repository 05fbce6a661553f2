"""Scores per place and pooled, averages over symmetries and models, and the two commands.

No Keras: models are functions here.
"""

import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import accuracy_score, jaccard_score

from analysis import annotators, blending, evaluate, evaluations, linear, references, trained
from segmentation import metrics
from segmentation.errors import UserError
from segmentation.labels import CLASSES, IGNORE, NUM_CLASSES
from segmentation.prepared import Mosaic, PreparedSet
from segmentation.sources import find_parts

SIZE = 16
CITY = [1, 2, 3, 4]


def by_position(patches: np.ndarray) -> np.ndarray:
    """A model that depends on colour, on neighbours and on the place in the patch."""
    height = patches.shape[1]
    values = patches.astype(np.float32) @ np.arange(18, dtype=np.float32).reshape(3, 6) / 999
    values += (
        np.roll(values, 1, axis=2) * np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    )
    exponents = np.exp(values - values.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def by_pixel(patches: np.ndarray) -> np.ndarray:
    """A model of single pixels: one-hot; the class is red modulo the number of classes."""
    return np.eye(NUM_CLASSES, dtype=np.float32)[patches[..., 0] % NUM_CLASSES]


@pytest.fixture(scope="module")
def prepared(city_set) -> PreparedSet:
    return PreparedSet.open(city_set)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("step", [1, -1])
def test_the_mean_over_symmetries_turns_with_the_image(turns, step, random):
    patches = random.integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    model = blending.with_symmetries(by_position)

    def turn(arrays):
        return np.rot90(arrays, turns, axes=(1, 2))[:, :, ::step]

    np.testing.assert_allclose(model(turn(patches)), turn(model(patches)), atol=1e-6)
    moved = np.abs(by_position(turn(patches)) - turn(by_position(patches))).max()
    assert moved > 0.01 or (turns, step) == (0, 1)  # the model itself is not symmetric


def test_a_symmetric_model_is_unchanged_by_the_mean_over_symmetries(random):
    patches = random.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(blending.with_symmetries(by_pixel)(patches), by_pixel(patches))


def test_the_mean_of_models_is_the_mean_of_their_probabilities(random):
    patches = random.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    mean = blending.mean_of([by_pixel, by_position])(patches)
    np.testing.assert_allclose(mean, (by_pixel(patches) + by_position(patches)) / 2, atol=1e-6)
    np.testing.assert_array_equal(blending.mean_of([by_pixel])(patches), by_pixel(patches))


def test_pooled_scores_are_those_of_the_concatenated_pixels(prepared):
    confusions = evaluations.evaluate([by_pixel], prepared, CITY)
    assert list(confusions) == prepared.places == [(1, 3), (2,), (4,)]
    pooled = sum(confusions.values())
    labelled = prepared.masks != IGNORE
    truth, predicted = prepared.masks[labelled], by_pixel(prepared.images).argmax(-1)[labelled]
    expected = jaccard_score(truth, predicted, labels=range(NUM_CLASSES), average=None)
    np.testing.assert_allclose(metrics.iou(pooled), expected)
    assert metrics.accuracy(pooled) == pytest.approx(accuracy_score(truth, predicted))
    alone = evaluations.evaluate([by_pixel], prepared, [3])
    assert list(alone) == [(3,)] and alone[(3,)].sum() < confusions[(1, 3)].sum()


def test_the_mean_over_symmetries_is_evaluated_only_on_request(prepared):
    def by_column(patches: np.ndarray) -> np.ndarray:
        classes = np.arange(patches.shape[2]) % 5
        return np.eye(NUM_CLASSES, dtype=np.float32)[np.broadcast_to(classes, patches.shape[:3])]

    averaged = evaluations.evaluate([by_column], prepared, [2], tta=True)[(2,)]
    expected = evaluations.evaluate([blending.with_symmetries(by_column)], prepared, [2])[(2,)]
    np.testing.assert_array_equal(averaged, expected)
    plain = evaluations.evaluate([by_column], prepared, [2])[(2,)]
    assert (plain != averaged).any()


def test_overlapping_windows_score_every_pixel_of_the_mosaics_once(prepared, random):
    images = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 50), (33, 20))]
    masks = [
        random.choice([*range(NUM_CLASSES), IGNORE], i.shape[:2]).astype(np.uint8) for i in images
    ]
    mosaics = [Mosaic(tile, i, m) for tile, i, m in zip((1, 3), images, masks, strict=True)]
    pretend = SimpleNamespace(
        indices_of=prepared.indices_of,
        has=lambda split: split == "train",
        mosaics=lambda split: mosaics,
        patch_size=SIZE,
    )
    confusion = evaluations.evaluate([by_pixel], pretend, [1, 3], overlap=True)[(1, 3)]
    expected = sum(
        metrics.confusion_matrix(mask, by_pixel(image[None])[0].argmax(-1))
        for image, mask in zip(images, masks, strict=True)
    )
    np.testing.assert_array_equal(confusion, expected)


def test_unknown_tiles_and_a_set_without_mosaics_are_user_errors(prepared):
    with pytest.raises(UserError, match="no tile 9"):
        evaluations.evaluate([by_pixel], prepared, [1, 9])
    with pytest.raises(UserError, match="--mosaics"):
        evaluations.evaluate([by_pixel], prepared, [1], overlap=True)


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """Names of weights -> a model and the size of its patches; anything else does not exist."""
    models = {
        "pixel.keras": (by_pixel, 32),
        "any.keras": (by_pixel, None),
        "big.keras": (by_pixel, 64),
    }
    monkeypatch.setattr(trained, "open_model", lambda file: models[file.name])
    for name in models:
        zipfile.ZipFile(tmp_path / name, "w").close()
    return tmp_path


def run_evaluate(folder, data, *arguments):
    names = [str(folder / text) if text.endswith(".keras") else str(text) for text in arguments]
    return CliRunner().invoke(evaluate.main, [*names, "--data", str(data)])


def test_the_command_prints_and_writes_the_scores(pretended, city_set, prepared):
    said = run_evaluate(
        pretended, city_set, "pixel.keras", "any.keras", "--tiles", "3,1,2", "--tta",
        "--out", str(pretended / "out"),
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    record = json.loads((pretended / "out" / "scores.json").read_text())
    confusions = evaluations.evaluate([by_pixel], prepared, [1, 2, 3])
    assert [row["tiles"] for row in record["scores"]] == ["1, 3", "2", "pooled"]
    assert record["scores"][-1]["confusion"] == sum(confusions.values()).tolist()
    assert record["scores"][-1]["accuracy"] == metrics.accuracy(sum(confusions.values()))
    assert f"{record['scores'][-1]['mean_iou_labeled']:.4f}" in said.output
    assert {file.name for file in (pretended / "out").iterdir()} == {
        f"scores.{ending}" for ending in ("json", "csv", "md")
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pixel.keras", "--tiles", "1,9"], "has no tile 9"),
        (["pixel.keras", "--tiles", "one"], "'one' is not a list of tiles"),
        (["pixel.keras", "--tiles", "1", "--split", "val"], "leave one of them out"),
        (["big.keras", "--tiles", "1"], "has patches of 32 px"),
        (["big.keras", "pixel.keras", "--tiles", "1"], "patches of different sizes"),
        (["pixel.keras", "--tiles", "1", "--overlap"], "--mosaics"),
        (["nothing.keras", "--tiles", "1"], "does not exist"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error_of_one_line(arguments, words, pretended, city_set):
    said = run_evaluate(pretended, city_set, *arguments)
    assert said.exit_code == 1 and said.output.startswith("Error: ")
    assert words in said.output and said.output.count("\n") == 1


def test_tiles_on_training_ground_give_a_warning(pretended, city_set, prepared, monkeypatch):
    checksum = prepared.manifest["checksum"]
    train = prepared.manifest["split"]["tiles"]["train"]
    file = pretended / "pixel.keras"
    monkeypatch.setattr(trained, "find", lambda *_: trained.Weights(file, checksum=checksum))
    said = run_evaluate(pretended, city_set, "pixel.keras", "--tiles", str(train[0]))
    assert "was trained on the ground of tiles" in said.stderr
    assert "Warning" not in run_evaluate(pretended, city_set, "pixel.keras").stderr
    # the set is another one, but its lists of tiles are known: 3 shows the ground of 1
    monkeypatch.setattr(trained, "find", lambda *_: trained.Weights(file, split="1,4/2/"))
    said = run_evaluate(pretended, city_set, "pixel.keras", "--tiles", "2,3")
    assert "ground of tiles 3:" in said.stderr


def test_a_checkpoint_names_its_weights(pretended):
    folder = pretended / "ab12"
    folder.mkdir()
    files = {"last": "last-00001.keras", "best": "best-00001.keras"}
    for name in files.values():
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("model", "weights")
    state = {"identity": {"data": "c1", "window": 48}, "rows": [{"epoch": 1, "loss": 0.5}]}
    (folder / "state.json").write_text(json.dumps(state | {"files": files}))
    found = trained.find(str(folder), "best", pretended, pretended)
    assert found == trained.Weights(folder / "best-00001.keras", size=48, checksum="c1")
    with pytest.raises(UserError, match="no kept weights"):
        trained.find(str(folder), "kept", pretended, pretended)


def test_models_of_any_size_get_patches_as_large_as_in_training(pretended):
    weights = trained.Weights(pretended / "any.keras", size=48)
    assert trained.open_models([weights])[1] == 48
    assert trained.open_models([trained.Weights(weights.file)])[1] == trained.SIZE
    assert trained.open_models([weights], 64)[1] == 64


def test_features_are_those_that_are_listed(random):
    image = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    found = linear.features(image, 8)  # windows of 5 and 13 stored px
    assert found.shape == (40, 40, linear.FEATURES)
    for first, side in ((4, 5), (11, 13)):
        around = np.s_[20 - side // 2 : 20 + side // 2 + 1]
        box = image[around, around].reshape(-1, 3).astype(float)
        here = found[20, 20]
        np.testing.assert_allclose(here[first : first + 3], box.mean(0), rtol=1e-4)
        np.testing.assert_allclose(here[first + 3 : first + 6], box.std(0), rtol=1e-3)
        np.testing.assert_allclose(here[first + 6], found[around, around, 3].mean(), rtol=1e-4)
    np.testing.assert_array_equal(found[..., :3], image)
    assert not linear.features(np.full_like(image, 9), 8)[..., 3].any()


def test_the_linear_classifier_beats_the_most_frequent_class(prepared):
    confusions = evaluations.evaluate([linear.train(prepared, [1, 3, 4])], prepared, [2])
    truth = confusions[(2,)].sum(axis=1)
    assert metrics.accuracy(confusions[(2,)]) > truth.max() / truth.sum() + 0.1


def planted(random, rows=60, columns=70):
    """Two made-up tiles whose overlap of 60 x 70 px is known, and its two masks."""
    ground = random.normal(128, 40, (300, 300, 1)).repeat(3, axis=-1)
    first, second = ground[:200, :180], ground[200 - rows :, 180 - columns :]
    first, second = (np.clip(i, 0, 255).astype(np.uint8) for i in (first, 0.8 * second + 20))
    masks = [random.integers(0, NUM_CLASSES, i.shape[:2], dtype=np.uint8) for i in (first, second)]
    masks[1][:5] = IGNORE
    return (first, masks[0]), (second, masks[1])


def test_a_planted_overlap_is_found_and_its_agreement_is_exact(random):
    first, second = planted(random)
    found = annotators.compare((1, 3), first, second)
    truth, other = first[1][-60:, -70:], second[1][:60, :70]
    labelled = other != IGNORE
    assert (found.height, found.width) == (60, 70)
    assert found.confusion.sum() == labelled.sum()
    assert np.trace(found.confusion) == np.count_nonzero((truth == other) & labelled)
    turned = annotators.compare((3, 1), second, first)
    np.testing.assert_array_equal(turned.confusion, found.confusion.T)


def test_images_of_different_ground_have_no_agreement(random):
    first, _ = planted(random)
    _, second = planted(random)
    assert annotators.compare((1, 3), first, second) is None


def test_the_references_of_a_made_up_city(city, city_set, tmp_path):
    said = CliRunner().invoke(
        references.main,
        [str(city), "--data", str(city_set), "--train", "1,3", "--out", str(tmp_path)],
    )
    assert said.exit_code == 0, said.output
    record = json.loads((tmp_path / "references.json").read_text())
    assert record["classes"] == list(CLASSES)
    tiles = [row["tiles"] for row in record["scores"]]
    assert tiles[:6] == ["2", "4", "pooled"] * 2
    shared = CliRunner().invoke(
        references.main, [str(city), "--data", str(city_set), "--train", "1", "--tiles", "3"]
    )
    assert shared.exit_code == 1 and "share ground with the training tiles 1, 3" in shared.output


def test_the_annotators_of_two_tiles_of_the_dubai_set_agree_as_documented(real_set):
    parts, _ = find_parts(real_set, 1)
    first, second = (annotators.mosaic([p for p in parts if p.tile == tile]) for tile in (1, 3))
    found = annotators.compare((1, 3), first, second)
    assert (found.height, found.width) == (360, 540)
    assert round(metrics.accuracy(found.confusion), 3) == 0.845

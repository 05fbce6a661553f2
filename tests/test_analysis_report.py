"""report.py, page.py, evaluations.py, precision_recall.py, on a tiny set with a tiny model.

Scores are compared with scikit-learn; a second report has the same bytes.
"""

import csv
import hashlib
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from analysis_helpers import BY_ERROR, SWEEP, results, run, sweep
from click.testing import CliRunner
from project_helpers import run_module
from sklearn import metrics as witness

from analysis import curves, precision_recall, report
from analysis import run as single
from analysis.results import Results
from segmentation import metrics
from segmentation.labels import CLASSES, IGNORE
from segmentation.prepared import PreparedSet

AWAY = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "x" * 40}  # nobody listens there


def tiny_model(folder: Path, seed: int, size: int = 32) -> None:
    """An untrained model of one layer, as `best` and `kept` weights."""
    import keras

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    outputs = keras.layers.Conv2D(6, 3, padding="same", activation="softmax")(scaled)
    folder.mkdir(parents=True)
    for role in ("best", "kept"):
        keras.Model(inputs, outputs).save(folder / f"{role}.keras")


def tiny_results(folder: Path, tiny_set: Path) -> Path:
    """A results folder that holds a sweep and its weights, and nothing else."""
    checksum = PreparedSet.open(tiny_set).manifest["checksum"]
    runs = [
        run("best", (0.5, 0.3, 0.2), learning_rate=0.01, keep_epoch=2, checksum=checksum),
        run("other", (0.6, 0.4), "stopped", learning_rate=0.02, checksum=checksum),
        run(
            "nan",
            history=[{"epoch": 1, "val_loss": "NaN", "best_val_loss": 1.6}],
            status="diverged",
            checksum=checksum,
        ),
    ]
    baseline = run("base", (0.6, 0.5), checksum=checksum)
    results(sweep(*runs, others=(baseline,), wandb_best="best"), folder)
    for seed, name in enumerate(("best", "base")):
        tiny_model(folder / "cache" / "models" / name, seed)
    return folder


def make_report(folder: Path, tiny_set: Path, *more: str, path: str = SWEEP):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in AWAY.items():
            patch.setenv(name, value)
        said = CliRunner().invoke(
            report.main,
            [
                path,
                "--out",
                str(folder),
                "--data",
                str(tiny_set),
                "--runs",
                str(folder / "no"),
                *more,
            ],
        )
    assert said.exit_code == 0, said.output
    return said.output, (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_set) -> tuple[Path, str]:
    """A report with everything in it, and the picture of a whole image."""
    folder = tiny_results(tmp_path_factory.mktemp("results") / "tiny", tiny_set)
    image = tiny_set.parent / "city" / "Tile 2" / "images" / "image_part_001.jpg"
    said, page = make_report(folder, tiny_set, "--image", str(image))
    assert "not made" not in said
    return folder, page


def sums(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_page_holds_every_figure_and_loads_nothing_else(made):
    folder, page = made
    assert page.count("<figure>") == page.count("data:image/png;base64,") == 2 + 2 + 1 + 4 + 1 + 4
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|http://localhost/)""", page)
    assert page.count("<script") == 1
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"\s+content="([^"]*)">', page)[1]
    assert not re.search(r"https?:|\*|unsafe", policy)
    for name in (
        "panel_best",
        "panel_random",
        "curves_loss",
        "precision_recall",
        "sweep_progress",
        "sweep_cost",
    ):
        assert (folder / f"{name}.png").is_file() and (folder / f"{name}.svg").is_file()
    shown = {
        which: list(csv.DictReader((folder / f"panel_{which}.csv").open()))
        for which in ("best", "random")
    }
    singles = [path.stem for path in sorted((folder / "panel_best").glob("*.png"))]
    assert singles == [f"{int(row['number']):02d}" for row in shown["best"]]
    assert len(shown["random"]) == 10
    commands = re.findall(r"Made by <code>(.+?)</code>", page)
    assert {command.split()[2].split(".")[1] for command in commands} == {
        "best_run", "curves", "confusion", "precision_recall", "panel", "predict", "sweep",
        "report",
    }  # fmt: skip


def test_a_second_report_without_a_network_has_the_same_bytes(made, tiny_set):
    folder, _ = made
    before = sums(folder)
    for name in before.keys() - {"sweep.json"}:
        (folder / name).unlink()
    shutil.rmtree(folder / "cache" / "predictions")  # computed again, not only copied
    image = tiny_set.parent / "city" / "Tile 2" / "images" / "image_part_001.jpg"
    arguments = ("--out", folder, "--data", tiny_set, "--runs", folder / "no", "--image", image)
    run_module("analysis.report", SWEEP, *arguments, **AWAY)
    after = sums(folder)
    assert {name for name in before if before[name] != after.get(name)} == set()
    assert before.keys() == after.keys()


def test_scores_equal_those_of_scikit_learn_on_the_same_pixels(made, tiny_set):
    import keras

    folder, _ = made
    prepared = PreparedSet.open(tiny_set)
    scores = {
        (row["run"], row["split"]): row for row in csv.DictReader((folder / "scores.csv").open())
    }
    per_class = {
        (row["run"], row["split"], row["class"]): row
        for row in csv.DictReader((folder / "scores_per_class.csv").open())
    }
    for role, name in (("best", "best"), ("baseline", "base")):
        model = keras.saving.load_model(folder / "cache" / "models" / name / "best.keras")
        for split in ("train", "val", "test"):
            places = prepared.indices(split)
            masks, probabilities = (
                prepared.masks[places],
                model.predict(prepared.images[places], verbose=0),
            )
            labelled = masks != IGNORE
            truth, guess = masks[labelled], probabilities.argmax(-1)[labelled]
            present, row = np.unique(truth), scores[role, split]
            options = {"labels": present, "average": "macro", "zero_division": 0}
            assert float(row["pixel accuracy"]) == pytest.approx(
                witness.accuracy_score(truth, guess)
            )
            assert float(row["macro precision"]) == pytest.approx(
                witness.precision_score(truth, guess, **options)
            )
            assert float(row["macro recall"]) == pytest.approx(
                witness.recall_score(truth, guess, **options)
            )
            assert float(row["macro F1"]) == pytest.approx(
                witness.f1_score(truth, guess, **options)
            )
            assert float(row["mean IoU"]) == pytest.approx(
                witness.jaccard_score(truth, guess, **options)
            )
            one_hot = truth[:, None] == np.arange(6)
            for quantity, metric in (
                ("micro precision at 0.5", keras.metrics.Precision()),
                ("micro recall at 0.5", keras.metrics.Recall()),
            ):
                metric.update_state(one_hot, probabilities[labelled])
                assert float(row[quantity]) == pytest.approx(float(metric.result()), abs=1e-6)
            ious = witness.jaccard_score(
                truth, guess, labels=range(6), average=None, zero_division=0
            )
            for iou, label in zip(ious, CLASSES, strict=True):
                cell = per_class[role, split, label]["IoU"]
                assert float(cell or 0) == pytest.approx(iou)


def test_curves_and_average_precisions_equal_those_of_scikit_learn(made, tiny_set):
    folder, _ = made
    made_results = Results.open(folder, tiny_set, folder / "no")
    found = made_results.evaluation("best", "val")
    assert made_results.evaluation("best", "val") is found  # read once per report
    assert len(found.truth) == found.confusion.sum()  # a small set is not sampled
    areas = {
        row["class"]: float(row["best"])
        for row in csv.DictReader((folder / "precision_recall.csv").open())
        if row["best"]
    }
    curves = metrics.precision_recall_curves(found.truth, found.probabilities)
    assert areas.keys() == curves.keys()
    one_hot = found.truth[:, None] == np.arange(6)
    for name, (recall, precision) in curves.items():
        columns = (one_hot.ravel(), found.probabilities.ravel())
        if name != "micro":
            columns = (one_hot[:, CLASSES.index(name)], found.probabilities[:, CLASSES.index(name)])
        expected_precision, expected_recall, _ = witness.precision_recall_curve(*columns)
        np.testing.assert_array_equal(precision, expected_precision)
        np.testing.assert_array_equal(recall, expected_recall)
        assert areas[name] == pytest.approx(witness.average_precision_score(*columns))


def test_a_single_run_without_a_server_has_the_scores_that_it_has_in_a_sweep(
    made, tiny_set, tmp_path
):
    """The same weights, once in a results folder of a sweep, once in the folder of a checkpoint."""
    checkpoint = tmp_path / "runs" / "best"
    checkpoint.mkdir(parents=True)
    files = {role: f"{role}-00003.keras" for role in ("last", "best")}
    for name in files.values():
        shutil.copy(made[0] / "cache" / "models" / "best" / "best.keras", checkpoint / name)
    checksum = PreparedSet.open(tiny_set).manifest["checksum"]
    same = run("best", (0.5, 0.3, 0.2), learning_rate=0.01, checksum=checksum)
    state = {"identity": {}, "rows": same.history, "files": files, "run": {"config": same.config}}
    (checkpoint / "state.json").write_text(json.dumps(state | {"status": "finished"}))
    out = tmp_path / "out"
    places = ["--data", str(tiny_set), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in AWAY.items():
            patch.setenv(name, value)
        said = CliRunner().invoke(single.main, [str(checkpoint), *places])
    assert said.exit_code == 0 and "not made" not in said.output, said.output
    for name in ("scores", "scores_per_class"):
        mine = list(csv.DictReader((out / f"{name}.csv").open()))
        theirs = [
            row | {"run": "run"}
            for row in csv.DictReader((made[0] / f"{name}.csv").open())
            if row["run"] == "best"
        ]
        assert mine == theirs
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Run best: finished, 3 epochs, lowest validation loss 0.2000 at epoch 3" in page
    assert "baseline" not in page and "learning_rate 0.01" in page
    for figure in (curves.main, precision_recall.main):  # the commands that the page names
        options = ["--out", str(out)] if figure is curves.main else places
        said = CliRunner().invoke(figure, options)
        assert said.exit_code == 0, said.output


def test_epoch_uses_the_kept_weights_and_refuses_other_epochs(made, tiny_set, tmp_path):
    folder = shutil.copytree(made[0], tmp_path / "copy")
    section = precision_recall.make(Results.open(folder, tiny_set, folder / "no"), epoch=2)
    assert section.pictures[0].file.name == "precision_recall_epoch_2.png"
    assert "after 2 epochs" in section.pictures[0].caption
    command = [
        precision_recall.main,
        ["--out", str(folder), "--data", str(tiny_set), "--epoch", "7"],
    ]
    said = CliRunner().invoke(*command)
    assert said.exit_code == 1
    assert (
        "kept the weights of epochs 3 (its best) and 2, not of 7; train with --keep-epoch 7"
        in said.output
    )


def test_val_loss_does_not_depend_on_a_searched_val_batch_size(made, tiny_set, tmp_path):
    shutil.copytree(made[0] / "cache", tmp_path / "cache")
    prepared = PreparedSet.open(tiny_set)
    size = len(prepared.indices("val"))
    common = {"checksum": prepared.manifest["checksum"]}
    best, other = (
        run("best", (0.4,), val_batch_size=1, **common),
        run("other", (0.5,), val_batch_size=size, **common),
    )
    results(sweep(best, other, wandb_best="best"), tmp_path)
    _, page = make_report(tmp_path, tiny_set)
    found = re.search(
        rf"is (\S+) in batches of 1 and (\S+) in batches of {size}; difference (\S+)\.<", page
    )
    one, whole, difference = map(float, found.groups())
    assert one == pytest.approx(whole, abs=2e-6) and 0.1 < one < 2 and difference < 1e-5


def test_one_val_batch_size_is_not_a_search_of_it(made, tiny_set, tmp_path):
    shutil.copytree(made[0] / "cache", tmp_path / "cache")
    checksum = PreparedSet.open(tiny_set).manifest["checksum"]
    found = sweep(
        run("best", (0.4,), checksum=checksum),
        run("other", (0.5,), checksum=checksum, val_batch_size=None),
    )
    made_results = results(found, tmp_path)
    made_results.data = tiny_set
    assert precision_recall.make(made_results).notes == []


def test_damaged_weights_or_other_data_leave_out_only_the_parts_that_need_them(
    made, tiny_set, tmp_path
):
    folder = shutil.copytree(made[0], tmp_path / "copy")
    shutil.rmtree(folder / "cache" / "predictions")
    weights = folder / "cache" / "models" / "best" / "best.keras"
    weights.write_bytes(weights.read_bytes()[:-99])
    said, page = make_report(folder, tiny_set)
    assert (
        said.count("is not a whole .keras file") == 4
    )  # the panels; the table still has the baseline
    assert page.count("<figure>") == 2 + 2 + 1 + 4
    shutil.copy(folder / "cache" / "models" / "base" / "best.keras", weights)
    other = shutil.copytree(tiny_set, tmp_path / "other")
    manifest = (other / "manifest.json").read_text()
    checksum = PreparedSet.open(other).manifest["checksum"]
    (other / "manifest.json").write_text(manifest.replace(checksum, "0" * 64))
    said, page = make_report(folder, other)
    assert (
        f"{other} is the data set {'0' * 12}, but run run-best (best) was trained on "
        f"{checksum[:12]}" in said
    )
    assert page.count("<figure>") == 2 + 4


@pytest.mark.parametrize(
    "runs",
    [
        (),
        (run("a", (0.5, 0.4), "stopped"), run("b", state="running")),
        (run("f", history=[{"_step": 0, "acc": 1.0}]),),
    ],
    ids=["no run", "none finished", "another project's"],
)
def test_a_sweep_without_a_best_run_has_a_page(runs, tmp_path, tiny_set):
    found = sweep(*runs)
    found = type(found)(
        **{spec: getattr(found, spec) for spec in asdict(found)} | {"config": {"method": "grid"}}
    )
    said, page = make_report(results(found, tmp_path / "r").folder, tiny_set)
    assert "names no best run: no run of" in said
    assert page.count("<h2>") == 10
    assert "Traceback" not in said


def test_the_page_of_a_search_by_error_names_the_error(tmp_path, tiny_set):
    runs = (
        run("a", (0.3,), errors=(0.7,), batch_size=4, best_by="error"),
        run("b", (0.6,), errors=(0.5,), batch_size=8, best_by="error"),
    )
    base = run("base", (0.2,), errors=(0.6,), best_by="error")
    found = results(sweep(*runs, others=(base,), metric=BY_ERROR), tmp_path / "r")
    _, page = make_report(found.folder, tiny_set)
    shown = re.findall(r"<div><b>(.*?)</b><span>(.*?)</span></div>", page)
    numbers = {label: value for value, label in shown}
    assert numbers["lowest validation error, best run of the search"] == "0.5000"
    assert numbers["lowest validation error, baseline"] == "0.6000"
    assert numbers["Did the search beat the baseline?"] == "Yes"
    assert numbers["epochs, all runs together"] == "2"
    assert "The validation error is 1 - mean IoU" in page and "validation loss" not in page


def test_a_browser_shows_every_figure_without_a_warning(made, browser):
    folder, page = made
    shown, said = browser.new_page(), []
    shown.on("console", lambda message: said.append(message.text))
    shown.goto((folder / report.PAGE).as_uri())
    widths = shown.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
    shown.close()
    assert said == []
    assert len(widths) == page.count("<figure>")
    assert all(width > 500 for width in widths)

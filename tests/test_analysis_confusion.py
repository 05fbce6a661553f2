"""confusion.py: matrices and bars against scikit-learn; texts that can be read on their colour."""

import csv

import numpy as np
import pytest
import sklearn.metrics as witness
from analysis_helpers import evaluated_results
from matplotlib.colors import to_rgb

from analysis import confusion, style
from segmentation.errors import UserError
from segmentation.labels import CLASSES, IGNORE
from segmentation.prepared import PreparedSet

BOTH = {"best": 0.8, "baseline": 0.4}


@pytest.fixture
def drawn(monkeypatch) -> dict:
    """Name of a file -> its figure; nothing is written."""
    figures = {}
    monkeypatch.setattr(
        style, "save", lambda figure, file: figures.setdefault(file.stem, figure) and file
    )
    return figures


def test_matrices_and_bars_equal_those_of_scikit_learn(city_set, tmp_path):
    made = evaluated_results(city_set, tmp_path, BOTH)
    confusion.make(made).write()
    cells = list(csv.DictReader((tmp_path / "confusion.csv").open()))
    bars = list(csv.DictReader((tmp_path / "iou_per_class.csv").open()))
    assert len(cells) == 4 * 36 and len(bars) == 4 * 7
    prepared = PreparedSet.open(city_set)
    for role in BOTH:
        for split in ("val", "test"):
            found = made.evaluation(role, split)
            masks = prepared.masks[found.indices]
            truth, guess = masks[masks != IGNORE], found.predictions[masks != IGNORE]
            mine = [row for row in cells if (row["run"], row["split"]) == (role, split)]
            assert [(row["annotated as"], row["predicted as"]) for row in mine] == [
                (true, predicted) for true in CLASSES for predicted in CLASSES
            ]
            counts = witness.confusion_matrix(truth, guess, labels=range(6))
            assert [int(row["pixels"]) for row in mine] == counts.ravel().tolist()
            shares = witness.confusion_matrix(truth, guess, labels=range(6), normalize="true")
            written = [float(row["share of row"] or 0) for row in mine]
            np.testing.assert_allclose(written, shares.ravel())
            ious = witness.jaccard_score(truth, guess, labels=range(6), average=None)
            mean = witness.jaccard_score(truth, guess, labels=np.unique(truth), average="macro")
            values = [float(r["IoU"]) for r in bars if (r["run"], r["split"]) == (role, split)]
            np.testing.assert_allclose(values, [*ious, mean])


def test_cells_and_bars_show_the_numbers_of_their_run_and_split(city_set, tmp_path, drawn):
    made = evaluated_results(city_set, tmp_path, BOTH)
    confusion.make(made)
    titles = {axes.get_title("left"): axes for axes in drawn["confusion"].axes}
    for role in BOTH:
        for split, name in (("val", "validation"), ("test", "test")):
            shares = confusion.row_shares(made.evaluation(role, split).confusion)
            texts = [text.get_text() for text in titles[f"{role}, {name} split"].texts]
            assert texts == [confusion.cell_text(share, 0) for share in shares.ravel()]
    for axes, split in zip(drawn["iou_per_class"].axes, ("val", "test"), strict=True):
        for bars, role in zip(axes.containers, BOTH, strict=True):
            values = confusion._bars(made.evaluation(role, split).confusion)
            np.testing.assert_allclose([bar.get_width() for bar in bars], values)
            assert {to_rgb(bar.get_facecolor()[:3]) for bar in bars} == {
                to_rgb(style.ROLES[role]["color"])
            }


def test_rows_add_up_to_one_and_a_class_without_pixels_has_no_share(random):
    counts = random.integers(0, 50, (6, 6))
    counts[2] = 0
    shares = confusion.row_shares(counts)
    assert np.isnan(shares[2]).all()
    np.testing.assert_allclose(np.delete(shares, 2, 0).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("share", "count", "percent", "pixels"),
    [
        (0.0, 0, "0", "0"),
        (0.004, 7, "<1", "7"),
        (0.5, 1234, "50", "1.23k"),
        (0.9951, 13_482_196, ">99", "13.5M"),
        (1.0, 999, "100", "999"),
        (float("nan"), 0, "\N{EN DASH}", "\N{EN DASH}"),
    ],
)
def test_a_cell_hides_no_confusion_by_rounding(share, count, percent, pixels):
    assert confusion.cell_text(share, count) == percent
    assert confusion.cell_text(share, count, counts=True) == pixels


@pytest.mark.parametrize("role", style.ROLES)
def test_the_text_of_each_cell_can_be_read_on_its_colour(role):
    """WCAG 2.2 asks for a contrast of 4.5 to 1."""

    def luminance(color):
        parts = np.array(to_rgb(color))
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ np.array([0.2126, 0.7152, 0.0722]))

    for share in np.linspace(0, 1, 101):
        cell = confusion.color_map(role)(share)
        levels = sorted((luminance(cell), luminance(style.text_color(cell))))
        assert (levels[1] + 0.05) / (levels[0] + 0.05) >= 4.5


def test_without_weights_of_the_baseline_the_best_run_is_shown_alone(city_set, tmp_path, drawn):
    made = evaluated_results(city_set, tmp_path, {"best": 0.8})
    section = confusion.make(made)
    assert [axes.get_title("left") for axes in drawn["confusion"].axes] == [
        "best, validation split",
        "best, test split",
    ]
    assert [note.text.split(":")[0] for note in section.notes] == ["Baseline"]
    with pytest.raises(UserError, match=r"Best: .*Baseline: "):
        confusion.make(evaluated_results(city_set, tmp_path / "none", {}))

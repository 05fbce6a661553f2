"""precision_recall.py: what the figure shows of the curves, and which scores are in bold type.

The numbers are compared with scikit-learn and Keras in test_analysis_report.py.
"""

import math

import numpy as np
import pytest
from analysis_helpers import evaluated_results

from analysis import precision_recall, style

ALL = ("train", "val", "test")


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures; nothing is written."""
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, file: figures.append(figure) or file)
    return figures


def curve(top: float):
    """A curve whose point of highest F1 is (top, top)."""
    return np.array([1.0, top, 0.0]), np.array([0.1, top, 1.0])


@pytest.mark.parametrize(
    ("tops", "limit"),
    [((0.99, 0.95), 0.8), ((0.95, 0.71), 0.6), ((0.9, 0.45), 0.3), ((0.99, 0.3), 0.0)],
)
def test_the_axes_start_below_the_worst_curve(tops, limit):
    found = {"best": {"Land": curve(tops[0])}, "baseline": {"Land": curve(tops[1])}}
    assert precision_recall.lower_limit(found) == pytest.approx(limit)
    for by_class in found.values():
        for top, _ in by_class.values():
            assert limit == 0 or top[1] >= limit + 0.1 - 1e-9


def test_there_is_one_legend_and_both_squares_have_the_same_axes(city_set, tmp_path, drawn):
    made = evaluated_results(city_set, tmp_path, {"best": 0.9, "baseline": 0.5}, ALL)
    section = precision_recall.make(made)
    (figure,) = drawn
    assert len(figure.legends) == 1 and not any(axes.get_legend() for axes in figure.axes)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-1] == "micro" and len(set(labels)) == len(labels) == len(figure.axes[0].lines)
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    averages, scores, per_class = section.tables
    assert [row[0] for row in averages.rows] == labels
    assert per_class.folded and not scores.folded


def test_the_better_one_of_both_runs_is_bold(city_set, tmp_path, drawn):
    made = evaluated_results(city_set, tmp_path, {"best": 0.9, "baseline": 0.5}, ALL)
    _, scores, _ = precision_recall.make(made).tables
    assert [row[:2] for row in scores.rows] == [
        (split, role) for split in ALL for role in ("best", "baseline")
    ]
    column = scores.header.index("mean IoU")
    assert [(i, column) in scores.bold for i in range(6)] == [True, False] * 3
    assert f"<b>{scores.rows[0][column]:.4f}</b>" in scores.html()
    alone = evaluated_results(city_set, tmp_path / "alone", {"best": 0.9}, ALL)
    assert not precision_recall.make(alone).tables[1].bold


def test_ties_are_bold_together_and_undefined_values_never():
    nan = math.nan
    rows = [("val", "a", 0.5, nan, nan), ("val", "b", 0.5, 0.1, nan), ("test", "a", 0.4, nan, 0.2)]
    assert precision_recall.better_cells(rows, first=2) == {
        *((0, 2), (1, 2), (1, 3)),
        *((2, 2), (2, 4)),
    }

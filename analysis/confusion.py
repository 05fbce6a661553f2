"""Confusion matrices, and IoU per class as bars: best run beside baseline, per split.

python -m analysis.confusion --out results/demo --data data/demo
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb
from numpy.typing import NDArray

from analysis import style
from analysis.cli import (
    checkpoints_option,
    command_line,
    data_option,
    print_section,
    results_option,
)
from analysis.evaluations import Evaluation
from analysis.results import Results
from analysis.sections import Cell, Note, Picture, Section, Table
from segmentation import metrics
from segmentation.labels import CLASSES, NUM_CLASSES

TITLE = "Which classes are confused"
SPLITS = ("val", "test")
COUNT_UNITS = {"G": 1e9, "M": 1e6, "k": 1e3}
"""Letter -> pixels; the largest unit that fits is used in a cell."""

Confusions = dict[str, dict[str, NDArray[np.int64]]]
"""Role -> split -> (classes, classes) pixels, row = truth, column = prediction."""


@click.command(context_settings={"max_content_width": 120})
@results_option
@data_option
@checkpoints_option
@click.option("--counts", is_flag=True, help="Show pixels in the cells instead of shares.")
def main(folder: Path, data: Path, checkpoints: Path, counts: bool) -> None:
    """Draw the confusion matrices and the IoU per class of best run and baseline.

    Both on the validation and on the test split. Writes OUT/confusion.png, OUT/iou_per_class.png,
    and as CSV the counts and shares of the cells and the values of the bars.
    """
    print_section(make(Results.open(folder, data, checkpoints), counts))


def make(results: Results, counts: bool = False) -> Section:
    """Both figures and their tables.

    Args:
        results: The results folder.
        counts: Whether the cells show pixels instead of shares.

    Raises:
        UserError: The data are not available, or neither run has weights.
    """
    evaluated, missing = results.evaluations(SPLITS)
    found = confusions_of(evaluated)
    names = {role: str(run) for role, run in results.roles().items()}
    return Section(
        TITLE,
        command_line("confusion", main, results, counts=counts),
        [Note(text) for text in missing],
        [
            _draw_matrices(results.folder / "confusion.png", found, names, counts),
            _draw_bars(results.folder / "iou_per_class.png", found),
        ],
        [
            _matrix_table(results.folder / "confusion", found),
            _bar_table(results.folder / "iou_per_class", found),
        ],
    )


def confusions_of(evaluated: Mapping[str, Mapping[str, Evaluation]]) -> Confusions:
    """The confusion matrix of each role on each split."""
    return {
        role: {split: evaluation.confusion for split, evaluation in by_split.items()}
        for role, by_split in evaluated.items()
    }


def row_shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """(classes, classes) share of each true class that is predicted as each class, 0..1.

    A class that is not in the truth has a row of NaN.
    """
    totals = confusion.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(totals > 0, confusion / totals, np.nan))


def cell_text(share: float, count: int, counts: bool = False) -> str:
    """The text of one cell: a whole percentage, or with `counts` three digits of the pixels.

    A share that rounds to 0 or 100 % but is neither, is written as `<1` or `>99`.
    """
    if np.isnan(share):
        return "–"  # noqa: RUF001 - an en dash, as for undefined values in tables
    if counts:
        for letter, unit in COUNT_UNITS.items():
            if count >= unit:
                return f"{count / unit:.3g}{letter}"
        return str(count)
    if 0 < share < 0.005:
        return "<1"
    return ">99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def color_map(role: str) -> Colormap:
    """From white to the colour of a role: a cell's colour for its share, 0..1."""
    return LinearSegmentedColormap.from_list(role, ("white", style.ROLES[role]["color"]))


def _draw_matrices(
    file: Path, found: Confusions, names: Mapping[str, str], counts: bool
) -> Picture:
    """One matrix per role and split: roles side by side, splits below each other."""
    splits = list(next(iter(found.values())))
    figure, grid = style.figure(
        len(splits), len(found), height=3.75 * len(splits) + 0.2, sharex=True, sharey=True
    )
    for column, (role, by_split) in enumerate(found.items()):
        for row, (split, confusion) in enumerate(by_split.items()):
            axes = grid[row, column]
            _draw_matrix(axes, confusion, color_map(role), counts)
            axes.set_title(f"{role}, {style.SPLIT_NAMES[split]} split")
            if column == 0:
                axes.set_ylabel("annotated as")
            if row == len(splits) - 1:
                axes.set_xlabel("predicted as")
    unit = "pixels" if counts else "% of the annotated class"
    roles = "; ".join(f"{role} is {names[role]}" for role in found)
    caption = (
        f"Confusion matrices; {roles}. Cells: {unit}. Read along a row: what the pixels of one "
        "annotated class were predicted as. The colour is the share of the row, so each row adds "
        "up to 100 %. A good model has its colour on the diagonal."
    )
    return Picture(style.save(figure, file), caption)


def _draw_matrix(axes: Axes, confusion: NDArray[np.int64], colors: Colormap, counts: bool) -> None:
    """One matrix with a text per cell, black or white, whichever is easier to read."""
    shares = row_shares(confusion)
    axes.imshow(shares, cmap=colors, vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        background = to_rgb(tuple(colors(np.nan_to_num(share))[:3]))
        text = cell_text(float(share), int(confusion[row, column]), counts)
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8.5}
        axes.text(column, row, text, color=style.text_color(background), **look)
    places = range(NUM_CLASSES)
    axes.set_xticks(places, CLASSES, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, CLASSES)
    axes.set_xticks(np.arange(NUM_CLASSES + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(NUM_CLASSES + 1) - 0.5, minor=True)
    axes.grid(visible=False, which="major")
    axes.grid(which="minor", color="#DDDDDD", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _draw_bars(file: Path, found: Confusions) -> Picture:
    """IoU per class and their mean: one pair of bars per class, one plot per split."""
    splits = list(next(iter(found.values())))
    figure, (row,) = style.figure(1, len(splits), height=3.6, sharey=True)
    for axes, split in zip(row, splits, strict=True):
        height = 0.8 / len(found)
        for number, (role, by_split) in enumerate(found.items()):
            values = _bars(by_split[split])
            places = np.arange(len(values)) + (number - (len(found) - 1) / 2) * height
            _draw_bar_series(axes, places, values, height, role)
        axes.set_yticks(range(NUM_CLASSES + 1), [*CLASSES, "mean IoU"])
        axes.axhline(NUM_CLASSES - 0.5, color=style.GREY, linewidth=0.8)
        axes.set(xlim=(0, 1.1), xlabel="IoU (higher is better)")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.grid(visible=False, axis="y")
        axes.set_title(f"{style.SPLIT_NAMES[split]} split")
    row[0].invert_yaxis()
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(found))
    caption = (
        "IoU per class, 0 to 1: the pixels that are both annotated and predicted as the class, "
        "divided by those that are one of both. The mean is over the classes that are annotated "
        "in the split. A class without a bar is neither annotated nor predicted."
    )
    return Picture(style.save(figure, file), caption)


def _draw_bar_series(
    axes: Axes, places: NDArray[np.float64], values: NDArray[np.float64], height: float, role: str
) -> None:
    """The bars of one role, each with its value."""
    color = style.ROLES[role]["color"]
    axes.barh(places, np.nan_to_num(values), height=0.92 * height, color=color, label=role)
    for place, value in zip(places, values, strict=True):
        text = "–" if np.isnan(value) else f"{value:.2f}"  # noqa: RUF001 - an en dash
        axes.text(np.nan_to_num(value) + 0.012, place, text, va="center", fontsize=7.5)


def _bars(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """(classes + 1,) IoU per class, then the mean IoU, 0..1; NaN where undefined."""
    return np.append(metrics.iou(confusion), metrics.mean_iou(confusion))


def _matrix_table(file: Path, found: Confusions) -> Table:
    rows: list[Sequence[Cell]] = [
        (role, split, CLASSES[i], CLASSES[j], int(confusion[i, j]), float(share))
        for role, by_split in found.items()
        for split, confusion in by_split.items()
        for (i, j), share in np.ndenumerate(row_shares(confusion))
    ]
    header = ("run", "split", "annotated as", "predicted as", "pixels", "share of row")
    return Table(file, "Confusion matrices", header, rows, ("csv",))


def _bar_table(file: Path, found: Confusions) -> Table:
    rows: list[Sequence[Cell]] = [
        (role, split, name, float(value))
        for role, by_split in found.items()
        for split, confusion in by_split.items()
        for name, value in zip((*CLASSES, "mean IoU"), _bars(confusion), strict=True)
    ]
    return Table(file, "IoU per class", ("run", "split", "class", "IoU"), rows, ("csv",))


if __name__ == "__main__":
    main()

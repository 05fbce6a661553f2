"""Precision-recall curves of best run and baseline, and tables of their scores.

python -m analysis.precision_recall --out results/demo --data data/demo
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis import evaluations, style
from analysis.cli import (
    checkpoints_option,
    command_line,
    data_option,
    print_section,
    results_option,
)
from analysis.evaluations import SAMPLE, Evaluation
from analysis.results import Results
from analysis.runs import Run
from analysis.sections import Cell, Note, Picture, Section, Table
from segmentation import metrics
from segmentation.errors import UserError
from segmentation.labels import CLASSES

SPLITS = ("train", "val", "test")
FORMATS = ("csv", "md", "tex")
POINTS = 2000  # of a drawn curve: more than a figure has pixels
SCORES = (
    "pixel accuracy",
    "micro precision at 0.5",
    "micro recall at 0.5",
    "macro precision",
    "macro recall",
    "macro F1",
    "mean IoU",
    "mean IoU without Unlabeled",
)

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""(recall, precision), both (n,), in order of increasing threshold."""
Curves = dict[str, Curve]
"""Class name, or `micro` for all classes together -> curve."""
BySplit = dict[str, Evaluation]


@click.command(context_settings={"max_content_width": 120})
@results_option
@data_option
@checkpoints_option
@click.option(
    "--epoch",
    type=click.IntRange(1),
    help="Use the weights after this epoch, which --keep-epoch kept. Default: the best ones.",
)
def main(folder: Path, data: Path, checkpoints: Path, epoch: int | None) -> None:
    """Draw precision against recall on the validation split; tabulate scores on every split.

    Writes OUT/precision_recall.png and .csv (average precision), and OUT/scores and
    OUT/scores_per_class as CSV, Markdown and LaTeX. With --epoch N the names end in _epoch_N.
    Micro precision and recall count all classes together, at a threshold of 0.5, as Keras computes
    them and as published. Macro scores are means over the classes that occur in the truth.
    """
    print_section(make(Results.open(folder, data, checkpoints), epoch))


def make(results: Results, epoch: int | None = None) -> Section:
    """The curves, the average precisions and both tables.

    Raises UserError if data or weights are missing.
    """
    evaluated, notes = results.evaluations(SPLITS, lambda run: _weights_kind(run, epoch))
    if epoch is None and "best" in evaluated:
        notes += _batch_size_notes(results)
    suffix = f"_epoch_{epoch}" if epoch else ""
    when = f"after {epoch} epochs" if epoch else "of the best epoch"
    curves = {role: _curves(by_split) for role, by_split in evaluated.items()}
    pixels = min(len(by_split["val"].truth) for by_split in evaluated.values())
    return Section(
        "Precision and recall",
        command_line("precision_recall", main, results, epoch=epoch),
        [Note(text) for text in notes],
        [_draw(results, curves, pixels, suffix, when)],
        [
            _average_precisions(results.folder / f"precision_recall{suffix}", curves, when),
            _scores(results.folder / f"scores{suffix}", evaluated, when),
            _scores_per_class(results.folder / f"scores_per_class{suffix}", evaluated, when),
        ],
    )


def scores_of(evaluation: Evaluation) -> dict[str, float]:
    """The SCORES of one split, by name; 0..1, NaN where undefined."""
    confusion = evaluation.confusion
    summary = metrics.summarize(confusion, *map(float, evaluation.confident))
    present = confusion.sum(1) > 0
    macro = [
        float(np.nan_to_num(values[present]).mean())
        for values in metrics.precision_recall_f1(confusion)
    ]
    values = (
        summary["accuracy"],
        summary["precision"],
        summary["recall"],
        *macro,
        summary["mean_iou"],
        summary.get("mean_iou_labeled", float("nan")),
    )
    return dict(zip(SCORES, values, strict=True))


def average_precision(curve: Curve) -> float:
    """Area under a curve, 0..1, by scikit-learn's definition: precision times steps of recall."""
    recall, precision = curve
    return float(-np.sum(np.diff(recall) * precision[:-1]))


def _weights_kind(run: Run, epoch: int | None) -> str:
    """`best` or `kept`: the weights after `epoch`.

    Raises UserError if the run has none of that epoch.
    """
    kept = run.hyperparameters.get("keep_epoch")
    if epoch is None or epoch == run.best_epoch:
        return "best"
    if epoch == kept:
        return "kept"
    best = f"{run.best_epoch} (its best)"
    has = f"epochs {best} and {kept}" if kept else f"epoch {best}"
    raise UserError(
        f"run {run} kept the weights of {has}, not of {epoch}; train with --keep-epoch {epoch}"
    )


def _batch_size_notes(results: Results) -> list[str]:
    """If val_batch_size was searched: a check that val_loss does not depend on it."""
    sizes = {run.hyperparameters.get("val_batch_size") for run in results.sweep.runs}
    searched = sorted(size for size in sizes if size)
    if len(searched) < 2:
        return []
    small, large = searched[0], searched[-1]
    losses = evaluations.losses_by_batch_size(
        evaluations.load_model(results.weights("best")),
        results.best.hyperparameters["loss"],
        results.prepared,
        [small, large],
    )
    return [
        f"val_batch_size was searched, from {small} to {large}. The val_loss of the best weights, "
        f"computed again, is {losses[small]:.6f} in batches of {small} and {losses[large]:.6f} in "
        f"batches of {large}; difference {abs(losses[small] - losses[large]):.1g}."
    ]


def _average_precisions(file: Path, curves: Mapping[str, Curves], when: str) -> Table:
    areas = {
        role: {name: average_precision(curve) for name, curve in by_class.items()}
        for role, by_class in curves.items()
    }
    names = [name for name in (*CLASSES, "micro") if any(name in area for area in areas.values())]
    rows = [(name, *(area.get(name) for area in areas.values())) for name in names]
    caption = f"Average precision on the validation split, weights {when}"
    return Table(file, caption, ("class", *areas), rows)


def _scores(file: Path, evaluated: Mapping[str, BySplit], when: str) -> Table:
    rows: list[Sequence[Cell]] = [
        (split, role, *scores_of(by_split[split]).values())
        for split in next(iter(evaluated.values()))
        for role, by_split in evaluated.items()
    ]
    caption = (
        f"Scores on every split, weights {when}. Micro precision and recall count all classes "
        "together, at a threshold of 0.5, as Keras computes them; macro scores are means over the "
        "classes that occur"
    )
    bold: set[tuple[int, int]] = set()
    if len(evaluated) > 1:
        caption += ". Bold: the better one of best run and baseline"
        bold = better_cells(rows, first=2)
    return Table(file, caption, ("split", "run", *SCORES), rows, FORMATS, bold=bold)


def better_cells(rows: Sequence[Sequence[Cell]], first: int) -> set[tuple[int, int]]:
    """(row, column) of the highest value per column among the rows with one first cell.

    All cells of a tie are in it, and no NaN.

    Args:
        rows: The rows of a table.
        first: The first column with numbers.
    """
    groups: dict[Cell, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row[0], []).append(i)
    found = set()
    for members in groups.values():
        values = np.array([rows[i][first:] for i in members], float)
        highest = np.fmax.reduce(values)  # NaN only where all are
        found |= {(members[i], first + int(j)) for i, j in np.argwhere(values == highest)}
    return found


def _scores_per_class(file: Path, evaluated: Mapping[str, BySplit], when: str) -> Table:
    rows: list[Sequence[Cell]] = []
    for role, by_split in evaluated.items():
        for split, evaluation in by_split.items():
            confusion = evaluation.confusion
            share = confusion.sum(1) / confusion.sum()
            columns = (share, *metrics.precision_recall_f1(confusion), metrics.iou(confusion))
            rows += [
                (role, split, name, *map(float, values))
                for name, *values in zip(CLASSES, *columns, strict=True)
            ]
    caption = f"Scores per class, weights {when}, from one confusion matrix per split"
    header = ("run", "split", "class", "share of pixels", "precision", "recall", "F1", "IoU")
    return Table(file, caption, header, rows, FORMATS, folded=True)


def _curves(by_split: BySplit) -> Curves:
    """The curves on the validation split."""
    evaluation = by_split["val"]
    return metrics.precision_recall_curves(evaluation.truth, evaluation.probabilities)


def lower_limit(curves: Mapping[str, Curves]) -> float:
    """Where both axes start, so that good curves fill the figure: 0, 0.3, 0.4, ... or 0.9.

    The point of highest F1 of each curve lies at least 0.1 inside the figure.
    """
    lowest = 1.0
    for by_class in curves.values():
        for recall, precision in by_class.values():
            f1 = 2 * recall * precision / np.maximum(recall + precision, 1e-9)
            lowest = min(lowest, recall[f1.argmax()], precision[f1.argmax()])
    limit = math.floor(10 * (lowest - 0.1) + 1e-9) / 10
    return min(limit, 0.9) if limit >= 0.3 else 0.0


def _draw(
    results: Results, curves: Mapping[str, Curves], pixels: int, suffix: str, when: str
) -> Picture:
    """One square per run, with one line per class, and one legend."""
    height = 4.6 if len(curves) > 1 else 5.4
    figure, (row,) = style.figure(1, len(curves), height=height, sharey=True)
    low = lower_limit(curves)
    margin = 0.012 * (1 - low)
    handles: dict[str, Line2D] = {}
    for axes, (role, by_class) in zip(row, curves.items(), strict=True):
        handles |= {name: _draw_curve(axes, name, curve) for name, curve in by_class.items()}
        axes.set(xlim=(low, 1 + margin), ylim=(low, 1 + margin), aspect="equal", xlabel="recall")
        axes.set_title(f"{role}: {results.roles()[role]}")
    row[0].set_ylabel("precision")
    names = [name for name in (*CLASSES, "micro") if name in handles]
    lines = [handles[name] for name in names]
    look: dict[str, Any] = {"loc": "outside lower center", "handlelength": 3.6}
    figure.legend(lines, names, ncols=-(-len(names) // 2), **look)
    sample = (
        "every labelled pixel"
        if pixels < SAMPLE * 0.9
        else f"a random sample of {pixels:,} labelled pixels"
    )
    caption = (
        f"Precision against recall on the validation split, weights {when}, from {sample}. "
        "Precision: fraction of the pixels predicted as a class that belong to it. Recall: "
        "fraction of the class's pixels that are found. micro: all classes together."
        + (f" Both axes start at {low:g}, because all curves are good." if low else "")
    )
    file = results.folder / f"precision_recall{suffix}.png"
    return Picture(style.save(figure, file), caption)


def _draw_curve(axes: Axes, name: str, curve: Curve) -> Line2D:
    recall, precision = curve
    shown = np.unique(np.linspace(0, len(recall) - 1, POINTS).astype(int))
    look: dict[str, Any] = {"color": "black", "marker": "o", "markevery": 0.12}
    look = style.CLASS_LINES.get(name, look)
    (line,) = axes.plot(recall[shown], precision[shown], linewidth=1.8, **look)
    return line


if __name__ == "__main__":
    main()

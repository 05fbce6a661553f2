"""The ten-image panel: image, truth and prediction of ten patches.

python -m analysis.panel --out results/demo --data data/demo --which best
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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
from analysis.runs import Run
from analysis.sections import Cell, Note, Picture, Section, Table
from segmentation import labels, metrics
from segmentation.errors import UserError
from segmentation.prepared import PreparedSet

COUNT = 10
TRIVIAL = 0.4
"""A patch is trivial if the sum of its squared class shares exceeds this: it is nearly one class.

The rule of the published panels.
"""
BLOCKS = 2  # columns of image, truth and prediction, so that ten rows fit on one page
WHICH = ("best", "median", "worst", "random")
TITLES = {
    "best": "The ten most accurate patches with several classes",
    "median": "The ten patches around the median accuracy",
    "worst": "The ten least accurate patches",
    "random": "Ten random patches",
}

Confusions = NDArray[np.int64]
Indices = NDArray[np.int64]


@click.command(context_settings={"max_content_width": 120})
@results_option
@data_option
@checkpoints_option
@click.option(
    "--which",
    type=click.Choice(WHICH),
    default="best",
    show_default=True,
    help="Which ten patches.",
)
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="val", show_default=True
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the draw of --which random."
)
def main(folder: Path, data: Path, checkpoints: Path, which: str, split: str, seed: int) -> None:
    """Draw ten patches as image, truth and prediction of the best run, in class colours.

    best: the ten most accurate patches that are not trivial, in order of increasing accuracy. A
    patch is trivial if the sum of its squared class shares exceeds 0.4, so that nearly all of it
    is one class. median, worst: by accuracy among all patches, in increasing order. random: drawn
    with --seed. Writes OUT/panel_WHICH.png, one PNG per patch into OUT/panel_WHICH/, and their
    scores as OUT/panel_WHICH.csv.
    """
    results = Results.open(folder, data, checkpoints)
    print_section(make(results, which, split, seed))
    click.echo(write_singles(results, which, split, seed))


def make(results: Results, which: str = "best", split: str = "val", seed: int = 0) -> Section:
    """The panel and its table.

    Raises UserError if data or weights are missing, or no patch qualifies.
    """
    evaluation = results.evaluation("best", split)
    chosen = select(evaluation.confusions, which, seed)
    if not len(chosen):
        kind = "labelled and not trivial" if which == "best" else "labelled"
        raise UserError(f"no {split} patch is {kind}: no {which} panel")
    file = results.folder / f"panel_{which}.png"
    caption = (
        f"{TITLES[which]} of the {split} split, by the best weights of {results.best}: "
        "image, truth, prediction."
    )
    style.save(_draw(results.prepared, evaluation, chosen), file)
    header = ("number", "tile", "part", "row", "column", "accuracy", "mean_iou")
    rows = [
        _row(results.prepared, evaluation, number, i) for number, i in enumerate(chosen.tolist(), 1)
    ]
    used_seed = seed if which == "random" else None
    notes = [Note(f"Only {len(chosen)} patches qualify.")] if len(chosen) < COUNT else []
    if which == "best":
        notes += _reproduction_note(results.best, split, evaluation)
    return Section(
        TITLES[which],
        command_line("panel", main, results, which=which, split=split, seed=used_seed),
        notes,
        [Picture(file, caption)],
        [Table(file.with_suffix(""), caption, header, rows, formats=("csv",))],
    )


def write_singles(results: Results, which: str, split: str = "val", seed: int = 0) -> Path:
    """Writes each patch of the panel as a PNG: panel_WHICH/01.png and so on. Returns the folder."""
    evaluation = results.evaluation("best", split)
    folder = results.folder / f"panel_{which}"
    for stale in folder.glob("*.png"):
        stale.unlink()
    for number, i in enumerate(select(evaluation.confusions, which, seed).tolist(), 1):
        figure = _draw(results.prepared, evaluation, [i], number)
        style.save(figure, folder / f"{number:02d}.png")
    return folder


def select(confusions: Confusions, which: str, seed: int = 0) -> Indices:
    """Indices of at most COUNT patches, by increasing accuracy, then index; `random`: by index.

    Args:
        confusions: (n, classes, classes), one confusion matrix per patch.
        which: One of WHICH; see `main`.
        seed: Seed of `random`.
    """
    accuracy = np.array([metrics.accuracy(confusion) for confusion in confusions])
    ascending = np.argsort(accuracy, kind="stable")
    ascending = ascending[~np.isnan(accuracy[ascending])]  # NaN: no labelled pixel
    return SELECTIONS[which](ascending, confusions, seed)


def is_trivial(confusions: Confusions) -> NDArray[np.bool_]:
    """(n,) whether the sum of the squared class shares of a patch's truth exceeds TRIVIAL."""
    counts = confusions.sum(axis=2)
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
    return np.asarray((shares**2).sum(axis=1) > TRIVIAL)


def _middle(ascending: Indices) -> Indices:
    start = max(0, (len(ascending) - COUNT) // 2)
    return ascending[start : start + COUNT]


def _random(ascending: Indices, seed: int) -> Indices:
    random = np.random.default_rng(seed)
    return np.sort(random.choice(np.sort(ascending), min(COUNT, len(ascending)), replace=False))


SELECTIONS: dict[str, Callable[[Indices, Confusions, int], Indices]] = {
    "best": lambda ascending, confusions, seed: ascending[~is_trivial(confusions)[ascending]][
        -COUNT:
    ],
    "median": lambda ascending, confusions, seed: _middle(ascending),
    "worst": lambda ascending, confusions, seed: ascending[:COUNT],
    "random": lambda ascending, confusions, seed: _random(ascending, seed),
}


def _row(prepared: PreparedSet, evaluation: Evaluation, number: int, i: int) -> Sequence[Cell]:
    """Number in the panel, position of the patch in the set, accuracy and mean IoU."""
    patch = prepared.patches[evaluation.indices[i]]
    confusion = evaluation.confusions[i]
    position = (int(patch[name]) for name in ("tile", "part", "row", "column"))
    return (number, *position, metrics.accuracy(confusion), metrics.mean_iou(confusion))


def _reproduction_note(run: Run, split: str, evaluation: Evaluation) -> list[Note]:
    """Whether weights and data still give the validation accuracy that the run logged."""
    logged = dict(zip(*run.series("val_accuracy"), strict=True)).get(run.best_epoch)
    if split != "val" or logged is None:
        return []
    accuracy = metrics.accuracy(evaluation.confusion)
    verdict = "as logged" if abs(accuracy - logged) < 1e-3 else "the run logged another"
    text = f"Validation accuracy, computed again: {accuracy:.4f}; {verdict} ({logged:.4f})."
    return [Note(text)]


def _draw(
    prepared: PreparedSet, evaluation: Evaluation, chosen: Sequence[int] | Indices, first: int = 1
) -> Figure:
    """The figure of the chosen patches, numbered from `first`.

    A single patch has a smaller figure.
    """
    blocks = min(BLOCKS, len(chosen))
    lines = -(-len(chosen) // blocks)
    size = style.WIDTH / (3 * BLOCKS)
    ratios = [1, 1, 1, *[0.12, 1, 1, 1] * (blocks - 1)]  # a narrow empty column between blocks
    height = lines * (size + 0.36) + 0.6
    figure, grid = style.figure(lines, len(ratios), height=height, width_ratios=ratios)
    if blocks == 1:
        figure.set_size_inches(3 * size * 1.4, size * 1.4 + 1.0)
    for axes in grid.flat:
        axes.axis("off")
    for number, i in enumerate(chosen):
        block, line = divmod(number, lines)
        row = _row(prepared, evaluation, first + number, int(i))
        cells = list(grid[line, 4 * block : 4 * block + 3])
        _draw_patch(cells, prepared, evaluation, int(i), row)
    masks = (prepared.masks[evaluation.indices[i]] for i in chosen)
    ignored = any((mask == labels.IGNORE).any() for mask in masks)
    columns = 7 if len(chosen) > 1 else 4
    look: dict[str, Any] = {"loc": "outside lower center", "fontsize": 7.5, "handlelength": 1.2}
    figure.legend(handles=style.class_legend(ignored), ncols=columns, **look)
    return figure


def _draw_patch(
    cells: Sequence[Axes],
    prepared: PreparedSet,
    evaluation: Evaluation,
    i: int,
    row: Sequence[Cell],
) -> None:
    """Draws image, truth and prediction of a patch into three axes, with position and scores."""
    index = evaluation.indices[i]
    layers = {
        "image": prepared.images[index],
        "truth": labels.decode(prepared.masks[index]),
        "prediction": labels.decode(evaluation.predictions[i]),
    }
    look: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 7, "color": "#444444"}
    for axes, (name, layer) in zip(cells, layers.items(), strict=True):
        axes.imshow(layer)
        axes.text(0.5, -0.03, name, transform=axes.transAxes, **look)
    number, tile, part, y, x, accuracy, mean_iou = row
    cells[0].set_title(
        f"{number} · tile {tile} part {part}, row {y} column {x}\n"
        f"accuracy {accuracy:.3f} · mean IoU {mean_iou:.3f}",
        fontsize=7.5,
    )


if __name__ == "__main__":
    main()

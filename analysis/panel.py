"""The ten-image panel: image, truth, predictions and errors of ten patches.

python -m analysis.panel --out results/demo --data data/demo --which best
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
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
BLOCKS = 2  # patches side by side, so that ten of them fit on one page
GAP = 1 / 16  # between the pictures of a patch, as a fraction of the side of a patch
DPI = 200  # more than other figures have: ten patches with five pictures each are small
WHICH = ("best", "median", "worst", "random")
TITLES = {
    "best": "The ten most accurate patches with several classes",
    "median": "The ten patches around the median accuracy",
    "worst": "The ten least accurate patches",
    "random": "Ten random patches",
}

TRIVIAL_RULE = (
    "Patches that show nearly one class are left out: those whose squared class shares add up to "
    f"more than {TRIVIAL}. "
)
HEADER = ("number", "tile", "part", "row", "column", "accuracy", "mean_iou")
TITLE_LOOK: dict[str, Any] = {"fontsize": 7.5, "pad": 3}

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
    """Draw ten patches: image, truth, the predictions of baseline and best run, and its errors.

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

    Raises UserError if data or weights of the best run are missing, or no patch qualifies.
    """
    main_role, evaluated, missing = _evaluations(results, split)
    evaluation = evaluated[main_role]
    chosen = select(evaluation.confusions, which, seed)
    if not len(chosen):
        kind = "labelled and not trivial" if which == "best" else "labelled"
        raise UserError(f"no {split} patch is {kind}: no {which} panel")
    file = results.folder / f"panel_{which}.png"
    caption = (
        f"{TITLES[which]} of the {style.SPLIT_NAMES[split]} split, predicted with the best weights "
        f"of {results.best}. {TRIVIAL_RULE if which == 'best' else ''}Class colours are those of "
        "the data set: water is orange, land is purple. Error: red where the prediction is wrong."
    )
    style.save(_draw(results.prepared, evaluated, chosen), file, DPI)
    others = [role for role in evaluated if role != main_role]
    header = (*HEADER, *(f"accuracy of {role}" for role in others))
    rows = [
        (
            *_row(results.prepared, evaluation, number, i),
            *(metrics.accuracy(evaluated[role].confusions[i]) for role in others),
        )
        for number, i in enumerate(chosen.tolist(), 1)
    ]
    used_seed = seed if which == "random" else None
    notes = [Note(f"{text} The panel does not show it.") for text in missing]
    notes += [Note(f"Only {len(chosen)} patches qualify.")] if len(chosen) < COUNT else []
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
    main_role, evaluated, _ = _evaluations(results, split)
    folder = results.folder / f"panel_{which}"
    for stale in folder.glob("*.png"):
        stale.unlink()
    chosen = select(evaluated[main_role].confusions, which, seed).tolist()
    for number, i in enumerate(chosen, 1):
        figure = _draw(results.prepared, evaluated, [i], number)
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


def pictures(
    prepared: PreparedSet, evaluated: Mapping[str, Evaluation], i: int
) -> dict[str, NDArray[np.uint8]]:
    """Title -> picture, (p, p, 3) uint8 RGB, of the evaluated patch number `i`.

    The pictures are: image, truth, the prediction of each role, and the error of the main role,
    which is the first one. Its prediction stands beside its error.
    """
    main_role, main_evaluation = next(iter(evaluated.items()))
    index = main_evaluation.indices[i]
    mask = prepared.masks[index]
    made = {"image": np.asarray(prepared.images[index]), "truth": labels.decode(mask)}
    for role in reversed(list(evaluated)):
        made[role] = labels.decode(evaluated[role].predictions[i])
    wrong = mask != main_evaluation.predictions[i]
    kinds = np.where(mask == labels.IGNORE, "not annotated", np.where(wrong, "wrong", "right"))
    error = np.zeros((*mask.shape, 3), np.uint8)
    for kind, color in style.ERRORS.items():
        error[kinds == kind] = np.round(255 * np.array(to_rgb(color)))
    return made | {f"error of {main_role}": error}


def _evaluations(results: Results, split: str) -> tuple[str, dict[str, Evaluation], list[str]]:
    """The main role, role -> evaluation with it first, and a line per other role without weights.

    Raises UserError if the data or the weights of the main role are missing.
    """
    main_role = next(iter(results.roles()))
    results.evaluation(main_role, split)  # raises the error of the main role alone
    evaluated, missing = results.evaluations([split])
    return main_role, {role: by_split[split] for role, by_split in evaluated.items()}, missing


def _draw(
    prepared: PreparedSet,
    evaluated: Mapping[str, Evaluation],
    chosen: Sequence[int] | Indices,
    first: int = 1,
) -> Figure:
    """The figure of the chosen patches, numbered from `first`, one strip of pictures each."""
    blocks = min(BLOCKS, len(chosen))
    lines = -(-len(chosen) // blocks)
    count = len(evaluated) + 3
    size = (style.WIDTH / blocks - 0.15) / (count + (count - 1) * GAP)  # inches
    figure, grid = style.figure(lines, blocks, height=lines * (size + 0.24) + 0.75)
    for axes in grid.flat:
        axes.axis("off")
    for number, i in enumerate(chosen):
        block, line = divmod(number, lines)
        axes = grid[line, block]
        made = pictures(prepared, evaluated, int(i))
        axes.imshow(_strip(list(made.values())))
        axes.set_title(_title(prepared, evaluated, first + number, int(i)), **TITLE_LOOK)
        if line == 0:
            _column_titles(axes, list(made))
    indices = next(iter(evaluated.values())).indices
    masks = (prepared.masks[indices[i]] for i in chosen)
    ignored = any((mask == labels.IGNORE).any() for mask in masks)
    handles = [*style.class_legend(), *style.error_legend(ignored)]
    look: dict[str, Any] = {"loc": "outside lower center", "fontsize": 7.5, "handlelength": 1.2}
    figure.legend(handles=handles, ncols=len(handles), columnspacing=1.4, **look)
    return figure


def _strip(made: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The pictures side by side, (p, w, 3) uint8 RGB, with white gaps."""
    height = made[0].shape[0]
    gap = np.full((height, max(1, round(GAP * height)), 3), 255, np.uint8)
    return np.concatenate([part for picture in made for part in (gap, picture)][1:], axis=1)


def _column_titles(axes: Axes, titles: Sequence[str]) -> None:
    """Writes the titles of the pictures above the first strip of a block."""
    for number, title in enumerate(titles):
        place = (number + 0.5 + number * GAP) / (len(titles) + (len(titles) - 1) * GAP)
        axes.annotate(
            title,
            (place, 1),
            (0, 16),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )


def _title(prepared: PreparedSet, evaluated: Mapping[str, Evaluation], number: int, i: int) -> str:
    """Number of a patch, the share of its pixels that each role has right, and where it lies."""
    right = ", ".join(
        f"{role} {100 * metrics.accuracy(evaluation.confusions[i]):.0f} %"
        for role, evaluation in evaluated.items()
    )
    patch = prepared.patches[next(iter(evaluated.values())).indices[i]]
    return f"{number}. Pixels right: {right} (tile {patch['tile']}, part {patch['part']})"


if __name__ == "__main__":
    main()

"""The ten-image panel: image | truth | prediction of ten patches.

python -m analysis.panel --out results/demo --data data/demo --which best
"""

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from analysis import style
from analysis.predictions import Evaluation, evaluate
from analysis.records import Run
from analysis.sections import Picture, Section, Table
from analysis.waist import Waist, data_option, results_option, runs_option, tell
from segmentation import labels, metrics
from segmentation.errors import UserError
from segmentation.prepared import PreparedSet

COUNT = 10
TRIVIAL = 0.4  # above this sum of squared class shares a patch is nearly one class: the published panels' rule
BLOCKS = 2  # columns of image | truth | prediction, so that ten rows fit on one page
WHICH = ("best", "median", "worst", "random")
TITLES = {
    "best": "The ten most accurate patches that are not trivial",
    "median": "The ten patches around the median accuracy",
    "worst": "The ten least accurate patches",
    "random": "Ten patches drawn at random",
}


@click.command(context_settings={"max_content_width": 120})
@results_option
@data_option
@runs_option
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
@click.option("--seed", type=int, default=0, show_default=True, help="Of --which random.")
def main(folder: Path, data: Path, local: Path, which: str, split: str, seed: int) -> None:
    """Show what the best run's weights see: ten patches as image, truth and prediction, in class colours.

    best: the ten most accurate patches that are not trivial, in order of increasing accuracy; a patch is trivial when the sum
    of its squared class shares exceeds 0.4. median, worst: by accuracy among all patches, in increasing order. random: seeded.
    Writes OUT/panel_WHICH.png, one PNG a patch in OUT/panel_WHICH/, and what they show as OUT/panel_WHICH.csv.
    """
    waist = Waist.open(folder)
    tell(make(waist, data, local, which, split, seed))
    singles(waist, data, local, which, split, seed)
    click.echo(folder / f"panel_{which}")


def make(
    waist: Waist, data: Path, local: Path, which: str = "best", split: str = "val", seed: int = 0
) -> Section:
    """The panel and its table."""
    run = waist.roles()["best"]
    prepared = waist.data(data, run)
    found = evaluate(waist, run, "best", split, data, local)
    chosen = select(found.confusions, which, seed)
    if not len(chosen):
        kind = "labelled and not trivial" if which == "best" else "labelled"
        raise UserError(f"no {split} patch is {kind}: no {which} panel")
    file = waist.folder / f"panel_{which}.png"
    rows = [_row(prepared, found, number, place) for number, place in enumerate(chosen, 1)]
    caption = f"{TITLES[which]} of the {split} split, by the best weights of {run}: image, truth, prediction."
    style.save(_draw(prepared, found, chosen), file)
    header = ("number", "tile", "part", "row", "column", "accuracy", "mean_iou")
    table = Table(file.with_suffix(""), caption, header, rows, formats=("csv",))
    table.write()
    command = f"python -m analysis.panel --out {waist.folder} --data {data} --which {which}"
    command += f" --split {split}" * (split != "val") + f" --seed {seed}" * (
        which == "random" and seed != 0
    )
    short = [f"Only {len(chosen)} patches qualify."] if len(chosen) < COUNT else []
    return Section(
        TITLES[which],
        command,
        notes=short + (_notes(run, split, found) if which == "best" else []),
        pictures=[Picture(file, caption)],
    )


def singles(
    waist: Waist, data: Path, local: Path, which: str = "best", split: str = "val", seed: int = 0
) -> None:
    """The panel's patches one by one, as panel_WHICH/01.png and so on."""
    run = waist.roles()["best"]
    prepared, found = waist.data(data, run), evaluate(waist, run, "best", split, data, local)
    folder = waist.folder / f"panel_{which}"
    for stale in folder.glob("*.png"):
        stale.unlink()
    for number, place in enumerate(select(found.confusions, which, seed), 1):
        style.save(_draw(prepared, found, [place], number), folder / f"{number:02d}.png")


def select(confusions: np.ndarray, which: str, seed: int = 0) -> np.ndarray:
    """Places of at most COUNT patches, by their confusion matrices (n, classes, classes); see `main` for `which`.

    Order is by increasing accuracy, ties by place, but for `random`, which keeps the set's order.
    """
    accuracy = np.array([metrics.accuracy(confusion) for confusion in confusions])
    ascending = np.argsort(accuracy, kind="stable")
    ascending = ascending[
        ~np.isnan(accuracy[ascending])
    ]  # a patch without a labelled pixel has no accuracy
    return SELECTIONS[which](ascending, confusions, seed)


def is_trivial(confusions: np.ndarray) -> np.ndarray:
    """(n,) bool: whether the sum of the squared class shares of the truth exceeds TRIVIAL."""
    counts = confusions.sum(axis=2)
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
    return (shares**2).sum(axis=1) > TRIVIAL


def _middle(ascending: np.ndarray) -> np.ndarray:
    start = max(0, (len(ascending) - COUNT) // 2)
    return ascending[start : start + COUNT]


def _drawn(ascending: np.ndarray, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.sort(random.choice(np.sort(ascending), min(COUNT, len(ascending)), replace=False))


SELECTIONS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "best": lambda ascending, confusions, seed: ascending[~is_trivial(confusions)[ascending]][
        -COUNT:
    ],
    "median": lambda ascending, confusions, seed: _middle(ascending),
    "worst": lambda ascending, confusions, seed: ascending[:COUNT],
    "random": lambda ascending, confusions, seed: _drawn(ascending, seed),
}


def _row(prepared: PreparedSet, found: Evaluation, number: int, place: int) -> tuple:
    where = prepared.patches[found.indices[place]]
    confusion = found.confusions[place]
    position = (int(where[name]) for name in ("tile", "part", "row", "column"))
    return (number, *position, metrics.accuracy(confusion), metrics.mean_iou(confusion))


def _notes(run: Run, split: str, found: Evaluation) -> list[str]:
    """Whether weights and data still give the accuracy that the run recorded."""
    recorded = dict(zip(*run.series("val_accuracy"), strict=True)).get(run.best_epoch)
    if split != "val" or recorded is None:
        return []
    accuracy = metrics.accuracy(found.confusion)
    verdict = "as recorded" if abs(accuracy - recorded) < 1e-3 else "the run recorded another"
    return [
        f"Validation accuracy computed again from the weights: {accuracy:.4f}; {verdict} ({recorded:.4f})."
    ]


def _draw(prepared: PreparedSet, found: Evaluation, places: list[int] | np.ndarray, first: int = 1):
    """The rows of the panel; a single one has no blocks."""
    blocks = min(BLOCKS, len(places))
    lines = -(-len(places) // blocks)
    size = 8.0 / (3 * BLOCKS)
    ratios = [1, 1, 1, *[0.12, 1, 1, 1] * (blocks - 1)]  # a narrow empty column between blocks
    figure, grid = style.figure(
        lines, len(ratios), height=lines * (size + 0.36) + 0.6, width_ratios=ratios
    )
    if blocks == 1:
        figure.set_size_inches(3 * size * 1.4, size * 1.4 + 1.0)
    ignored = False
    for axes in grid.flat:
        axes.axis("off")
    for number, place in enumerate(places):
        block, line = divmod(number, lines)
        index = found.indices[place]
        mask = prepared.masks[index]
        ignored |= bool((mask == labels.IGNORE).any())
        layers = (
            prepared.images[index],
            labels.decode(mask),
            labels.decode(found.predictions[place]),
        )
        cells = grid[line, 4 * block : 4 * block + 3]
        for axes, layer, word in zip(cells, layers, ("image", "truth", "prediction"), strict=True):
            axes.imshow(layer)
            axes.text(
                0.5,
                -0.03,
                word,
                transform=axes.transAxes,
                ha="center",
                va="top",
                fontsize=7,
                color="#444444",
            )
        _, tile, part, row, column, accuracy, mean_iou = _row(prepared, found, number, place)
        cells[0].set_title(
            f"{first + number} · tile {tile} part {part}, row {row} column {column}\n"
            f"accuracy {accuracy:.3f} · mean IoU {mean_iou:.3f}",
            fontsize=7.5,
        )
    figure.legend(
        handles=style.class_legend(ignored),
        loc="outside lower center",
        ncols=7 if len(places) > 1 else 4,
        fontsize=7.5,
        handlelength=1.2,
    )
    return figure


if __name__ == "__main__":
    main()

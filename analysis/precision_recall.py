"""Precision-recall curves of best and baseline, and the table of values read off confusion matrices.

python -m analysis.precision_recall --out results/demo --data data/demo
"""

from pathlib import Path

import click
import numpy as np

from analysis import style
from analysis.predictions import SAMPLE, Evaluation, evaluate, losses_by_batch
from analysis.records import Run
from analysis.sections import Picture, Section, Table
from analysis.waist import Waist, data_option, results_option, runs_option, tell
from segmentation import metrics
from segmentation.errors import UserError
from segmentation.labels import CLASSES

SPLITS = ("train", "val", "test")
FORMATS = ("csv", "md", "tex")
SCORES = (
    "pixel accuracy",
    "Keras precision",
    "Keras recall",
    "macro precision",
    "macro recall",
    "macro F1",
    "mean IoU",
    "mean IoU without Unlabeled",
)


@click.command(context_settings={"max_content_width": 120})
@results_option
@data_option
@runs_option
@click.option(
    "--epoch",
    type=click.IntRange(1),
    help="Weights after this epoch, where kept (--keep-epoch), not the best ones.",
)
def main(folder: Path, data: Path, local: Path, epoch: int | None) -> None:
    """Draw precision against recall on the validation split, and tabulate what the weights reach on every split.

    Writes OUT/precision_recall.png and .csv (average precision), and OUT/scores and OUT/scores_per_class as CSV, Markdown and
    LaTeX; with --epoch N the names end in _epoch_N. Keras precision and recall are micro, at a threshold of 0.5, as published;
    macro values are means over the classes present in the truth.
    """
    tell(make(Waist.open(folder), data, local, epoch))


def make(waist: Waist, data: Path, local: Path, epoch: int | None = None) -> Section:
    """The curves, average precisions, and both tables."""
    prepared = waist.data(data, waist.roles()["best"])
    splits = [split for split in SPLITS if prepared.manifest["patches"].get(split)]
    notes, found = [], {}
    for role, run in waist.roles().items():
        try:
            weights = _weights_role(run, epoch)
            found[role] = {
                split: evaluate(waist, run, weights, split, data, local) for split in splits
            }
        except UserError as error:
            notes.append(f"{role.capitalize()}: {error}.")
    if not found:
        raise UserError(" ".join(notes))
    notes += [f"The set has no {split} split." for split in SPLITS if split not in splits]
    sizes = sorted(
        {
            run.config["val_batch_size"]
            for run in waist.sweep.runs
            if run.config.get("val_batch_size")
        }
    )
    if epoch is None and "best" in found and len(sizes) > 1:
        notes.append(_by_batch(waist, sizes[0], sizes[-1], data, local))
    suffix = f"_epoch_{epoch}" if epoch else ""
    when = f"after {epoch} epochs" if epoch else "of the best epoch"
    per_class = [row for role, by_split in found.items() for row in _class_rows(role, by_split)]
    scores = [
        (role, split, *scores_of(each).values())
        for role, by_split in found.items()
        for split, each in by_split.items()
    ]
    picture, precisions = _draw(
        waist, {role: by_split["val"] for role, by_split in found.items()}, suffix, when
    )
    tables = [
        precisions,
        Table(
            waist.folder / f"scores{suffix}",
            f"Scores on every split, weights {when}. Keras precision and recall are micro, threshold 0.5; "
            "macro values are means over the classes present",
            ("run", "split", *SCORES),
            scores,
            FORMATS,
        ),
        Table(
            waist.folder / f"scores_per_class{suffix}",
            f"Scores per class, weights {when}, from one confusion matrix a split",
            ("run", "split", "class", "share of pixels", "precision", "recall", "F1", "IoU"),
            per_class,
            FORMATS,
        ),
    ]
    command = f"python -m analysis.precision_recall --out {waist.folder} --data {data}" + (
        f" --epoch {epoch}" if epoch else ""
    )
    return Section("Precision and recall", command, notes, [picture], tables)


def scores_of(evaluation: Evaluation) -> dict[str, float]:
    """SCORES by name: a split's, from one confusion matrix and the count of confident probabilities."""
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
    )
    return dict(zip(SCORES, (*values, summary.get("mean_iou_labeled", float("nan"))), strict=True))


def average_precision(curve: tuple[np.ndarray, np.ndarray]) -> float:
    """Area under a (recall, precision) curve as scikit-learn defines it: precision weighted by the steps of recall."""
    recall, precision = curve
    return float(-np.sum(np.diff(recall) * precision[:-1]))


def _weights_role(run: Run, epoch: int | None) -> str:
    """`best` or `kept`: whose weights are those after `epoch`; UserError where none are."""
    kept = run.config.get("keep_epoch")
    if epoch is None or epoch == run.best_epoch:
        return "best"
    if epoch != kept:
        has = (
            f"epochs {run.best_epoch} (its best) and {kept}"
            if kept
            else f"epoch {run.best_epoch} (its best)"
        )
        raise UserError(
            f"run {run} kept the weights of {has}, not of {epoch}; train with --keep-epoch {epoch}"
        )
    return "kept"


def _by_batch(waist: Waist, small: int, large: int, data: Path, local: Path) -> str:
    """Where a search had a say in the size of validation batches: what the objective owes to it."""
    first, second = losses_by_batch(waist, waist.run("best"), [small, large], data, local).values()
    return (
        f"val_batch_size was searched, from {small} to {large}: val_loss of the best weights, computed again in batches of "
        f"{small}, {first:.6f}; in batches of {large}, {second:.6f}; difference {abs(first - second):.1g}."
    )


def _class_rows(role: str, by_split: dict[str, Evaluation]) -> list[tuple]:
    rows = []
    for split, evaluation in by_split.items():
        confusion = evaluation.confusion
        share = confusion.sum(1) / confusion.sum()
        columns = (share, *metrics.precision_recall_f1(confusion), metrics.iou(confusion))
        rows += [
            (role, split, name, *map(float, values))
            for name, *values in zip(CLASSES, *columns, strict=True)
        ]
    return rows


def _draw(
    waist: Waist, found: dict[str, Evaluation], suffix: str, when: str
) -> tuple[Picture, Table]:
    """One square of axes a run, a line a class; and the average precisions."""
    figure, (row,) = style.figure(1, len(found), height=4.6 if len(found) > 1 else 5.4, sharey=True)
    areas = {}
    for axes, (role, evaluation) in zip(row, found.items(), strict=True):
        curves = metrics.precision_recall_curves(evaluation.truth, evaluation.probabilities)
        areas[role] = {name: average_precision(curve) for name, curve in curves.items()}
        for name, (recall, precision) in curves.items():
            look = {"color": "black", "marker": "o", "markevery": 0.12}
            if name != "micro":
                look = {
                    "color": style.CLASS_COLORS[name],
                    "linestyle": style.CLASS_LINES[name],
                    "path_effects": style.OUTLINE,
                }
            axes.plot(
                *_thin(recall, precision), label=f"{name}, AP {areas[role][name]:.3f}", **look
            )
        axes.set(
            xlim=(0, 1.005),
            ylim=(0, 1.015),
            aspect="equal",
            xlabel="recall (share of the class's pixels found)",
        )
        axes.set_title(f"{role}: {waist.run(role)}")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, handlelength=3.2)
    row[0].set_ylabel("precision (share of pixels so called that are)")
    pixels = min(len(evaluation.truth) for evaluation in found.values())
    sampled = (
        "every labelled pixel"
        if pixels < SAMPLE * 0.9
        else f"a seeded sample of {pixels:,} labelled pixels"
    )
    caption = f"Precision against recall on the validation split, weights {when}, from {sampled}; micro pools all classes."
    names = [name for name in (*CLASSES, "micro") if any(name in area for area in areas.values())]
    rows = [(name, *(areas[role].get(name) for role in areas)) for name in names]
    table = Table(
        waist.folder / f"precision_recall{suffix}",
        f"Average precision on the validation split, weights {when}",
        ("class", *areas),
        rows,
    )
    return Picture(
        style.save(figure, waist.folder / f"precision_recall{suffix}.png"), caption
    ), table


def _thin(
    recall: np.ndarray, precision: np.ndarray, points: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """A few of the curve's points, as many as a figure's width can show."""
    chosen = np.unique(np.linspace(0, len(recall) - 1, points).astype(int))
    return recall[chosen], precision[chosen]


if __name__ == "__main__":
    main()

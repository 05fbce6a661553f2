"""Whether the validation split chose well: its objective against the test score of every run.

python -m analysis.selection --out results/demo --data data/demo
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from analysis import style
from analysis.cli import (
    checkpoints_option,
    command_line,
    data_option,
    print_section,
    results_option,
)
from analysis.results import ChosenRun, Results
from analysis.runs import Run
from analysis.sections import Cell, Note, Picture, Section, Table
from segmentation import metrics
from segmentation.errors import UserError

TITLE = "Validation and test"
MIN_RUNS = 3
"""Points below which a figure shows nothing."""


@click.command(context_settings={"max_content_width": 120})
@results_option
@data_option
@checkpoints_option
def main(folder: Path, data: Path, checkpoints: Path) -> None:
    """Evaluate every finished run of the sweep, and the baseline, on the test split.

    Writes OUT/selection.png (test mean IoU against the objective of the search), .csv and .md.
    Nothing is chosen by these scores. The report shows them once they exist.
    """
    results = Results.open(folder, data, checkpoints)
    print_section(make(results, candidates(results)))


def candidates(results: Results) -> list[Run]:
    """The finished runs that can be compared with the best one, the baseline included.

    Raises:
        UserError: There is no best run.
    """
    best, objective = results.best, results.sweep.objective
    runs = {run.id: run for run in (*results.sweep.runs, *results.roles().values())}
    return [run for run in runs.values() if run.comparable(best, objective)]


def evaluated(results: Results) -> list[Run]:
    """Those of the candidates that were evaluated on the test split before."""
    if not results.choice.best:
        return []
    folder = results.cache / "predictions"
    return [r for r in candidates(results) if (folder / f"{r.id}-best-test.npz").is_file()]


def make(results: Results, runs: Sequence[Run]) -> Section:
    """The figure and the table of these runs. Evaluates those that were not evaluated before.

    Raises:
        UserError: The data are not available, or fewer than MIN_RUNS runs have weights.
    """
    objective, notes, scores = results.sweep.objective, [], {}
    results.prepared  # noqa: B018 - missing or other data is one error, not one per run
    for run in runs:
        try:
            evaluation = _as_best(results, run).evaluation("best", "test")
            sums = metrics.summarize(evaluation.confusion, *map(float, evaluation.confident))
            scores[run.id] = sums["mean_iou"]
        except UserError as error:
            notes.append(Note(f"Run {run} is left out: {error.message}"))
    used = sorted((r for r in runs if r.id in scores), key=lambda r: (r.value(objective), r.id))
    if len(used) < MIN_RUNS:
        reasons = "".join(f" {note.text}." for note in notes)
        raise UserError(
            f"{len(used)} runs with test scores are too few for a figure; {MIN_RUNS} are the least."
            f"{reasons}"
        )
    rows: list[Sequence[Cell]] = [
        (run.name or run.id, run.id, run.value(objective), scores[run.id]) for run in used
    ]
    header = ("run", "id", style.objective_label(objective), "test mean IoU")
    caption = "Objective on the validation split, and mean IoU on the test split, best run first"
    file = results.folder / "selection"
    return Section(
        TITLE,
        command_line("selection", main, results),
        notes,
        [_draw(results, used, scores)],
        [Table(file, caption, header, rows, folded=True)],
    )


def _as_best(results: Results, run: Run) -> Results:
    """The same results folder, with this run in the place of the best one."""
    value = run.value(results.sweep.objective)
    chosen = ChosenRun(run.id, run.name, run.url, value, run.best_epoch, {})
    choice = replace(results.choice, best=chosen, baseline=None)
    return Results(results.folder, choice, results.sweep, results.data, results.checkpoints)


def _draw(results: Results, runs: Sequence[Run], scores: dict[str, float]) -> Picture:
    """One mark per run; the roles have their own looks."""
    from scipy.stats import spearmanr

    objective = results.sweep.objective
    values = [run.value(objective) for run in runs]
    figure, ((axes,),) = style.figure(height=3.8)
    roles = {run.id: role for role, run in results.roles().items()}
    for run, value in zip(runs, values, strict=True):
        look: dict[str, Any] = style.OUTCOMES["finished"]
        size = 7
        if run.id in roles:
            look, size = style.ROLES[roles[run.id]], 11
        mark = {"color": look["color"], "marker": look["marker"], "linestyle": ""}
        label = {"best": "best run of the search"}.get(roles.get(run.id, ""), roles.get(run.id))
        axes.plot(
            value, scores[run.id], markersize=size, markeredgecolor="white", label=label, **mark
        )
    axes.set_xlabel(f"{style.objective_label(objective)} (lower is better)")
    axes.set_ylabel("test mean IoU (higher is better)")
    axes.legend(markerscale=0.7)
    correlation = spearmanr(values, [scores[run.id] for run in runs])[0]
    caption = (
        f"The objective on the validation split against mean IoU on the test split, {len(runs)} "
        "finished runs. A search chooses from left to right; the choice was good if the marks fall "
        f"from left to right. Spearman's rank correlation: {correlation:+.2f} (-1: both splits "
        "order the runs alike)."
    )
    return Picture(style.save(figure, results.folder / "selection.png"), caption)


if __name__ == "__main__":
    main()

"""Makes all figures and tables of a sweep, and one HTML page that shows them.

python -m analysis.report entity/project/sweep_id --out results/demo --data data/demo
"""

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from analysis import (
    best_run,
    confirm,
    confusion,
    curves,
    page,
    panel,
    precision_recall,
    predict,
    selection,
    style,
    sweep,
    trained,
    verdict,
)
from analysis.cli import (
    checkpoints_option,
    command_line,
    data_option,
    refresh_option,
    results_option,
)
from analysis.results import Results, load_sweep
from analysis.runs import Sweep, check_comparable
from analysis.sections import Note, Picture, Section, Table, value_text
from analysis.verdict import Gain, Verdict
from segmentation.errors import UserError

TITLE = "The verdict"
PAGE = "report.html"


@click.command(context_settings={"max_content_width": 120})
@click.argument("sweep_path", metavar="SWEEP")
@results_option
@data_option
@checkpoints_option
@click.option(
    "--compare",
    multiple=True,
    metavar="SWEEP",
    help="Another sweep of the same data, split, loss and objective, as one more line of progress; "
    "repeatable.",
)
@click.option(
    "--confirm",
    "confirmation",
    metavar="SWEEP",
    help="A sweep of sweeps/confirm.yaml: best configuration and baseline with several seeds.",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A whole image to predict; repeatable.",
)
@click.option("--publish", is_flag=True, help="Also publish a W&B Report and a saved workspace.")
@refresh_option
def main(
    sweep_path: str,
    folder: Path,
    data: Path,
    checkpoints: Path,
    compare: tuple[str, ...],
    confirmation: str | None,
    images: tuple[Path, ...],
    publish: bool,
    refresh: bool,
) -> None:
    """Make every figure and table of SWEEP, and OUT/report.html, a page that shows them all.

    SWEEP is entity/project/sweep_id, or the address of its page.

    Works while the sweep still runs. Once all of its runs have ended, OUT/sweep.json holds the
    sweep, and no network is needed any more. A part that cannot be made is replaced by the reason.
    """
    found = load_sweep(sweep_path, folder, refresh, click.echo)
    best_run.write(found, folder)
    results, page_title = Results.open(folder, data, checkpoints), f"Sweep {found}"
    others = [results.load_other(path, refresh, click.echo) for path in compare]
    for other in others:
        check_comparable(other, results.sweep)
    confirming = None
    if confirmation:
        confirming = results.load_other(confirmation, refresh, click.echo)
        if results.choice.best:
            check_comparable(confirming, results.sweep, results.best)

    sections = [attempt(title, make) for title, make in _parts(results, images, others, confirming)]
    judged = verdict.judge(results.choice, results.sweep, _gain(results, confirming))
    on_test = _test_scores(sections)
    command = command_line(
        "report",
        main,
        results,
        sweep_path=sweep_path,
        compare=compare,
        confirmation=confirmation,
        images=images,
    )
    ends = (_overview(results, judged, on_test), _provenance(results, command))
    for section in ends:
        section.write()
    sections = [ends[0], *sections, ends[1]]
    file = folder / PAGE
    key = _key(results, judged, on_test)
    html = page.render(page_title, judged.sentence, key, sections, judged.kind)
    file.write_text(html, encoding="utf-8")
    click.echo(f"{judged.sentence}\nreport: {file}")
    if publish:
        from analysis import publish as publishing  # needs the extra `report`

        for line in publishing.publish(results, page_title, sections):
            click.echo(line)


def _parts(
    results: Results,
    images: tuple[Path, ...],
    others: Sequence[Sweep],
    confirming: Sweep | None,
) -> list[tuple[str, Callable[[], Section]]]:
    """(title, function that makes the section) of each part that can fail, in order."""
    parts: list[tuple[str, Callable[[], Section]]] = [
        ("The search", lambda: sweep.make(results, others)),
        ("Learning curves", lambda: curves.make(results)),
        (confusion.TITLE, lambda: confusion.make(results)),
        ("Precision and recall", lambda: precision_recall.make(results)),
        *((panel.TITLES[which], partial(panel_section, results, which)) for which in panel.WHICH),
    ]
    tested = selection.evaluated(results)
    if len(tested) >= selection.MIN_RUNS:
        parts.append((selection.TITLE, partial(selection.make, results, tested)))
    if confirming:
        parts.insert(0, ("Is the gain real?", partial(confirm.make, results, confirming)))
    if images:
        parts.append(("Whole images", lambda: _whole_images(results, images)))
    return parts


def attempt(title: str, make: Callable[[], Section]) -> Section:
    """The section that `make` returns, written; a section with the reason if that fails."""
    click.echo(f"{title} ...")
    try:
        section = make()
        section.write()
        return section
    except UserError as error:
        reason = error.message
    except Exception as error:  # a bug in one part must not stop the others
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        click.echo(traceback.format_exc(), err=True)
    click.echo(f"  not made: {reason}", err=True)
    return Section(title, notes=[Note(reason, warning=True)])


def panel_section(results: Results, which: str) -> Section:
    """A panel. The patches of the best one are also written one by one."""
    section = panel.make(results, which)
    if which == "best":
        panel.write_singles(results, which)
    return section


def _gain(results: Results, confirming: Sweep | None) -> Gain | None:
    """What a sweep of sweeps/confirm.yaml says; None if it cannot say anything yet."""
    try:
        return confirm.measure(results, confirming) if confirming else None
    except UserError:  # the section of the confirmation shows the reason
        return None


def _test_scores(sections: Sequence[Section]) -> dict[str, float]:
    """Role -> mean IoU on the test split, from the table of scores; empty without this table."""
    tables = [table for section in sections for table in section.tables]
    for table in tables:
        if table.file.name == "scores":
            rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
            return {
                str(row["run"]): float(row["mean IoU"] or math.nan)
                for row in rows
                if row["split"] == "test"
            }
    return {}


def _overview(results: Results, judged: Verdict, on_test: Mapping[str, float]) -> Section:
    """The verdict, what it rests on, and a table of both configurations."""
    choice = results.choice
    statements = (judged.sentence, verdict.on_test_split(judged, on_test), judged.luck, judged.cost)
    notes = [*(Note(text) for text in statements if text), *best_run.notes(choice)]
    if not choice.best:
        return Section(TITLE, notes=notes)
    searched = set(results.sweep.varied())
    other = choice.baseline.config if choice.baseline else {}
    rows = [
        (
            name,
            value_text(value),
            value_text(other[name]) if name in other else None,
            "searched" if name in searched else "",
        )
        for name, value in choice.best.config.items()
    ]
    rows.sort(key=lambda row: not row[-1])  # stable: searched ones first
    header = ("hyperparameter", "best", "baseline", "")
    file, folded = results.folder / "configuration", len(rows) > sweep.LONG_TABLE
    table = Table(file, "Configurations", header, rows, folded=folded)
    command = command_line("best_run", best_run.main, results, sweep=results.sweep.path)
    return Section(TITLE, command, notes, tables=[table])


def _key(results: Results, judged: Verdict, on_test: Mapping[str, float]) -> dict[str, str]:
    """Label -> value of the few numbers at the top of the page, the verdict first."""
    choice, objective = results.choice, style.objective_label(results.sweep.objective)
    names = {"best": "best run of the search", "baseline": "baseline"}
    key = {"Did the search beat the baseline?": verdict.ANSWERS[judged.kind]}
    for role, run in choice.roles().items():
        if role == "best" or choice.gain is not None:
            key[f"{objective}, {names[role]}"] = f"{run.objective:.4f}"
    key |= {f"test mean IoU, {names[role]}": f"{iou:.4f}" for role, iou in on_test.items()}
    counts = ", ".join(f"{count} {outcome}" for outcome, count in choice.counts.items())
    key[f"runs: {counts}" if counts else "runs"] = str(len(results.sweep.runs))
    key["epochs, all runs together"] = f"{judged.epochs:,}"
    if judged.minutes:
        key["minutes of training"] = f"{judged.minutes:,.1f}"
    return key


def _provenance(results: Results, command: str) -> Section:
    """Where the numbers come from: runs, code, data, and the command that makes the page."""
    links = {f"sweep {results.sweep}": results.sweep.url}
    links |= {f"run {run.name} ({role})": run.url for role, run in results.choice.roles().items()}
    notes = [best_run.wandb_note(results.choice)]
    return Section("Provenance", command, notes, tables=provenance_tables(results), links=links)


def provenance_tables(results: Results) -> list[Table]:
    """A table of runs, code, device and data, one column per role; none without a best run."""
    roles = results.choice.roles()
    facts = {
        "run": [run.id for run in roles.values()],
        "commit (+ if changed since)": [run.commit for run in roles.values()],
        "device": [run.device for run in roles.values()],
        "number format": [run.precision for run in roles.values()],
        "data checksum": [run.data_checksum for run in roles.values()],
        "data options": [
            ", ".join(f"{name} {value}" for name, value in run.data_options.items())
            for run in roles.values()
        ],
        "best epoch": [str(run.best_epoch) for run in roles.values()],
    }
    rows = [(fact, *values) for fact, values in facts.items()]
    header = ("", *(results.main_role if role == "best" else role for role in roles))
    file = results.folder / "provenance"
    return [Table(file, "Provenance of the runs", header, rows)] if roles else []


def _whole_images(results: Results, images: tuple[Path, ...]) -> Section:
    """Whole images, predicted with the best weights: image, classes and overlay side by side."""
    found = trained.Weights.of_run(results.weights("best"), results.best)
    (model,), size = trained.open_models([found])
    folder = results.folder / "whole"
    scale = predict.scale_for([found])
    pictures: list[Picture] = []
    for path, name in zip(images, predict.names(images), strict=True):
        section = predict.make(predict.read(path), name, folder, size, model, scale)
        pictures += section.pictures
    command = command_line(
        "predict",
        predict.main,
        results,
        images=images,
        weight_sources=str(results.folder),
        folder=folder,
    )
    return Section("Whole images", command, pictures=pictures)


if __name__ == "__main__":
    main()

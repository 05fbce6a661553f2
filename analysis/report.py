"""Makes all figures and tables of a sweep, and one HTML page that shows them.

python -m analysis.report entity/project/sweep_id --out results/demo --data data/demo
"""

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from analysis import (
    best_run,
    confirm,
    curves,
    page,
    panel,
    precision_recall,
    predict,
    style,
    sweep,
    trained,
)
from analysis.cli import (
    checkpoints_option,
    command_line,
    data_option,
    refresh_option,
    results_option,
)
from analysis.results import Results, load_sweep
from analysis.runs import Sweep
from analysis.sections import Note, Picture, Section, Table, value_text
from segmentation.errors import UserError

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
    help="Another sweep, as one more line of progress; repeatable.",
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

    command = command_line(
        "report",
        main,
        results,
        sweep_path=sweep_path,
        compare=compare,
        confirmation=confirmation,
        images=images,
    )
    parts = _parts(results, images, compare, confirmation, refresh)
    sections = [
        _overview(results),
        *(attempt(title, make) for title, make in parts),
        _provenance(results, command),
    ]
    for section in (sections[0], sections[-1]):
        section.write()
    file = folder / PAGE
    html = page.render(page_title, results.choice.statement, _key(results), sections)
    file.write_text(html, encoding="utf-8")
    click.echo(f"report: {file}")
    if publish:
        from analysis import publish as publishing  # needs the extra `report`

        for line in publishing.publish(results, page_title, sections):
            click.echo(line)


def _parts(
    results: Results,
    images: tuple[Path, ...],
    compare: tuple[str, ...],
    confirmation: str | None,
    refresh: bool,
) -> list[tuple[str, Callable[[], Section]]]:
    """(title, function that makes the section) of each part that can fail, in order."""

    def load(path: str) -> Sweep:
        return results.load_other(path, refresh, click.echo)

    parts: list[tuple[str, Callable[[], Section]]] = [
        ("Learning curves", lambda: curves.make(results)),
        ("Precision and recall", lambda: precision_recall.make(results)),
        *((panel.TITLES[which], partial(panel_section, results, which)) for which in panel.WHICH),
    ]
    if confirmation:
        parts.insert(0, ("Is the gain real?", lambda: confirm.make(results, load(confirmation))))
    if images:
        parts.append(("Whole images", lambda: _whole_images(results, images)))
    parts.append(("The search", lambda: sweep.make(results, [load(path) for path in compare])))
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


def _overview(results: Results) -> Section:
    """The choice, and a table of both configurations."""
    choice, notes = results.choice, best_run.notes(results.choice)
    if not choice.best:
        missing = Note(f"{choice.statement}.", warning=True)
        return Section("The choice", notes=[missing, *notes])
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
    header = ("hyperparameter", "best", "baseline", "")
    table = Table(results.folder / "configuration", "Configurations", header, rows)
    command = command_line("best_run", best_run.main, results, sweep=results.sweep.path)
    return Section("The choice", command, notes, tables=[table])


def _key(results: Results) -> dict[str, str]:
    """Label -> value of the few numbers at the top of the page."""
    choice, objective = results.choice, style.objective_label(results.sweep.objective)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in choice.counts.items())
    key = {f"runs: {counts}": str(len(results.sweep.runs))}
    if choice.best:
        key[f"{objective}, best run"] = f"{choice.best.objective:.4f}"
    if choice.gain is not None and choice.baseline:
        key[f"{objective}, baseline"] = f"{choice.baseline.objective:.4f}"
        key["gain: baseline minus best"] = f"{choice.gain:+.4f}"
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

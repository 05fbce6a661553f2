"""Makes all figures and tables of one run, and one HTML page that shows them.

python -m analysis.run runs/ID --data data/prepared
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

import click

from analysis import (
    best_run,
    confusion,
    curves,
    page,
    panel,
    precision_recall,
    reader,
    report,
    style,
)
from analysis.cli import FOLDER, checkpoints_option, command_line, data_option
from analysis.results import Choice, Results, WandbBest, save
from analysis.runs import Run, Sweep
from analysis.sections import Note, Section, Table, value_text
from segmentation import metrics
from segmentation.config import OBJECTIVES, Config
from segmentation.errors import UserError

CLIENT_FOLDER = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(.+)")
"""Name of the folder in wandb/ that W&B's client makes for a run; it ends with the run's id."""

LISTED = 8  # runs that an error message names

Parts = list[tuple[str, Callable[[], Section]]]


@click.command(context_settings={"max_content_width": 120})
@click.argument("name", metavar="RUN")
@click.option(
    "--out",
    "folder",
    type=FOLDER,
    help="Results folder. Default: results/run-ID.",
)
@data_option
@checkpoints_option
def main(name: str, folder: Path | None, data: Path, checkpoints: Path) -> None:
    """Make every figure and table of RUN, and OUT/report.html, a page that shows them all.

    RUN is an id in --runs, a folder such as runs/ID, the folder that W&B's client made for an
    offline run (wandb/offline-run-...), entity/project/run_id, or the address of the run's page.
    Only the last two need a server. The run may still be training. The figures' own commands, such
    as `python -m analysis.panel`, work on OUT afterwards.
    """
    source, run = find(name, checkpoints)
    results = open_run(source, run, folder or Path("results") / f"run-{run.id}", data, checkpoints)
    results.prepared  # noqa: B018 - missing or other data is reported before anything is written
    save(results.choice, results.sweep, results.folder)
    command = command_line("run", main, results, name=name, folder=folder)
    sections = [
        _overview(results),
        *(report.attempt(title, make) for title, make in _parts(results)),
        _provenance(results, command),
    ]
    sections[-1].write()
    file = results.folder / report.PAGE
    html = page.render(f"Run {run}", results.choice.statement, _key(results), sections)
    file.write_text(html, encoding="utf-8")
    click.echo(f"report: {file}")


def find(name: str, checkpoints: Path) -> tuple[str, Run]:
    """(source, run): the folder of its checkpoint, or its entity/project/run_id, and the run.

    Args:
        name: What `main` takes.
        checkpoints: Folder in which train.py made one folder per run id.

    Raises:
        UserError: There is no such run.
    """
    client = CLIENT_FOLDER.fullmatch(Path(name).name)
    for folder in (Path(name), checkpoints / (client[1] if client else name)):
        if (folder / "state.json").is_file():
            return str(folder), reader.read_checkpoint(folder)
    if client or ("://" not in name and len(urlparse(name).path.split("/")) != 3):
        raise UserError(
            f"no run {name}: there is no {folder / 'state.json'}. {_existing(checkpoints)}"
        )
    path = "/".join(reader.split_path(name, "run"))
    return path, reader.read_run(path)


def open_run(source: str, run: Run, folder: Path, data: Path, checkpoints: Path) -> Results:
    """The results of one run: those of a sweep of this run only, without a search method.

    Args:
        source: What `find` returned.
        run: The run.
        folder: The results folder; nothing is written.
        data: The prepared set on which the run was trained.
        checkpoints: Folder in which train.py made one folder per run id.
    """
    objective = next(name for name, value in OBJECTIVES.items() if value == run.judged_by)
    config = {"metric": {"name": objective, "goal": "minimize"}}
    sweep = Sweep(source, str(run), url=run.url, config=config, runs=(run,))
    choice = Choice(
        sweep=source,
        sweep_name=sweep.name,
        sweep_url=run.url,
        objective=objective,
        statement=_statement(run, objective),
        counts=sweep.outcome_counts(),
        best=best_run.chosen(run, objective, run.hyperparameters),
        baseline=None,
        lead=None,
        wandb_best=WandbBest(run.id, True, "there is only one run"),
        warnings=(best_run.LEAKS,) if run.data.get("leaks") else (),
    )
    return Results(folder, choice, sweep, data, checkpoints)


def _existing(checkpoints: Path) -> str:
    """The newest runs in `checkpoints`, in words, and what else may be named."""
    states = sorted(checkpoints.glob("*/state.json"), key=lambda file: -file.stat().st_mtime)
    names = [state.parent.name for state in states[:LISTED]]
    more = f" and {len(states) - LISTED} older ones" if len(states) > LISTED else ""
    there = f"{checkpoints} holds {', '.join(names) or 'no run'}{more}"
    return f"{there}; name one of them, another folder with --runs, or entity/project/run_id"


def _statement(run: Run, objective: str) -> str:
    """How the run ended, and its lowest objective with the epoch."""
    epochs = f"{len(run.history)} {'epoch' if len(run.history) == 1 else 'epochs'}"
    if run.best_epoch is None:
        return f"Run {run}: {run.outcome}, {epochs}, no validation scores"
    return (
        f"Run {run}: {run.outcome}, {epochs}, {style.objective_label(objective)} "
        f"{run.value(objective):.4f} at epoch {run.best_epoch}"
    )


def _parts(results: Results) -> Parts:
    """(title, function that makes the section) of each part that can fail, in order."""
    parts: Parts = [("Learning curves", lambda: curves.make(results))]
    if results.prepared.has("val"):
        parts.append((confusion.TITLE, lambda: confusion.make(results)))
        parts.append(("Precision and recall", lambda: precision_recall.make(results)))
        for which in panel.WHICH:
            parts.append((panel.TITLES[which], partial(report.panel_section, results, which)))
    return parts


def _overview(results: Results) -> Section:
    """What a reader should know about the run before its figures."""
    run, defaults = results.best, vars(Config())
    changed = [
        f"{name} {value_text(value)}"
        for name, value in run.hyperparameters.items()
        if value != defaults.get(name, value)
    ]
    notes = [Note(f"Not at its default: {', '.join(changed) or 'no hyperparameter'}")]
    if not results.prepared.has("val"):
        text = "The set has no validation split, which scores and pictures of patches need"
        notes.append(Note(text, warning=True))
    if run.outcome != "finished":
        notes.insert(0, Note(f"The run is {run.outcome}, not finished", warning=True))
    return Section("The run", notes=[*notes, *best_run.notes(results.choice)])


def _provenance(results: Results, command: str) -> Section:
    """Where the numbers come from: code, data, all hyperparameters, and the page's command."""
    run, defaults = results.best, vars(Config())
    rows = [
        (name, value_text(value), value_text(defaults[name]) if name in defaults else None)
        for name, value in run.hyperparameters.items()
    ]
    header = ("hyperparameter", "run", "default")
    configuration = Table(results.folder / "configuration", "Configuration", header, rows)
    tables = [*report.provenance_tables(results), configuration]
    return Section("Provenance", command, tables=tables, links={f"run {run}": run.url})


def _key(results: Results) -> dict[str, str]:
    """Label -> value of the few numbers at the top of the page."""
    run, objective = results.best, results.sweep.objective
    key = {}
    if run.best_epoch is not None:
        label = f"{style.objective_label(objective)}, epoch {run.best_epoch:.0f}"
        key[label] = f"{run.value(objective):.4f}"
    for split in ("val", "test"):
        if not results.prepared.has(split):
            continue
        try:
            confusion = results.evaluation(results.main_role, split).confusion
        except UserError:  # its section says why
            continue
        key[f"mean IoU, {split}"] = f"{metrics.mean_iou(confusion):.4f}"
    key["epochs"] = str(len(run.history))
    minutes = run.series("seconds")[1].sum() / 60
    return key | ({"minutes of training": f"{minutes:.1f}"} if minutes else {})


if __name__ == "__main__":
    main()

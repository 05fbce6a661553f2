"""How a sweep searched: progress, learning curves, hyperparameters and their importance.

python -m analysis.sweep --out results/demo [OTHER_SWEEP ...]
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.artist import Artist
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis import style, sweep_space
from analysis.cli import command_line, print_section, refresh_option, results_option
from analysis.results import Results
from analysis.runs import OUTCOMES, Run, Sweep, as_number, check_comparable
from analysis.scales import value_axis
from analysis.sections import Cell, Note, Picture, Section, Table, value_text
from segmentation.config import OBJECTIVES
from segmentation.errors import UserError

LONG_TABLE = 15
"""Rows from which the table of runs is folded on the page."""


@click.command(context_settings={"max_content_width": 120})
@click.argument("others", nargs=-1, metavar="[OTHER_SWEEP]...")
@results_option
@refresh_option
def main(others: tuple[str, ...], folder: Path, refresh: bool) -> None:
    """Draw how the sweep of OUT/best_run.json searched. Each OTHER_SWEEP (entity/project/sweep_id)
    adds one line to the figure of its progress.

    Writes OUT/sweep_progress.png (objective against epochs of all runs), OUT/sweep_curves.png
    (learning curves by outcome), OUT/sweep_cost.png (epochs and minutes per run),
    OUT/sweep_rate_batch.png (learning rate and batch size), OUT/sweep_parameters.png (objective
    against each hyperparameter), from 20 runs on OUT/sweep_parallel.png (parallel coordinates),
    from 30 runs on OUT/sweep_importance.png (fANOVA), and numbers as CSV. Needs no best run.
    """
    results = Results.open(folder)
    print_section(make(results, [results.load_other(o, refresh, click.echo) for o in others]))


def make(results: Results, others: Sequence[Sweep] = ()) -> Section:
    """All figures that the runs allow, and a table of the runs.

    A note gives the reason for each missing figure.

    Raises:
        UserError: One of the `others` has another data set, split, loss or objective.
    """
    for other in others:
        check_comparable(other, results.sweep)
    notes = [
        Note(line)
        for run in results.sweep.runs
        for line in run.data_problems(results.sweep.objective)
    ]
    pictures, tables = [], [_runs_table(results)]
    drawings: tuple[Callable[[Results], tuple[Picture] | tuple[Picture, Table]], ...] = (
        lambda r: _progress(r, others),
        _curves,
        _cost,
        sweep_space.rate_and_batch,
        sweep_space.parameters,
        sweep_space.parallel,
        sweep_space.importance,
    )
    for draw in drawings:
        try:
            picture, *more = draw(results)
        except UserError as error:
            notes.append(Note(error.message))
            continue
        pictures.append(picture)
        tables += more
    paths = tuple(other.path for other in others)
    command = command_line("sweep", main, results, others=paths)
    return Section("The search", command, notes, pictures, tables)


def progress(sweep: Sweep, objective: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(epochs, lowest objective so far), both (n,): the rows of all runs, ordered by time.

    Rows without a time, as other projects may have, come first, in the order of their runs.
    """
    rows = [
        (as_number(row.get("_timestamp", 0.0)), position, i, as_number(row.get(objective)))
        for position, run in enumerate(sweep.runs)
        for i, row in enumerate(run.history)
    ]
    ordered = [value for *_, value in sorted(rows, key=lambda row: row[:3])]
    values = np.array([value if math.isfinite(value) else math.inf for value in ordered])
    return np.arange(1, len(values) + 1), np.minimum.accumulate(values)


def _progress(results: Results, others: Sequence[Sweep]) -> tuple[Picture, Table]:
    objective = results.sweep.objective
    lines = {_label(sweep): progress(sweep, objective) for sweep in (results.sweep, *others)}
    lines = {label: line for label, line in lines.items() if np.isfinite(line[1]).any()}
    if not lines:
        raise UserError("no run has logged a finite objective yet: no figure of the progress")
    figure, ((axes,),) = style.figure(height=3.6)
    looks = style.SERIES * len(lines)
    for look, (label, (epochs, lowest)) in zip(looks, lines.items(), strict=False):
        at = _improvements(lowest).tolist()
        axes.step(epochs, lowest, where="post", label=label, markevery=at, **look)
    baseline = results.choice.baseline
    if baseline:
        name = f"baseline: {baseline.objective:.4f}"
        axes.axhline(baseline.objective, label=name, **style.line_of("baseline"))
    drawn = [lowest for _, lowest in lines.values()]
    value_axis(axes, np.concatenate([*drawn, [baseline.objective] if baseline else []]))
    style.epochs_axis(axes)
    label = f"{style.objective_label(objective)} so far"
    axes.set(xlabel="epochs trained, all runs together", ylabel=label)
    axes.legend()
    caption = (
        "Progress of the search: the lowest objective found so far against the epochs spent by "
        "all runs. Each mark "
        "is a new best value."
        + (" The dashed horizontal line is the baseline." if baseline else "")
    )
    rows = [
        (label, int(epochs[i]), float(lowest[i]))
        for label, (epochs, lowest) in lines.items()
        for i in _improvements(lowest)
    ]
    header = ("sweep", "epochs", objective)
    file = results.folder / "sweep_progress"
    table = Table(file, "Each new best value of the search", header, rows, ("csv",))
    return Picture(style.save(figure, file.with_suffix(".png")), caption), table


def _curves(results: Results) -> tuple[Picture]:
    sweep = results.sweep
    column, name = OBJECTIVES[sweep.objective], style.OBJECTIVE_NAMES[sweep.objective]
    curves = [(run, *run.series(column)) for run in sweep.runs]
    curves = [curve for curve in curves if len(curve[1])]
    if not curves:
        raise UserError(f"no run has a row with a finite {column}: no learning curves")
    figure, ((axes,),) = style.figure(height=3.9)
    for run, epochs, values in curves:
        look = style.OUTCOMES[run.outcome]
        axes.plot(epochs, values, linewidth=1.1, alpha=0.85, **_part(look, "color", "linestyle"))
        mark = _part(look, "color", "marker")
        axes.plot(epochs[-1], values[-1], markeredgecolor="white", markersize=6, **mark)
    for role, run in results.roles().items() if results.choice.best else ():
        width = 2.6 if role == "best" else 2.0
        axes.plot(*run.series(column), linewidth=width, zorder=4, **style.line_of(role))
    rungs = hyperband_rungs(sweep.config, max(epochs[-1] for _, epochs, _ in curves))
    for rung in rungs:
        axes.axvline(rung, color=style.GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
    style.epochs_axis(axes)
    axes.set_ylabel(f"{name} (lower is better)")
    top = value_axis(axes, np.concatenate([values for *_, values in curves]))
    above = Counter(run.outcome for run, _, values in curves if values[-1] > top)
    labels = {
        outcome: f"{outcome}: {count}"
        + (f", {above[outcome]} ending above the axis" if above[outcome] else "")
        for outcome, count in sweep.outcome_counts().items()
    }
    legend = style.outcome_legend(labels, loc="upper right")
    legend["handles"] += style.role_handles(results.choice.roles(), lines=("best", "baseline"))
    axes.legend(**legend)
    caption = f"{name.capitalize()} of every run, by outcome; a mark at the end of each curve."
    if rungs:
        listed = ", ".join(map(str, rungs))
        caption += f" The dashed lines are the epochs at which Hyperband compares runs: {listed}."
    if "stopped" in labels:
        caption += (
            " The search stopped a run early if it was worse than others after equally many "
            "epochs. The run learns of it while it trains the next epochs, so its curve may end "
            "later than the comparison."
        )
    return (Picture(style.save(figure, results.folder / "sweep_curves.png"), caption),)


def hyperband_rungs(config: dict[str, Any], last: float) -> list[int]:
    """The epochs up to `last` at which W&B's Hyperband compares runs; [] without Hyperband."""
    rule = config.get("early_terminate") or {}
    if rule.get("type") != "hyperband":
        return []
    eta = rule.get("eta", 3)  # W&B's default
    if "min_iter" in rule:
        rung, rungs = rule["min_iter"], []
        while rung <= last and eta > 1:
            rungs.append(int(rung))
            rung *= eta
        return rungs
    rungs = [int(rule.get("max_iter", 0) / eta**power) for power in range(rule.get("s", 1), 0, -1)]
    return [rung for rung in rungs if 1 <= rung <= last]


def _cost(results: Results) -> tuple[Picture]:
    """Epochs and minutes of each run, in order of the runs' creation."""
    runs = [run for run in results.sweep.runs if run.history]
    if not runs:
        raise UserError("no run has a row: no figure of time and cost")
    columns = {"epochs": [float(len(run.history)) for run in runs]}
    minutes = [run_minutes(run) for run in runs]
    if any(map(math.isfinite, minutes)):
        columns["minutes"] = minutes
    figure, axes_of = style.figure(len(columns), height=1.7 * len(columns) + 0.9, sharex=True)
    numbers = np.arange(1, len(runs) + 1)
    colors = [style.OUTCOMES[run.outcome]["color"] for run in runs]
    chosen = results.choice.roles().values()
    for axes, (name, heights) in zip(axes_of.flat, columns.items(), strict=True):
        axes.bar(numbers, np.nan_to_num(heights), color=colors, width=0.8)
        axes.set_ylabel(name)
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=name == "epochs"))
        for number, run, height in zip(numbers, runs, heights, strict=True):
            if run.id in {each.id for each in chosen} and math.isfinite(height):
                role = "best" if run.id == results.best.id else "baseline"
                mark = {name: style.ROLES[role][name] for name in ("color", "marker")}
                axes.plot(number, height, markersize=8, markeredgecolor="white", **mark)
        axes.margins(y=0.12)
    axes_of[-1, 0].set_xlabel("run, in order of creation")
    axes_of[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    groups = {outcome: [run for run in runs if run.outcome == outcome] for outcome in OUTCOMES}
    labels = {
        outcome: f"{outcome}: {sum(len(run.history) for run in group)} epochs"
        for outcome, group in groups.items()
        if group
    }
    handles: list[Artist] = [
        Patch(color=style.OUTCOMES[outcome]["color"], label=text)
        for outcome, text in labels.items()
    ]
    handles += style.role_handles({"best": 1} if results.choice.best else {}, lines=())
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    total = f"{sum(map(int, columns['epochs']))} epochs"
    if "minutes" in columns:
        total += f" and {np.nansum(minutes):.1f} minutes of training"
    caption = f"Cost of each run, by outcome; together {total}."
    return (Picture(style.save(figure, results.folder / "sweep_cost.png"), caption),)


def run_minutes(run: Run) -> float:
    """Minutes that the epochs of a run took; NaN if it did not log them."""
    seconds = run.series("seconds")[1]
    return float(seconds.sum()) / 60 if len(seconds) else math.nan


def _runs_table(results: Results) -> Table:
    sweep = results.sweep
    names = sweep.varied()
    ordered = sorted(
        sweep.runs,
        key=lambda run: (
            run.outcome != "finished",
            math.isnan(sweep.value(run)),
            sweep.value(run),
            run.id,
        ),
    )
    best = results.run("best")
    marks = {run.id: differences(run, best, sweep.objective) for run in ordered if best}
    marked = ("not comparable with the best run",) if any(marks.values()) else ()
    rows: list[Sequence[Cell]] = [
        (
            run.name or run.id,
            run.id,
            run.outcome,
            len(run.history),
            run_minutes(run),
            sweep.value(run),
            *(value_text(run.hyperparameters.get(name)) for name in names),
            *(marks[run.id] for _ in marked),
        )
        for run in ordered
    ]
    label = style.objective_label(sweep.objective)
    header = ("run", "id", "outcome", "epochs", "minutes", label, *names, *marked)
    caption = "Runs of the sweep: finished runs first, best first"
    folded = len(rows) > LONG_TABLE
    return Table(results.folder / "sweep_runs", caption, header, rows, folded=folded)


def differences(run: Run, best: Run, objective: str) -> str:
    """Why the objective of a run cannot be compared with that of the best run; empty if it can."""
    mine, theirs = run.task(objective), best.task(objective)
    different = [name for name, value in mine.items() if value != theirs[name]]
    return f"other {', '.join(different)}" if different and run.history else ""


def _part(look: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: look[name] for name in names}


def _label(sweep: Sweep) -> str:
    scheduler = (sweep.config.get("scheduler") or {}).get("engine")
    method = scheduler or sweep.config.get("method") or "unknown method"
    early = (sweep.config.get("early_terminate") or {}).get("type")
    return f"{sweep}: {method}{f' + {early}' if early else ''}, {len(sweep.runs)} runs"


def _improvements(lowest: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices at which a falling series (n,) is lower than before."""
    return np.flatnonzero(np.concatenate([[math.inf], lowest[:-1]]) > lowest)


if __name__ == "__main__":
    main()

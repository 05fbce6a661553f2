"""How a sweep searched: progress, learning curves, hyperparameters and their importance.

python -m analysis.sweep --out results/demo [OTHER_SWEEP ...]
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis import style
from analysis.cli import command_line, print_section, refresh_option, results_option
from analysis.importance import importances
from analysis.results import Results
from analysis.runs import Run, Sweep, as_number
from analysis.scales import Scale, clip_axis
from analysis.sections import Cell, Note, Picture, Section, Table, value_text
from segmentation.config import OBJECTIVES
from segmentation.errors import UserError


@click.command(context_settings={"max_content_width": 120})
@click.argument("others", nargs=-1, metavar="[OTHER_SWEEP]...")
@results_option
@refresh_option
def main(others: tuple[str, ...], folder: Path, refresh: bool) -> None:
    """Draw how the sweep of OUT/best_run.json searched. Each OTHER_SWEEP (entity/project/sweep_id)
    adds one line to the figure of its progress.

    Writes OUT/sweep_progress.png (objective against epochs of all runs), OUT/sweep_curves.png
    (learning curves by outcome), OUT/sweep_parallel.png (parallel coordinates),
    OUT/sweep_parameters.png (objective against each hyperparameter), OUT/sweep_importance.png
    (fANOVA), and their numbers as CSV. Needs no best run.
    """
    results = Results.open(folder)
    print_section(make(results, [results.load_other(o, refresh, click.echo) for o in others]))


def make(results: Results, others: Sequence[Sweep] = ()) -> Section:
    """All figures that the runs allow, and a table of the runs.

    A note gives the reason for each missing figure.
    """
    notes = [
        Note(line)
        for run in results.sweep.runs
        for line in run.data_problems(results.sweep.objective)
    ]
    pictures, tables = [], [_runs_table(results)]
    for draw in (lambda r: _progress(r, others), _curves, _parallel, _parameters, _importance):
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
        axes.axhline(baseline.objective, color=style.GREY, linestyle="--", label=name)
    style.epochs_axis(axes)
    label = f"{style.objective_label(objective)} so far"
    axes.set(xlabel="epochs trained, all runs together", ylabel=label)
    axes.legend()
    caption = (
        "Progress of the search: the lowest objective found so far against the epochs spent by "
        "all runs. Each mark "
        "is a new best value." + (" The dashed line is the baseline." if baseline else "")
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
        line = {name: look[name] for name in ("color", "linestyle")}
        axes.plot(epochs, values, linewidth=1.1, alpha=0.85, **line)
        mark = {name: look[name] for name in ("color", "marker")}
        axes.plot(epochs[-1], values[-1], markeredgecolor="white", markersize=6, **mark)
    rungs = hyperband_rungs(sweep.config, max(epochs[-1] for _, epochs, _ in curves))
    for rung in rungs:
        axes.axvline(rung, color=style.GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
    style.epochs_axis(axes)
    axes.set_ylabel(f"{name} (lower is better)")
    clip_axis(axes, np.concatenate([values for *_, values in curves]))
    counts = sweep.outcome_counts()
    labels = {outcome: f"{outcome}: {count}" for outcome, count in counts.items()}
    axes.legend(**style.outcome_legend(labels, loc="upper right"))
    caption = f"{name.capitalize()} of every run, by outcome; a mark at the end of each curve."
    if rungs:
        listed = ", ".join(map(str, rungs))
        caption += f" The dashed lines are the epochs at which Hyperband compares runs: {listed}."
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


def _compared(sweep: Sweep, figure: str) -> tuple[list[Run], list[str]]:
    """The ended runs with a finite objective, and the hyperparameters that vary in the sweep.

    Raises:
        UserError: There is nothing to compare. The message says that there is no `figure`.
    """
    ended = [run for run in sweep.runs if run.outcome != "running"]
    runs = [run for run in ended if math.isfinite(sweep.value(run))]
    if len(runs) < 2:
        raise UserError(f"fewer than two runs ended with a finite objective: no {figure}")
    if not sweep.varied():
        raise UserError(f"all runs have the same hyperparameters: no {figure}")
    return runs, sweep.varied()


def _parallel(results: Results) -> tuple[Picture]:
    runs, names = _compared(results.sweep, "parallel coordinates")
    scales = {name: Scale.of([run.hyperparameters.get(name) for run in runs]) for name in names}
    values = [results.sweep.value(run) for run in runs]
    objective = Scale.of_objective(values)
    scales[style.objective_label(results.sweep.objective)] = objective
    places = np.column_stack([scale.places for scale in scales.values()])
    colors = mpl.colormaps["cividis_r"](0.15 + 0.85 * (1 - objective.places))
    best = next(iter(results.sweep.ranked()), None)
    figure, ((axes,),) = style.figure(height=4.0)
    for i in sorted(range(len(runs)), key=lambda i: -values[i]):
        line = style.OUTCOMES[runs[i].outcome]["linestyle"]
        look = {"color": colors[i], "linewidth": 1.2, "linestyle": line}
        if runs[i] is best:
            look = {"color": "black", "linewidth": 2.6, "linestyle": "-", "label": "best run"}
        axes.plot(places[i], alpha=0.9, **look)
    for x, (name, scale) in enumerate(scales.items()):
        _parallel_axis(axes, x, name, scale)
    axes.set(xlim=(-0.1, len(names) + 0.35), ylim=(-0.05, 1.05), xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if best:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.01))
    caption = (
        "Parallel coordinates: one line per run, through its hyperparameters to its objective. "
        "Darker lines are better runs; line styles are those of the learning curves."
    )
    return (Picture(style.save(figure, results.folder / "sweep_parallel.png"), caption),)


def _parallel_axis(axes: Axes, x: int, name: str, scale: Scale) -> None:
    axes.axvline(x, color="black", linewidth=0.8)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    look: dict[str, Any] = {"fontsize": 7.5, "va": "center", "zorder": 9, "bbox": box}
    for place, text in scale.ticks():
        axes.annotate(text, (x, place), (3, 0), textcoords="offset points", **look)
    title = f"{name} (log)" if scale.log else name
    axes.text(x, 1.06, title, ha="center", va="bottom", fontsize=8.5)


def _parameters(results: Results) -> tuple[Picture]:
    runs, names = _compared(results.sweep, "figure of the objective by hyperparameter")
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, grid = style.figure(lines, columns, height=2.5 * lines + 0.5, sharey=True)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    values = [results.sweep.value(run) for run in runs]
    for axes, name in zip(grid.flat, names, strict=False):
        _scatter(axes, name, runs, values)
    for axes in grid[:, 0]:
        axes.set_ylabel(style.objective_label(results.sweep.objective))
    clip_axis(grid[0, 0], np.array(values))
    outcomes = {run.outcome for run in runs}
    labels = {outcome: outcome for outcome in results.sweep.outcome_counts() if outcome in outcomes}
    legend = style.outcome_legend(labels, loc="outside lower center", ncols=len(labels))
    for handle in legend["handles"]:
        handle.set_linestyle("")
    figure.legend(**legend)
    caption = "The objective of each run against each hyperparameter that differs between the runs."
    return (Picture(style.save(figure, results.folder / "sweep_parameters.png"), caption),)


def _scatter(axes: Axes, name: str, runs: Sequence[Run], objectives: Sequence[float]) -> None:
    """The objective of each run against one hyperparameter."""
    values = [run.hyperparameters.get(name) for run in runs]
    scale = Scale.of(values)
    for run, value, objective in zip(runs, values, objectives, strict=True):
        x: Any = scale.texts.index(value_text(value)) if scale.texts else value
        mark: dict[str, Any] = {
            key: style.OUTCOMES[run.outcome][key] for key in ("color", "marker")
        }
        shape: dict[str, Any] = {"linestyle": "", "markeredgecolor": "white", "markersize": 7}
        axes.plot(x, objective, **mark, **shape)
    if scale.texts:
        axes.set_xticks(range(len(scale.texts)), scale.texts)
        axes.margins(x=0.2)
    elif scale.log:
        axes.set_xscale("log")
    if scale.labelled:
        axes.set_xticks(scale.labelled, [f"{value:g}" for value in scale.labelled])
        axes.minorticks_off()
    elif not scale.texts and not scale.log:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=scale.whole))
    axes.set_xlabel(name)


def _importance(results: Results) -> tuple[Picture, Table]:
    shares, used = importances(results.sweep)
    figure, ((axes,),) = style.figure(height=0.5 * len(shares) + 1.1)
    axes.barh(list(shares), list(shares.values()), color=style.BLUE, height=0.6)
    for name, share in shares.items():
        axes.text(share + 0.01, name, f"{share:.2f}", va="center", fontsize=8.5)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.05), xlabel="importance (fraction of the objective's variance, fANOVA)")
    axes.grid(visible=False, axis="y")
    caption = (
        f"Importance of each hyperparameter by fANOVA over {used} finished and stopped runs. With "
        "fewer than about 50 runs these values are uncertain."
    )
    file = results.folder / "sweep_importance"
    table = Table(file, caption, ("hyperparameter", "importance"), list(shares.items()), ("csv",))
    return Picture(style.save(figure, file.with_suffix(".png")), caption), table


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
    rows: list[Sequence[Cell]] = [
        (
            run.name or run.id,
            run.id,
            run.outcome,
            len(run.history),
            sweep.value(run),
            *(value_text(run.hyperparameters.get(name)) for name in names),
        )
        for run in ordered
    ]
    header = ("run", "id", "outcome", "epochs", sweep.objective, *names)
    caption = "Runs of the sweep: finished runs first, best first"
    return Table(results.folder / "sweep_runs", caption, header, rows)


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

"""Figures of a search's hyperparameters: how the objective depends on them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis import style
from analysis.importance import MIN_RUNS, importances
from analysis.results import Results
from analysis.runs import Run, Sweep
from analysis.scales import LOG_RATIO, Scale, axis_top, round_ticks, set_ticks, value_axis
from analysis.sections import Picture, Table, value_text
from segmentation.errors import UserError

MIN_PARALLEL = 20
"""Parallel coordinates of fewer runs show nothing that the other figures do not show better."""

SPREAD = 0.5
"""Width, in distances between two texts of an axis, over which runs of one text are spread."""


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


def _usual(sweep: Sweep, runs: Sequence[Run]) -> NDArray[np.float64]:
    """The objectives that set the ends of axes: not those of runs that diverged, if others ran."""
    values = [sweep.value(run) for run in runs if run.outcome in ("finished", "stopped")]
    return np.array(values or [sweep.value(run) for run in runs])


def parameters(results: Results) -> tuple[Picture]:
    """The objective of each run against each hyperparameter that varies, one axes each."""
    runs, names = _compared(results.sweep, "figure of the objective by hyperparameter")
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, grid = style.figure(lines, columns, height=2.5 * lines + 0.6, sharey=True)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    values = [results.sweep.value(run) for run in runs]
    baseline = results.choice.baseline
    chosen = results.choice.best.id if results.choice.best else None
    reference = [baseline.objective] if baseline else []
    usual = np.append(_usual(results.sweep, runs), reference)
    top = value_axis(grid[0, 0], np.array(values + reference), usual)
    for axes, name in zip(grid.flat, names, strict=False):
        if baseline:
            axes.axhline(baseline.objective, zorder=0, **style.line_of("baseline"))
        _scatter(axes, name, runs, np.minimum(values, top), chosen)
    for axes in grid[:, 0]:
        axes.set_ylabel(style.objective_label(results.sweep.objective))
    outcomes = {run.outcome for run in runs}
    labels = {outcome: outcome for outcome in results.sweep.outcome_counts() if outcome in outcomes}
    legend = style.outcome_legend(labels)
    for handle in legend["handles"]:
        handle.set_linestyle("")
    legend["handles"] += style.role_handles(results.choice.roles(), lines=("baseline",))
    figure.legend(**legend, loc="outside lower center", ncols=len(legend["handles"]))
    longest = max(len(run.history) for run in runs)
    caption = (
        "The objective of each run against each hyperparameter that differs between the runs. The "
        f"area of a mark grows with the epochs of its run, up to {longest}. Runs with the same "
        "word are spread sideways."
    ) + (" Values above the axis are drawn at its upper end." if math.isfinite(top) else "")
    return (Picture(style.save(figure, results.folder / "sweep_parameters.png"), caption),)


def _scatter(
    axes: Axes, name: str, runs: Sequence[Run], objectives: NDArray[np.float64], best: str | None
) -> None:
    """The objective of each run against one hyperparameter. `best` is the id of the best run."""
    values: list[Any] = [run.hyperparameters.get(name) for run in runs]
    scale = Scale.of(values)
    longest = max(1, *(len(run.history) for run in runs))
    for i, (run, value, objective) in enumerate(zip(runs, values, objectives, strict=True)):
        x: Any = value
        if scale.texts:  # the golden ratio spreads any number of runs evenly
            x = scale.texts.index(value_text(value)) + SPREAD * ((i * 0.618034) % 1 - 0.5)
        look = style.ROLES["best"] if run.id == best else style.OUTCOMES[run.outcome]
        mark: dict[str, Any] = {key: look[key] for key in ("color", "marker")}
        size = 4 + 5 * math.sqrt(len(run.history) / longest)
        shape: dict[str, Any] = {
            "linestyle": "",
            "markeredgecolor": "white",
            "alpha": 0.85,
            "clip_on": False,
        }
        axes.plot(x, objective, markersize=size, zorder=3 + (run.id == best), **mark, **shape)
    if scale.texts:
        axes.set_xticks(range(len(scale.texts)), scale.texts)
        axes.margins(x=0.2)
    elif scale.log:
        axes.set_xscale("log")
    if not scale.texts:
        low, high = min(values), max(values)
        set_ticks(axes.xaxis, scale.labelled or round_ticks(low, high, scale.log, scale.whole))
    axes.set_xlabel(name)


def rate_and_batch(results: Results) -> tuple[Picture]:
    """Learning rate against batch size, coloured by the objective."""
    names = ("batch_size", "learning_rate")
    what = "figure of learning rate and batch size"
    runs, varied = _compared(results.sweep, what)
    if not set(names) <= set(varied):
        raise UserError(f"learning rate and batch size were not both searched: no {what}")
    values = np.array([results.sweep.value(run) for run in runs])
    figure, ((axes,),) = style.figure(height=3.9)
    norm = _norm(_usual(results.sweep, runs))
    for i in np.argsort(-values):  # good runs are drawn over bad ones
        run = runs[i]
        place = [[run.hyperparameters[name]] for name in names]
        mark = style.OUTCOMES[run.outcome]["marker"]
        color = style.GOOD_TO_BAD(norm(values[i]))
        edge: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.6, "zorder": 3}
        axes.scatter(*place, s=70, color=[color], marker=mark, **edge)
    for role, run in results.roles().items() if results.choice.best else ():
        ring = {"markersize": 15, "markerfacecolor": "none", "markeredgewidth": 1.8, "zorder": 2}
        color = style.ROLES[role]["color"]
        place = [run.hyperparameters[name] for name in names]
        label = "best run" if role == "best" else role
        axes.plot(*place, marker="o", linestyle="", markeredgecolor=color, label=label, **ring)
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="learning rate")
    for axis, name in zip((axes.xaxis, axes.yaxis), names, strict=True):
        searched = [run.hyperparameters[name] for run in runs]
        wide = max(searched) / min(searched) >= LOG_RATIO
        set_ticks(axis, round_ticks(min(searched), max(searched), wide, name == "batch_size"))
    grey: dict[str, Any] = {"linestyle": "", "color": style.GREY, "markersize": 11}
    handles = [
        Line2D([], [], label=outcome, marker=look["marker"], **grey)
        for outcome, look in style.OUTCOMES.items()
        if outcome in {run.outcome for run in runs}
    ]
    handles += [each for each in axes.lines if not each.get_label().startswith("_")]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), markerscale=0.6)
    _colorbar(axes, norm, results.sweep.objective, values)
    caption = (
        "Learning rate and batch size of each run, coloured by the objective: darker is better. "
        "The shapes of the marks are those of the outcomes in the other figures."
    )
    return (Picture(style.save(figure, results.folder / "sweep_rate_batch.png"), caption),)


def _norm(values: NDArray[np.float64]) -> Normalize:
    """The range of the colours of an objective. Very bad values share the last colour."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low >= LOG_RATIO:
        return LogNorm(low, high)
    return Normalize(low, max(axis_top(values), low + 1e-9))


def _colorbar(axes: Axes, norm: Normalize, objective: str, values: NDArray[np.float64]) -> None:
    """A colour bar of the objective, with an arrow if some values are above its end."""
    mappable = ScalarMappable(norm, style.GOOD_TO_BAD)
    extend = "max" if np.max(values) > float(norm.vmax or 0) else "neither"
    figure = axes.get_figure()
    assert figure
    bar = figure.colorbar(mappable, ax=axes, extend=extend)
    bar.set_label(style.objective_label(objective))
    if isinstance(norm, LogNorm):
        set_ticks(
            bar.ax.yaxis,
            round_ticks(float(norm.vmin or 1), float(norm.vmax or 1), log=True, least=3),
        )


def parallel(results: Results) -> tuple[Picture]:
    """Parallel coordinates: one line per run through its hyperparameters to its objective."""
    runs, names = _compared(results.sweep, "parallel coordinates")
    if len(runs) < MIN_PARALLEL:
        raise UserError(
            f"parallel coordinates need {MIN_PARALLEL} runs with a finite objective; this sweep "
            f"has {len(runs)}"
        )
    scales = {name: Scale.of([run.hyperparameters.get(name) for run in runs]) for name in names}
    values = [results.sweep.value(run) for run in runs]
    objective = Scale.of_objective(values, _usual(results.sweep, runs))
    scales[style.objective_label(results.sweep.objective)] = objective
    places = np.column_stack([scale.places for scale in scales.values()])
    best = next(iter(results.sweep.ranked()), None)
    figure, ((axes,),) = style.figure(height=4.0)
    for i in sorted(range(len(runs)), key=lambda i: -values[i]):
        line = style.OUTCOMES[runs[i].outcome]["linestyle"]
        color = style.GOOD_TO_BAD(objective.places[i])
        look: dict[str, Any] = {"color": color, "linewidth": 1.2, "linestyle": line}
        if runs[i] is best:
            look = style.line_of("best") | {"linewidth": 2.6, "label": "best run"}
        axes.plot(places[i], alpha=0.9, **look)
    for x, (name, scale) in enumerate(scales.items()):
        _parallel_axis(axes, x, name, scale)
    axes.set(xlim=(-0.1, len(names) + 0.35), ylim=(-0.05, 1.05), xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if best:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.01))
    _colorbar(
        axes, Normalize(objective.low, objective.high), results.sweep.objective, np.array(values)
    )
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


def importance(results: Results) -> tuple[Picture, Table]:
    """Importance of each hyperparameter by fANOVA, with its uncertainty."""
    shares, used = importances(results.sweep)
    figure, ((axes,),) = style.figure(height=0.5 * len(shares) + 1.1)
    means, errors = zip(*shares.values(), strict=True)
    bars: dict[str, Any] = {"height": 0.6, "color": style.GREY, "capsize": 4}
    axes.barh(list(shares), means, xerr=errors, **bars)
    for name, (share, error) in shares.items():
        axes.text(share + error + 0.02, name, f"{share:.2f} ± {error:.2f}", va="center", size=8.5)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.25), xlabel="importance (fraction of the objective's variance, fANOVA)")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(visible=False, axis="y")
    caption = (
        f"Importance of each hyperparameter by fANOVA over {used} finished and stopped runs, with "
        "the standard deviation over samples of the runs, drawn with replacement. Fewer than "
        f"{MIN_RUNS} runs would say nothing."
    )
    file = results.folder / "sweep_importance"
    header = ("hyperparameter", "importance", "standard deviation")
    rows = [(name, *values) for name, values in shares.items()]
    return Picture(style.save(figure, file.with_suffix(".png")), caption), Table(
        file, caption, header, rows, ("csv",)
    )

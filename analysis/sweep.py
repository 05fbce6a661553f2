"""What a sweep did with its budget: progress, learning curves, hyperparameters, importance; several sweeps on the same axes.

python -m analysis.sweep --out results/demo [OTHER_SWEEP ...]
"""

import math
from collections.abc import Sequence
from pathlib import Path

import click
import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from analysis import runs, style
from analysis.importance import importances
from analysis.records import Run, Sweep, number
from analysis.sections import Picture, Section, Table, value_text
from analysis.waist import Waist, refresh_option, results_option, tell
from segmentation.config import OBJECTIVE
from segmentation.errors import UserError

LOG_FROM = 10  # a numeric hyperparameter whose values span at least this factor is drawn on a logarithmic axis
FEW = 8  # distinct values, up to which an axis names each of them
NEAR = 0.1  # of an axis: labels of values closer than this run into one another
FOCUS = 3.0  # an axis shows no more than this many times the distance from the best value to the upper quartile


@click.command(context_settings={"max_content_width": 120})
@click.argument("others", nargs=-1, metavar="[OTHER_SWEEP]...")
@results_option
@refresh_option
def main(others: tuple[str, ...], folder: Path, refresh: bool) -> None:
    """Draw how the sweep of OUT/best_run.json searched; each OTHER_SWEEP (entity/project/sweep_id)
    is one more line of progress.

    Writes OUT/sweep_progress.png (objective against cumulative epochs), OUT/sweep_curves.png (learning curves by outcome),
    OUT/sweep_parallel.png (parallel coordinates), OUT/sweep_parameters.png (objective against each hyperparameter),
    OUT/sweep_importance.png (fANOVA) and the numbers in them as CSV. Works without a best run.
    """
    waist = Waist.open(folder)
    tell(make(waist, [runs.load(other, waist.cache, refresh, click.echo) for other in others]))


def make(waist: Waist, others: Sequence[Sweep] = ()) -> Section:
    """Every figure that the runs allow; what they do not is a note."""
    notes = [line for run in waist.sweep.runs for line in run.oddities()]
    pictures, tables = [], []
    for draw in (_progress, _curves, _parallel, _parameters, _importance):
        try:
            picture, table = draw(
                waist.folder, [waist.sweep, *others] if draw is _progress else waist.sweep
            )
        except UserError as error:
            notes.append(str(error))
            continue
        pictures.append(picture)
        tables += [table] if table else []
    table = _runs_table(waist.folder, waist.sweep)
    command = " ".join(
        ["python -m analysis.sweep", *(other.path for other in others), "--out", str(waist.folder)]
    )
    return Section("The search", command, notes, pictures, [table, *tables])


def progress(sweep: Sweep) -> tuple[np.ndarray, np.ndarray]:
    """(cumulative epochs, lowest objective so far), both (n,): all rows of all runs in the order in which they were logged.

    Rows without a time, as other projects may have, come in the order of their runs.
    """
    rows = [
        (
            number(row.get("_timestamp")) if "_timestamp" in row else 0.0,
            place,
            i,
            number(row.get(OBJECTIVE)),
        )
        for place, run in enumerate(sweep.runs)
        for i, row in enumerate(run.history)
    ]
    values = np.array(
        [
            value if math.isfinite(value) else math.inf
            for *_, value in sorted(rows, key=lambda row: row[:3])
        ]
    )
    return np.arange(1, len(values) + 1), np.minimum.accumulate(values) if len(values) else values


def _progress(folder: Path, sweeps: list[Sweep]) -> tuple[Picture, Table]:
    lines = {_label(sweep): progress(sweep) for sweep in sweeps}
    lines = {label: line for label, line in lines.items() if np.isfinite(line[1]).any()}
    if not lines:
        raise UserError(
            "no run logged a finite objective yet: nothing to draw the search's progress from"
        )
    figure, ((axes,),) = style.figure(height=3.6)
    for look, (label, (epochs, lowest)) in zip(
        style.SERIES * len(lines), lines.items(), strict=False
    ):
        axes.step(
            epochs, lowest, where="post", label=label, markevery=_improvements(lowest), **look
        )
    axes.set(xlabel="epochs trained, all runs together", ylabel=f"lowest {OBJECTIVE} so far")
    axes.legend()
    caption = "What the search bought for its budget: the lowest objective found so far against the epochs spent, a mark a new best."
    rows = [
        (label, int(epoch), float(value))
        for label, (epochs, lowest) in lines.items()
        for epoch, value in zip(
            epochs[_improvements(lowest)], lowest[_improvements(lowest)], strict=True
        )
    ]
    table = Table(
        folder / "sweep_progress",
        "Each new best of the search",
        ("sweep", "epochs", OBJECTIVE),
        rows,
        ("csv",),
    )
    return Picture(style.save(figure, folder / "sweep_progress.png"), caption), table


def _curves(folder: Path, sweep: Sweep) -> tuple[Picture, None]:
    drawn = [(run, *run.series("val_loss")) for run in sweep.runs]
    drawn = [(run, epochs, losses) for run, epochs, losses in drawn if len(epochs)]
    if not drawn:
        raise UserError("no run has a row with a finite val_loss: no learning curves")
    figure, ((axes,),) = style.figure(height=3.9)
    for run, epochs, losses in drawn:
        look = style.OUTCOMES[run.outcome]
        axes.plot(
            epochs,
            losses,
            color=look["color"],
            linestyle=look["linestyle"],
            linewidth=1.1,
            alpha=0.85,
        )
        axes.plot(
            epochs[-1],
            losses[-1],
            marker=look["marker"],
            color=look["color"],
            markeredgecolor="white",
            markersize=6,
        )
    rungs = hyperband_rungs(sweep.config, max(epochs[-1] for _, epochs, _ in drawn))
    for rung in rungs:
        axes.axvline(rung, color=style.GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
    style.epochs_axis(axes)
    axes.set_ylabel("validation loss (no unit; lower is better)")
    _focus(axes, np.concatenate([losses for *_, losses in drawn]))
    counts = sweep.counts()
    legend = axes.legend(**style.outcome_legend(counts, loc="upper right"))
    for text, (outcome, count) in zip(legend.get_texts(), counts.items(), strict=True):
        text.set_text(f"{outcome}: {count}")
    caption = "Validation loss of every run, by how it ended; a mark where its curve ends."
    caption += (
        f" Hyperband judges at the dashed lines, epoch {', '.join(map(str, rungs))}."
        if rungs
        else ""
    )
    return Picture(style.save(figure, folder / "sweep_curves.png"), caption), None


def hyperband_rungs(config: dict, last: float) -> list[int]:
    """The epochs at which W&B's Hyperband of this sweep compares runs, up to `last`; none without one."""
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


def _comparable(sweep: Sweep) -> list[Run]:
    found = [run for run in sweep.runs if math.isfinite(run.objective) and run.outcome != "running"]
    if len(found) < 2:
        raise UserError(
            "fewer than two runs ended with a finite objective: no hyperparameters to compare"
        )
    return found


def _parallel(folder: Path, sweep: Sweep) -> tuple[Picture, None]:
    found, names = _comparable(sweep), sweep.varied()
    if not names:
        raise UserError("all runs have the same hyperparameters: no parallel coordinates")
    figure, ((axes,),) = style.figure(height=4.0)
    scales = [Scale([run.config.get(name) for run in found]) for name in names]
    objective = Scale([run.objective for run in found], rank=True)
    places = np.column_stack([*(scale.places for scale in scales), objective.places])
    finished = {run.id: i for i, run in enumerate(sweep.ranked())}
    colors = mpl.colormaps["cividis_r"](0.15 + 0.85 * (1 - objective.places))
    for i in sorted(range(len(found)), key=lambda i: -found[i].objective):
        best = finished.get(found[i].id) == 0
        look = {
            "color": colors[i],
            "linewidth": 1.2,
            "linestyle": style.OUTCOMES[found[i].outcome]["linestyle"],
            "alpha": 0.9,
        }
        axes.plot(
            places[i],
            **look
            | (
                {"color": "black", "linewidth": 2.6, "linestyle": "-", "label": "best run"}
                if best
                else {}
            ),
        )
    for x, (name, scale) in enumerate(zip([*names, OBJECTIVE], [*scales, objective], strict=True)):
        axes.axvline(x, color="black", linewidth=0.8)
        for place, text in scale.ticks():
            axes.annotate(
                text,
                (x, place),
                (3, 0),
                textcoords="offset points",
                fontsize=7.5,
                va="center",
                zorder=9,
                **BOX,
            )
        axes.text(
            x, 1.06, name + (" (log)" if scale.log else ""), ha="center", va="bottom", fontsize=8.5
        )
    axes.set(xlim=(-0.1, len(names) + 0.35), ylim=(-0.05, 1.05), xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if finished:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.01))
    caption = "Parallel coordinates: a line a run through its hyperparameters to its objective, darker is better; line styles as above."
    return Picture(style.save(figure, folder / "sweep_parallel.png"), caption), None


BOX = {"bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}}


class Scale:
    """Values of one hyperparameter, or of the objective, as places 0..1 along an axis."""

    def __init__(self, values: list, rank: bool = False):
        numeric = all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in values
        )
        self.words = None if numeric else sorted({value_text(value) for value in values})
        raw = np.array(
            values if numeric else [self.words.index(value_text(value)) for value in values], float
        )
        self.log = bool(
            numeric and not rank and raw.min() > 0 and raw.max() / raw.min() >= LOG_FROM
        )
        self.distinct = sorted(set(raw.tolist()))
        raw = np.log10(raw) if self.log else raw
        top = (
            _top(raw) if rank else raw.max()
        )  # a diverged run must not squeeze all others together
        self.low, self.high = raw.min(), max(top, raw.min() + 1e-12)
        self.whole = numeric and all(float(value).is_integer() for value in values)
        self.clipped = raw.max() > self.high
        self.places = np.clip((raw - self.low) / (self.high - self.low), 0, 1)
        apart = np.diff(np.unique(self.places)).min(initial=1.0)
        self.named = numeric and not rank and len(self.distinct) <= FEW and apart >= NEAR

    def ticks(self) -> list[tuple[float, str]]:
        """Places and their labels."""
        if self.words is not None:
            return [(i / max(1, len(self.words) - 1), word) for i, word in enumerate(self.words)]
        if self.named:
            values = np.log10(self.distinct) if self.log else np.array(self.distinct)
            return [
                ((raw - self.low) / (self.high - self.low), f"{v:g}")
                for raw, v in zip(values, self.distinct, strict=True)
            ]
        raw = np.linspace(self.low, self.high, 5)
        values = 10**raw if self.log else raw
        texts = [f"{value:.0f}" if self.whole else f"{value:.3g}" for value in values]
        texts[-1] = ("≥ " if self.clipped else "") + texts[-1]
        return list(zip(np.linspace(0, 1, 5), texts, strict=True))


def _parameters(folder: Path, sweep: Sweep) -> tuple[Picture, None]:
    found, names = _comparable(sweep), sweep.varied()
    if not names:
        raise UserError(
            "all runs have the same hyperparameters: nothing to draw the objective against"
        )
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, grid = style.figure(lines, columns, height=2.5 * lines + 0.5, sharey=True)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid.flat, names, strict=False):
        values = [run.config.get(name) for run in found]
        scale = Scale(values)
        for run, value in zip(found, values, strict=True):
            look = style.OUTCOMES[run.outcome]
            x = value if scale.words is None else scale.words.index(value_text(value))
            axes.plot(
                x,
                run.objective,
                marker=look["marker"],
                color=look["color"],
                linestyle="",
                markeredgecolor="white",
                markersize=7,
            )
        if scale.words is not None:
            axes.set_xticks(range(len(scale.words)), scale.words)
            axes.margins(x=0.2)
        elif scale.log:
            axes.set_xscale("log")
        if scale.named:
            axes.set_xticks(scale.distinct, [f"{value:g}" for value in scale.distinct])
            axes.minorticks_off()
        elif scale.words is None and not scale.log:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(name)
    for axes in grid[:, 0]:
        axes.set_ylabel(OBJECTIVE)
    _focus(grid[0, 0], np.array([run.objective for run in found]))
    outcomes = [
        outcome for outcome in sweep.counts() if any(run.outcome == outcome for run in found)
    ]
    legend = style.outcome_legend(outcomes, loc="outside lower center", ncols=len(outcomes))
    for handle in legend["handles"]:
        handle.set_linestyle("")
    figure.legend(**legend)
    caption = "The objective of each run against each hyperparameter that was searched."
    return Picture(style.save(figure, folder / "sweep_parameters.png"), caption), None


def _importance(folder: Path, sweep: Sweep) -> tuple[Picture, Table]:
    shares, used = importances(sweep)
    figure, ((axes,),) = style.figure(height=0.5 * len(shares) + 1.1)
    names = list(shares)
    axes.barh(names, list(shares.values()), color=style.BLUE, height=0.6)
    for name, share in shares.items():
        axes.text(share + 0.01, name, f"{share:.2f}", va="center", fontsize=8.5)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.05), xlabel="importance (share of the objective's variance, fANOVA)")
    axes.grid(visible=False, axis="y")
    caption = f"Importance of each hyperparameter by fANOVA over {used} finished and stopped runs; little is certain below some 50."
    table = Table(
        folder / "sweep_importance",
        caption,
        ("hyperparameter", "importance"),
        list(shares.items()),
        ("csv",),
    )
    return Picture(style.save(figure, folder / "sweep_importance.png"), caption), table


def _runs_table(folder: Path, sweep: Sweep) -> Table:
    names = sweep.varied()
    ordered = sorted(
        sweep.runs, key=lambda run: (run.outcome != "finished", _last(run.objective), run.id)
    )
    rows = [
        (
            run.name or run.id,
            run.id,
            run.outcome,
            len(run.history),
            run.objective,
            *(value_text(run.config.get(n)) for n in names),
        )
        for run in ordered
    ]
    header = ("run", "id", "outcome", "epochs", OBJECTIVE, *names)
    return Table(
        folder / "sweep_runs",
        "Runs of the sweep, the finished ones first, best first",
        header,
        rows,
    )


def _label(sweep: Sweep) -> str:
    method = (
        (sweep.config.get("scheduler") or {}).get("engine")
        or sweep.config.get("method")
        or "unknown method"
    )
    early = (sweep.config.get("early_terminate") or {}).get("type")
    return f"{sweep}: {method}{f' + {early}' if early else ''}, {len(sweep.runs)} runs"


def _improvements(lowest: np.ndarray) -> list[int]:
    """Where a falling series (n,) is lower than before."""
    return np.flatnonzero(np.concatenate([[math.inf], lowest[:-1]]) > lowest).tolist()


def _focus(axes, values: np.ndarray) -> None:
    """Keep one very bad value from squeezing all others; the axis says so."""
    finite = values[np.isfinite(values)]
    low, top, high = finite.min(), _top(finite), finite.max()
    if high > top > low:
        margin = 0.06 * (top - low)
        axes.set_ylim(low - margin, top + margin)
        beyond = int((finite > top + margin).sum())
        axes.set_title(
            f"{beyond} value{'s' * (beyond > 1)} above the axis, up to {high:.3g}",
            fontsize=8,
            color="#555555",
        )


def _top(values: np.ndarray) -> float:
    """Where an axis for these finite values (n,) ends, lest a diverged run squeezes all others together."""
    limit = values.min() + FOCUS * max(np.quantile(values, 0.75) - values.min(), 1e-9)
    return float(values[values <= limit].max())


def _last(value: float) -> float:
    return math.inf if math.isnan(value) else value


if __name__ == "__main__":
    main()

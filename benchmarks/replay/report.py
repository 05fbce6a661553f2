"""From the lines of replays to a Markdown page, a CSV file and a figure. Knows no engine."""

import csv
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from analysis import style
from benchmarks.replay.lines import AFTER, CHECKPOINTS, WITHIN, Line

FLOOR = 0.1  # % of regret, the lower end of the figure: a logarithmic axis cannot show 0

CURVES = {"dubai": "real curves", "synthetic": "made-up curves"}
"""Task -> what titles call it."""

Look = dict[str, Any]
"""Colour and line style of an engine."""

LOOKS: dict[str, Look] = {
    "ours multifidelity": style.SEARCHES["multifidelity"],
    "syne-tune asha": style.SEARCHES["hyperband"],
    "optuna tpe + asha from 3": style.SEARCHES["tpe"],
    "wandb bayes + hyperband": style.SEARCHES["bayes"],
    "hpbandster bohb": style.SEARCHES["bohb"],
    "syne-tune mobster": style.SEARCHES["tpe_halving"],
    "optuna gp + asha from 3": style.SEARCHES["random"],
}
"""Engine of the figure -> its look, in every panel of every figure.

The last two engines have no search in style.SEARCHES and use the looks that are left.
"""


class Setting(NamedTuple):
    """What the engines of one table have in common."""

    task: str
    agents: int
    budget: int

    def __str__(self) -> str:
        return f"{self.task}: {self.agents} agents, {self.budget:,} epochs"


Groups = dict[Setting, dict[str, list[Line]]]
"""Setting -> engine -> its lines by seed. The engine that comes near the optimum first is first."""


def group(lines: list[Line]) -> Groups:
    """The lines by setting and engine."""

    def setting(line: Line) -> Setting:
        return Setting(*(line[name] for name in Setting._fields))

    groups: Groups = {}
    ordered = sorted(lines, key=lambda line: (setting(line), line["engine"], line["seed"]))
    for one, of in groupby(ordered, setting):
        engines = {name: list(rows) for name, rows in groupby(of, lambda line: line["engine"])}
        ranked = sorted(
            engines.items(), key=lambda item: statistics.geometric_mean(spent(item[1], WITHIN[0]))
        )
        groups[one] = dict(ranked)
    return groups


def spent(rows: list[Line], within: float, unit: str = "epochs") -> list[float]:
    """Cost of coming within a fraction of the optimum, one value per row.

    Args:
        rows: Lines of one engine.
        within: A value of WITHIN.
        unit: epochs or seconds. A row that did not come so near counts with all that it spent.
    """
    whole = {"epochs": "budget", "seconds": "seconds"}[unit]
    reached = ((row[f"{unit} {within:g}"], row[whole]) for row in rows)
    return [budget if value is None else value for value, budget in reached]


def _mean_spent(rows: list[Line], within: float, unit: str = "epochs") -> str:
    return f"{statistics.geometric_mean(spent(rows, within, unit)):.0f}"


def _quartiles(rows: list[Line]) -> str:
    low, middle, high = np.percentile(spent(rows, WITHIN[0]), [25, 50, 75])
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def _fraction_reached(rows: list[Line], within: float) -> str:
    reached = [row[f"epochs {within:g}"] is not None for row in rows]
    return f"{100 * np.mean(reached):.0f} %"


def _known(rows: list[Line], name: str, average: Callable[[list[float]], float], form: str) -> str:
    """The average of a column over the rows that have it; - if none has."""
    values = [row[name] for row in rows if row[name] is not None]
    return form.format(average(values)) if values else "-"


def _percent(regrets: list[float]) -> float:
    return 100 * statistics.median(regrets)


def _multiple_of_oracle(rows: list[Line]) -> str:
    costs = zip(spent(rows, WITHIN[0]), rows, strict=True)
    return f"{statistics.geometric_mean([epochs / row['oracle'] for epochs, row in costs]):.1f}"


# Head of a column -> from the lines of one engine to the cell.
COLUMNS: dict[str, Callable[[list[Line]], str]] = {
    "engine": lambda rows: rows[0]["engine"],
    "epochs to 5 %": lambda rows: _mean_spent(rows, 0.05),
    "median (quartiles)": _quartiles,
    "reached 5 %": lambda rows: _fraction_reached(rows, 0.05),
    "epochs to 2 %": lambda rows: _mean_spent(rows, 0.02),
    "reached 2 %": lambda rows: _fraction_reached(rows, 0.02),
    **{
        f"regret at {epochs:,}": partial(
            _known, name=f"regret {epochs}", average=_percent, form="{:.2f} %"
        )
        for epochs in CHECKPOINTS
    },
    "seconds to 5 %": lambda rows: _mean_spent(rows, 0.05, "seconds"),
    **{
        f"ms at {runs:,} runs": partial(
            _known, name=f"milliseconds {runs}", average=statistics.mean, form="{:.1f}"
        )
        for runs in AFTER
    },
    "x oracle": _multiple_of_oracle,
    "seeds": lambda rows: str(len(rows)),
}

NOTES = """\
Tasks: `dubai` replays real learning curves of `train.py`; `synthetic` are generated ones, one task
per seed. All engines search the batch size on a logarithmic scale; `bayes_hyperband.yaml` and
`random_hyperband.yaml` search it on a linear one.

- epochs to 5 %, to 2 %: epochs of all agents together until the true loss of a run is first within
  5 % (2 %) of the lowest of the task. Geometric mean over the seeds. A replay that does not come so
  near counts with all epochs that it spent.
- reached 5 %, 2 %: percentage of the seeds that came so near.
- regret at N: lowest true loss after N epochs over the lowest of the task, minus 1. Median.
- seconds to 5 %: the same on the simulated clock, with all agents at work. Geometric mean.
- ms at N runs: real milliseconds per proposal, mean of the proposals around number N; - if there
  are fewer.
- x oracle: epochs to 5 % over those of one run that knows the best configuration."""


def markdown(lines: list[Line]) -> str:
    """The page: one table per setting, each with the command that makes it."""
    parts = [
        "# Searches compared on replayed learning curves",
        NOTES,
        "![Regret against epochs spent](regret.png)",
    ]
    for setting, engines in group(lines).items():
        table = [
            list(COLUMNS),
            ["---"] * len(COLUMNS),
            *([cell(rows) for cell in COLUMNS.values()] for rows in engines.values()),
        ]
        rows = [row for rows in engines.values() for row in rows]
        seeds = sorted({row["seed"] for row in rows})
        versions = sorted({row["version"] for row in rows if row["version"]})
        command = (
            f"python -m benchmarks.replay --seeds {seeds[0]}:{seeds[-1] + 1} --task {setting.task} "
            f"--agents {setting.agents} --budget {setting.budget}"
        )
        parts += [f"## {setting}", "\n".join("| " + " | ".join(row) + " |" for row in table)]
        parts += [
            f"Made by `{command}`" + (f" with {', '.join(versions)}" if versions else "") + "."
        ]
    return "\n\n".join(parts) + "\n"


def save_csv(lines: list[Line], file: Path) -> Path:
    """Write one row per replay, without its curve."""
    names = [name for name in lines[0] if name != "curve"]
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            rows for engines in group(lines).values() for of in engines.values() for rows in of
        )
    return file


def looks(groups: Groups) -> dict[str, Look]:
    """Engine -> its look, the same in all panels: those of LOOKS, then the best of others.

    The looks of engines that are absent go to the others.
    """
    present = dict.fromkeys(name for engines in groups.values() for name in engines)
    chosen = {name: look for name, look in LOOKS.items() if name in present}
    free = [look for name, look in LOOKS.items() if name not in present]
    others = [name for name in present if name not in LOOKS]
    return chosen | dict(zip(others, free, strict=False))


def spaced(places: Sequence[float], gap: float) -> list[float]:
    """The places in the same order, moved upwards until none is nearer than `gap` to the next."""
    moved: dict[int, float] = {}
    for i in sorted(range(len(places)), key=lambda i: places[i]):
        moved[i] = max(places[i], max(moved.values(), default=-np.inf) + gap)
    return [moved[i] for i in range(len(places))]


def _regret_label(value: float, _: int | None) -> str:
    """A tick of the regret axis; values below the floor are drawn at it."""
    label = f"{value:g}"
    return f"\N{LESS-THAN OR EQUAL TO} {label}" if value <= FLOOR else label


def _draw(
    axes: Axes, setting: Setting, engines: dict[str, list[Line]], of: dict[str, Look]
) -> None:
    """Median and quartiles of the regret of each engine, with its name at the end of the line."""
    names = [name for name in of if name in engines]
    ends = []
    for name in names:
        epochs, color = engines[name][0]["curve"]["epochs"], of[name]["color"]
        regrets = np.maximum(
            100 * np.array([row["curve"]["regret"] for row in engines[name]]), FLOOR
        )
        low, middle, high = np.percentile(regrets, [25, 50, 75], axis=0)
        axes.fill_between(epochs, low, high, color=color, alpha=0.12, linewidth=0, step="post")
        axes.plot(
            epochs, middle, color=color, linestyle=of[name]["linestyle"], drawstyle="steps-post"
        )
        ends.append((color, middle[-1], np.log10(middle).mean()))
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(1, setting.budget),
        title=f"{CURVES.get(setting.task, setting.task)}: "
        f"{setting.agents} agents, {setting.budget:,} epochs",
        ylabel="regret (%)",
    )
    bottom, top = np.log10(axes.get_ylim())
    # Lines that end at the same regret are labelled in the order of their means.
    places = spaced([np.log10(end) + 1e-6 * mean for _, end, mean in ends], 0.075 * (top - bottom))
    for name, (color, end, _), place in zip(names, ends, places, strict=True):
        axes.annotate(
            name,
            (1, end),
            (1.03, 10**place),
            xycoords=("axes fraction", "data"),
            color=color,
            fontsize=8.5,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.8,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(_regret_label))


def save_figure(lines: list[Line], file: Path) -> Path:
    """Draw regret against epochs spent, median and quartiles over seeds; a panel per setting."""
    groups = group(lines)
    figure, axes = style.figure(rows=len(groups), height=3.6 * len(groups))
    for one, (setting, engines) in zip(axes[:, 0], groups.items(), strict=True):
        _draw(one, setting, engines, looks(groups))
    axes[-1, 0].set_xlabel("epochs spent by all agents")
    return style.save(figure, file)


def write(lines: list[Line], folder: Path) -> list[Path]:
    """Write the page, the CSV file and the figure; nothing if there are no lines."""
    if not lines:
        return []
    page = folder / "README.md"
    page.write_text(markdown(lines))
    return [
        page,
        save_csv(lines, folder / "replays.csv"),
        save_figure(lines, folder / "regret.png"),
    ]

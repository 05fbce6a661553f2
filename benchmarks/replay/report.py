"""From the lines of replays to a Markdown table a task, a CSV file and a figure. Nothing here knows how a line was made."""

import csv
import statistics
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import FuncFormatter

from analysis import style
from benchmarks.replay.lines import AFTER, CHECKPOINTS, WITHIN, Line

SHOWN = (  # in the figure, each in a look of its own
    "ours multifidelity",
    "syne-tune asha",
    "optuna tpe + asha from 3",
    "wandb bayes + hyperband",
    "hpbandster bohb",
)
FLOOR = 0.1  # % of regret: the lower end of the figure, where a search that found the optimum lies


class Setting(NamedTuple):
    """What the engines of a table have in common."""

    task: str
    agents: int
    budget: int

    def __str__(self) -> str:
        return f"{self.task}: {self.agents} agents, {self.budget:,} epochs"


def group(lines: list[Line]) -> dict[Setting, dict[str, list[Line]]]:
    """setting -> engine -> its lines by seed; the engine that gets near the optimum first comes first."""

    def setting(line: Line) -> Setting:
        return Setting(*(line[name] for name in Setting._fields))

    found = {}
    for one, of in groupby(
        sorted(lines, key=lambda line: (setting(line), line["engine"], line["seed"])), setting
    ):
        engines = {name: list(rows) for name, rows in groupby(of, lambda line: line["engine"])}
        found[one] = dict(
            sorted(engines.items(), key=lambda item: geometric(spent(item[1], WITHIN[0])))
        )
    return found


def spent(rows: list[Line], within: float, unit: str = "epochs") -> list[float]:
    """Epochs or seconds until so near the optimum, and all that were spent where it was not reached."""
    whole = {"epochs": "budget", "seconds": "seconds"}[unit]
    reached = ((row[f"{unit} {within:g}"], row[whole]) for row in rows)
    return [budget if value is None else value for value, budget in reached]


def geometric(values: list[float]) -> float:
    """Geometric mean."""
    return statistics.geometric_mean(values)


def _quartiles(rows: list[Line]) -> str:
    low, middle, high = np.percentile(spent(rows, WITHIN[0]), [25, 50, 75])
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def _share(rows: list[Line], within: float) -> str:
    return f"{np.mean([row[f'epochs {within:g}'] is not None for row in rows]):.0%}".replace(
        "%", " %"
    )


def _known(rows: list[Line], name: str, average: Callable, form: str) -> str:
    values = [row[name] for row in rows if row[name] is not None]
    return form.format(average(values)) if values else "-"


def _regret(rows: list[Line], epochs: int) -> str:
    return _known(
        rows, f"regret {epochs}", lambda values: 100 * statistics.median(values), "{:.2f} %"
    )


def _multiple(rows: list[Line]) -> str:
    return f"{geometric([epochs / row['oracle'] for epochs, row in zip(spent(rows, WITHIN[0]), rows, strict=True)]):.1f}"


COLUMNS: dict[str, Callable[[list[Line]], str]] = {  # head -> rows of an engine -> cell
    "engine": lambda rows: rows[0]["engine"],
    "epochs to 5 %": lambda rows: f"{geometric(spent(rows, 0.05)):.0f}",
    "median (quartiles)": _quartiles,
    "got there": lambda rows: _share(rows, 0.05),
    "epochs to 2 %": lambda rows: f"{geometric(spent(rows, 0.02)):.0f}",
    "got to 2 %": lambda rows: _share(rows, 0.02),
    **{
        f"regret at {epochs:,}": lambda rows, epochs=epochs: _regret(rows, epochs)
        for epochs in CHECKPOINTS
    },
    "seconds to 5 %": lambda rows: f"{geometric(spent(rows, 0.05, 'seconds')):.0f}",
    **{
        f"ms at {runs:,} runs": lambda rows, runs=runs: _known(
            rows, f"milliseconds {runs}", statistics.mean, "{:.1f}"
        )
        for runs in AFTER
    },
    "x oracle": _multiple,
    "seeds": lambda rows: str(len(rows)),
}

NOTES = """\
Epochs are those of all agents together until a run first truly was so near the lowest loss of the task; seconds are the clock's,
with the agents at work at a time. Both are geometric means over the seeds, and a replay that did not get there counts with all
that it spent. Regrets (lowest true loss so far over the lowest of the task, less one) are medians. Milliseconds of real time are
the mean of the proposals around the one after so many runs; - where there were not so many. The oracle is one run that knows the
best configuration: its epochs to 5 %."""


def markdown(lines: list[Line]) -> str:
    """A table a setting, and what makes it again."""
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
    """One row a replay, without its curve."""
    names = [name for name in lines[0] if name != "curve"]
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            rows for engines in group(lines).values() for of in engines.values() for rows in of
        )
    return file


def shown(engines: dict[str, list[Line]]) -> dict[str, dict]:
    """The engines of the figure and their looks: the chosen ones, and where one of them is not there, the best of the rest."""
    rest = iter([name for name in engines if name not in SHOWN])
    places = [name if name in engines else next(rest, None) for name in SHOWN]
    return {
        name: style.SERIES[place % len(style.SERIES)] for place, name in enumerate(places) if name
    }


def apart(places: list[float], gap: float) -> list[float]:
    """The same places in the same order, none nearer than `gap` to the next, moved upwards where they were."""
    moved = {}
    for i in sorted(range(len(places)), key=lambda i: places[i]):
        moved[i] = max(places[i], max(moved.values(), default=-np.inf) + gap)
    return [moved[i] for i in range(len(places))]


def _draw(axes, setting: Setting, engines: dict[str, list[Line]]) -> None:
    looks, ends = shown(engines), []
    for name, look in looks.items():
        epochs = engines[name][0]["curve"]["epochs"]
        regrets = np.maximum(
            100 * np.array([row["curve"]["regret"] for row in engines[name]]), FLOOR
        )
        low, middle, high = np.percentile(regrets, [25, 50, 75], axis=0)
        axes.fill_between(
            epochs, low, high, color=look["color"], alpha=0.12, linewidth=0, step="post"
        )
        axes.plot(
            epochs, middle, color=look["color"], linestyle=look["linestyle"], drawstyle="steps-post"
        )
        ends.append((look["color"], middle[-1], np.log10(middle).mean()))
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(1, setting.budget),
        title=str(setting),
        ylabel="regret (%)",
    )
    low, high = np.log10(axes.get_ylim())
    places = apart(
        [np.log10(end) + 1e-6 * mean for _, end, mean in ends], 0.075 * (high - low)
    )  # ties in the order of curves
    for name, (color, end, _), place in zip(looks, ends, places, strict=True):
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
    axes.yaxis.set_major_formatter(
        FuncFormatter(
            lambda value, _: "\N{LESS-THAN OR EQUAL TO} " * bool(value <= FLOOR) + f"{value:g}"
        )
    )


def save_figure(lines: list[Line], file: Path) -> Path:
    """Regret against epochs spent: median and quartiles over the seeds, one axes a setting."""
    groups = group(lines)
    figure, axes = style.figure(rows=len(groups), height=3.6 * len(groups))
    for one, (setting, engines) in zip(axes[:, 0], groups.items(), strict=True):
        _draw(one, setting, engines)
    axes[-1, 0].set_xlabel("epochs spent by all agents")
    return style.save(figure, file)


def write(lines: list[Line], folder: Path) -> list[Path]:
    """Everything that the lines tell; no file where there is no line."""
    if not lines:
        return []
    page = folder / "README.md"
    page.write_text(markdown(lines))
    return [
        page,
        save_csv(lines, folder / "replays.csv"),
        save_figure(lines, folder / "regret.png"),
    ]

"""The look of all figures: sizes and palette; looks of runs, outcomes and classes.

The same input gives the same pixels.

Colours that do not mean a class are Okabe and Ito's palette (https://jfly.uni-koeln.de/color/,
2008), which colour-blind readers can distinguish. Line styles, markers and lightness differ as
well, for prints in grey.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from segmentation.labels import CLASSES, COLORS

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#8A8A8A"
ROLES: dict[str, dict[str, Any]] = {
    "best": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "run": {"color": BLUE, "linestyle": "-", "marker": "o"},  # the only one of its page
    "baseline": {"color": ORANGE, "linestyle": "--", "marker": "s"},
}
OUTCOMES: dict[str, dict[str, Any]] = {
    "finished": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "stopped": {"color": ORANGE, "linestyle": "--", "marker": "s"},
    "diverged": {"color": VERMILION, "linestyle": ":", "marker": "X"},
    "oom": {"color": PURPLE, "linestyle": ":", "marker": "P"},
    "interrupted": {"color": GREY, "linestyle": "-.", "marker": "v"},
    "preempted": {"color": GREY, "linestyle": "-.", "marker": "<"},
    "failed": {"color": BLACK, "linestyle": ":", "marker": "d"},
    "running": {"color": GREEN, "linestyle": "-.", "marker": ">"},
}
SERIES: list[dict[str, Any]] = [
    {"color": color, "linestyle": line, "marker": marker}
    for color, line, marker in zip(
        (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK),
        ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))),
        "osD^vP*",
        strict=True,
    )
]
"""Looks of lines that have no fixed meaning, in order."""

CLASS_COLORS = {
    name: tuple(color / 255) for name, color in zip(CLASSES, COLORS.astype(float), strict=True)
}
CLASS_LINES = dict(
    zip(CLASSES, ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1))), strict=True)
)
OUTLINE = [Stroke(linewidth=2.6, foreground="black"), Normal()]
"""Path effects of lines in class colours: the data set's yellow is hardly visible on white."""

OBJECTIVE_NAMES = {"best_val_loss": "validation loss", "best_val_error": "validation error"}
"""What axes call the value per epoch of each objective; the objective is the lowest one."""

WIDTH = 8.0  # inches; one width for all figures, so that their text has one size on a page
DPI = 140
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "image.interpolation": "nearest",
}
mpl.rcdefaults()  # a user's own matplotlibrc must not change the figures
mpl.rcParams.update(RC)


def objective_label(objective: str) -> str:
    """What axes call an objective: the lowest value per epoch."""
    return f"lowest {OBJECTIVE_NAMES[objective]}"


def figure(
    rows: int = 1, columns: int = 1, height: float = 3.4, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """A figure of WIDTH x height inches, and its axes as an array (rows, columns).

    Without pyplot, which keeps every figure in memory. `options` are those of `Figure.subplots`.
    """
    made = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False, **options)


def save(made: Figure, file: Path) -> Path:
    """Writes a PNG of pixels only, without a date or a version. Returns its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(file, dpi=DPI, metadata={"Software": None})
    return file


def epochs_axis(axes: Axes) -> None:
    """Labels the x axis `epoch`, with ticks at whole numbers."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def outcome_legend(labels: Mapping[str, str], **options: Any) -> dict[str, Any]:
    """Arguments of a legend of outcomes of runs: `labels` maps outcomes to texts."""
    handles = [Line2D([], [], label=text, **OUTCOMES[outcome]) for outcome, text in labels.items()]
    return {"handles": handles} | options


def class_legend(ignored: bool = False) -> list[Patch]:
    """Legend handles: one patch per class, and with `ignored` a black one for unlabelled pixels."""
    patches = [
        Patch(facecolor=color, edgecolor="black", linewidth=0.4, label=name)
        for name, color in CLASS_COLORS.items()
    ]
    return [*patches, Patch(facecolor="black", label="not annotated")] if ignored else patches

"""One look for every figure: sizes, palette, how a run, an outcome or a class is drawn. The same pixels every time.

Where colour does not mean a class it is Okabe and Ito's palette (https://jfly.uni-koeln.de/color/, 2008), which colour-blind
readers tell apart; and it never stands alone: line styles, markers and lightness differ too, for a print in grey.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

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
ROLES = {
    "best": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "baseline": {"color": ORANGE, "linestyle": "--", "marker": "s"},
}
OUTCOMES = {
    "finished": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "stopped": {"color": ORANGE, "linestyle": "--", "marker": "s"},
    "diverged": {"color": VERMILION, "linestyle": ":", "marker": "X"},
    "oom": {"color": PURPLE, "linestyle": ":", "marker": "P"},
    "interrupted": {"color": GREY, "linestyle": "-.", "marker": "v"},
    "preempted": {"color": GREY, "linestyle": "-.", "marker": "<"},
    "failed": {"color": BLACK, "linestyle": ":", "marker": "d"},
    "running": {"color": GREEN, "linestyle": "-.", "marker": ">"},
}
SERIES = [
    {"color": color, "linestyle": line, "marker": marker}
    for color, line, marker in zip(
        (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK),
        ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))),
        "osD^vP*",
        strict=True,
    )
]
"""For things without a meaning of their own, in order."""

CLASS_COLORS = {
    name: tuple(color / 255) for name, color in zip(CLASSES, COLORS.astype(float), strict=True)
}
CLASS_LINES = dict(
    zip(CLASSES, ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1))), strict=True)
)
OUTLINE = [
    Stroke(linewidth=2.6, foreground="black"),
    Normal(),
]  # class colours are given, and yellow on white is not seen

WIDTH = 8.0  # inches: the width of every figure, so that their text is of one size on a page
DPI = 140
RC = {
    "font.family": "DejaVu Sans",  # matplotlib brings it along: the same letters on every machine
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
mpl.rcdefaults()  # a user's own matplotlibrc must not change a pixel
mpl.rcParams.update(RC)


def figure(
    rows: int = 1, columns: int = 1, height: float = 3.4, **options
) -> tuple[Figure, np.ndarray]:
    """A figure of WIDTH x height inches and its axes (rows, columns). pyplot, which keeps figures alive, is not used."""
    made = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False, **options)


def save(made: Figure, file: Path) -> Path:
    """Write a PNG that holds pixels and nothing else: no date, no version."""
    file.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(file, dpi=DPI, metadata={"Software": None})
    return file


def epochs_axis(axes) -> None:
    """A whole-numbered axis of epochs."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def outcome_legend(outcomes, **options) -> dict:
    """Arguments of a legend for the outcomes of runs, in their order."""
    handles = [Line2D([], [], label=outcome, **OUTCOMES[outcome]) for outcome in outcomes]
    return {"handles": handles} | options


def class_legend(ignored: bool = False) -> list[Patch]:
    """One coloured patch per class, and black for what nobody annotated."""
    patches = [
        Patch(facecolor=color, edgecolor="black", linewidth=0.4, label=name)
        for name, color in CLASS_COLORS.items()
    ]
    return patches + ([Patch(facecolor="black", label="not annotated")] if ignored else [])

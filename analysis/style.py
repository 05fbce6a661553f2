"""The look of all figures: sizes and palette; looks of runs, outcomes, searches and classes.

The same input gives the same pixels.

A colour has one meaning on the page and in the project. ROLES and OUTCOMES share Okabe and Ito's
palette (https://jfly.uni-koeln.de/color/, 2008), which colour-blind readers can distinguish.
SEARCHES have colours of their own. Line styles, markers and lightness differ as well, for prints in
grey. The colours of the splits stand in `segmentation.overview`.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType
from numpy.typing import NDArray

from segmentation import overview
from segmentation.labels import CLASSES, COLORS

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#8A8A8A"
OLIVE = "#999933"
ROLES: dict[str, dict[str, Any]] = {
    "best": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "run": {"color": BLUE, "linestyle": "-", "marker": "o"},  # the only one of its page
    "baseline": {"color": ORANGE, "linestyle": "--", "marker": "s"},
}
OUTCOMES: dict[str, dict[str, Any]] = {
    "finished": {"color": GREEN, "linestyle": "-", "marker": "o"},
    "stopped": {"color": SKY, "linestyle": "--", "marker": "s"},
    "diverged": {"color": VERMILION, "linestyle": ":", "marker": "X"},
    "oom": {"color": PURPLE, "linestyle": ":", "marker": "P"},
    "interrupted": {"color": GREY, "linestyle": "-.", "marker": "v"},
    "preempted": {"color": GREY, "linestyle": "-.", "marker": "<"},
    "failed": {"color": BLACK, "linestyle": ":", "marker": "d"},
    "running": {"color": OLIVE, "linestyle": "-.", "marker": ">"},
}
SEARCHES: dict[str, dict[str, Any]] = {
    name: {"color": color, "linestyle": line, "marker": marker}
    for name, color, line, marker in zip(
        ("multifidelity", "bayes", "random", "tpe", "tpe_halving", "bohb", "hyperband"),
        ("#332288", "#E8576C", "#0B5D2A", "#9B72E8", "#7A5200", "#B5179E", "#005F73"),
        ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))),
        "osD^vP*",
        strict=True,
    )
}
"""Looks of the searches, by the word that names each in `sweeps/`."""

SERIES = list(SEARCHES.values())
"""Looks of several searches that are not in SEARCHES, in order."""

CLASS_COLORS = {
    name: tuple(color / 255) for name, color in zip(CLASSES, COLORS.astype(float), strict=True)
}
CLASS_LINES: dict[str, dict[str, Any]] = {
    name: {"color": CLASS_COLORS[name], "linestyle": line}
    for name, line in zip(
        CLASSES, ((0, (6, 1)), "--", "-.", "-", ":", (0, (3, 1, 1, 1))), strict=True
    )
}
CLASS_LINES["Vegetation"]["path_effects"] = [Stroke(linewidth=3.4, foreground="#777777"), Normal()]
"""Looks of lines per class. The data set's yellow is hardly visible on white, so it gets a rim."""

OBJECTIVE_NAMES = {"best_val_loss": "validation loss", "best_val_error": "validation error"}
"""What axes call the value per epoch of each objective; the objective is the lowest one."""

LOSS_NAMES = {
    "dice_focal": "dice + focal loss",
    "dice_focal_published": "dice + focal loss, as published",
    "cross_entropy": "cross-entropy",
    "ce_dice": "cross-entropy + dice loss",
}
"""What axes call each loss that a run can train with."""

ERRORS = {"right": "#DDDDDD", "wrong": "#C1121F", "not annotated": BLACK}
"""Colours of pixels in pictures of errors."""

SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}

WIDTH, DPI = overview.WIDTH, overview.DPI  # one width, so that all text has one size on a page
RC: dict[Any, Any] = {
    **overview.LOOK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "aerial-sweeps",  # ids of elements are hashes, of random numbers without it
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


def save(made: Figure, file: Path, dpi: int = DPI) -> Path:
    """Writes a PNG, and an SVG of the same figure beside it. Returns the path of the PNG.

    Neither holds a date or a version: the same figure gives the same bytes. The SVG holds letters
    as outlines, so that it looks the same without our font.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(file, dpi=dpi, metadata={"Software": None})
    made.savefig(file.with_suffix(".svg"), dpi=dpi, metadata={"Creator": None, "Date": None})
    return file


def epochs_axis(axes: Axes) -> None:
    """Labels the x axis `epoch`; it shows epoch 1 to the last one drawn, with whole numbers."""
    last = max(1.0, float(axes.dataLim.x1))
    pad = max(0.02 * (last - 1), 0.1)
    locator = MaxNLocator(10, integer=True, min_n_ticks=1, steps=(1, 2, 5, 10))
    ticks = locator.tick_values(1, last)
    axes.set(xlabel="epoch", xlim=(1 - pad, last + pad))
    axes.set_xticks([1, *(tick for tick in ticks if 1 < tick <= last)])


def text_color(background: ColorType) -> str:
    """`black` or `white`: the one with the higher contrast on a background.

    By the relative luminance of WCAG 2.2 (https://www.w3.org/TR/WCAG22/#dfn-relative-luminance).
    Black and white have the same contrast where (L + 0.05)^2 = 1.05 * 0.05.
    """
    channels = np.array(to_rgb(background))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def outcome_legend(labels: Mapping[str, str], **options: Any) -> dict[str, Any]:
    """Arguments of a legend of outcomes of runs: `labels` maps outcomes to texts."""
    handles = [Line2D([], [], label=text, **OUTCOMES[outcome]) for outcome, text in labels.items()]
    return {"handles": handles} | options


def class_legend() -> list[Patch]:
    """Legend handles: one patch per class."""
    return [
        Patch(facecolor=color, edgecolor="black", linewidth=0.4, label=name)
        for name, color in CLASS_COLORS.items()
    ]


def error_legend(ignored: bool = False) -> list[Patch]:
    """Legend handles of pictures of errors: right and wrong, and with `ignored` not annotated."""
    shown = list(ERRORS.items())[: 3 if ignored else 2]
    return [Patch(facecolor=color, label=name) for name, color in shown]


GOOD_TO_BAD = ListedColormap(
    mpl.colormaps["cividis"](np.linspace(0, 0.85, 256)), name="good_to_bad"
)
"""Colours of an objective: 0 is the best value and dark. Its light end is visible on white."""


def line_of(role: str) -> dict[str, Any]:
    """Colour and line style of a role."""
    return {name: ROLES[role][name] for name in ("color", "linestyle")}


def role_handles(roles: Mapping[str, Any], lines: Collection[str]) -> list[Line2D]:
    """Legend handles of the roles of a search: marks, and lines for the roles in `lines`."""
    return [
        Line2D([], [], label="best run" if role == "best" else role, **line_of(role))
        if role in lines
        else Line2D([], [], label="best run", **ROLES[role] | {"linestyle": ""})
        for role in roles
        if role in lines or role == "best"
    ]

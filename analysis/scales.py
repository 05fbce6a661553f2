"""Axes for values of a hyperparameter or of the objective: positions 0..1, and labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from analysis.sections import value_text

LOG_RATIO = 10  # largest / smallest value from which an axis of numbers is logarithmic
MAX_LABELS = 8  # with at most this many distinct values, an axis labels each of them
MIN_GAP = 0.1  # fraction of the axis; labels that are closer would overlap
OUTLIER_FACTOR = 3.0
"""An axis ends at this multiple of the distance from the best value to the upper quartile."""


@dataclass(frozen=True)
class Scale:
    """An axis for n values.

    Numbers have a linear or logarithmic axis, other values one place per text.
    """

    places: NDArray[np.float64]
    """(n,) positions of the values on the axis, 0..1."""
    low: float
    """The value at position 0, its logarithm on a logarithmic axis, or 0 for texts."""
    high: float
    """The same at position 1."""
    log: bool
    whole: bool
    """Whether all values are whole numbers."""
    clipped: bool
    """Whether values above `high` were moved to position 1."""
    texts: tuple[str, ...]
    """The sorted distinct texts; empty for numbers."""
    labelled: tuple[float, ...]
    """The distinct numbers, if the axis labels each of them."""

    @classmethod
    def of(cls, values: Sequence[Any]) -> "Scale":
        """The axis of a hyperparameter."""
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            names = [value_text(value) for value in values]
            texts = tuple(sorted(set(names)))
            raw = np.array([texts.index(name) for name in names], float)
            return cls._between(raw, raw.max(), texts=texts)
        raw = np.array(values, float)
        whole = all(float(value).is_integer() for value in values)
        distinct = tuple(sorted(set(raw.tolist())))
        log = bool(raw.min() > 0 and raw.max() / raw.min() >= LOG_RATIO)
        raw = np.log10(raw) if log else raw
        scale = cls._between(raw, raw.max(), log=log, whole=whole)
        gap = np.diff(np.unique(scale.places)).min(initial=1.0)
        if len(distinct) <= MAX_LABELS and gap >= MIN_GAP:
            return cls._between(raw, raw.max(), log=log, whole=whole, labelled=distinct)
        return scale

    @classmethod
    def of_objective(
        cls, values: Sequence[float], usual: NDArray[np.float64] | None = None
    ) -> "Scale":
        """The axis of the objective: linear, and very bad values are moved to its upper end.

        Args:
            values: The objectives.
            usual: Those that set the end of the axis. Default: all.
        """
        raw = np.array(values, float)
        return cls._between(raw, axis_top(raw if usual is None else usual))

    @classmethod
    def _between(
        cls,
        raw: NDArray[np.float64],
        top: float,
        log: bool = False,
        whole: bool = False,
        texts: tuple[str, ...] = (),
        labelled: tuple[float, ...] = (),
    ) -> "Scale":
        low, high = float(raw.min()), max(float(top), float(raw.min()) + 1e-12)
        places = np.clip((raw - low) / (high - low), 0, 1)
        return cls(places, low, high, log, whole, bool(raw.max() > high), texts, labelled)

    def ticks(self) -> list[tuple[float, str]]:
        """(position, label) of each tick."""
        if self.texts:
            return [(i / max(1, len(self.texts) - 1), text) for i, text in enumerate(self.texts)]
        if self.labelled:
            values = np.log10(self.labelled) if self.log else np.array(self.labelled)
            places = (values - self.low) / (self.high - self.low)
            return [
                (float(place), f"{value:g}")
                for place, value in zip(places, self.labelled, strict=True)
            ]
        low, high = (10**end if self.log else end for end in (self.low, self.high))
        round_values = round_ticks(low, high, self.log, self.whole)
        raw = np.log10(round_values) if self.log else np.array(round_values)
        places = ((raw - self.low) / (self.high - self.low)).tolist()
        ticks = [(place, f"{value:g}") for place, value in zip(places, round_values, strict=True)]
        if not self.clipped:
            return ticks
        return [*(tick for tick in ticks if tick[0] < 1 - MIN_GAP), (1.0, f"≥ {high:.3g}")]


def round_ticks(
    low: float, high: float, log: bool, whole: bool = False, least: int = 2
) -> list[float]:
    """Round numbers between `low` and `high`, which readers can name: at least one.

    Args:
        low: Lower end of the axis.
        high: Its upper end.
        log: Whether the axis is logarithmic.
        whole: Whether only whole numbers make sense.
        least: On a logarithmic axis, the number of ticks from which powers of ten are enough.
    """
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5)):
            values = [step * 10.0**decade for decade in decades for step in steps]
            inside = [value for value in values if low * 0.999 <= value <= high * 1.001]
            if len(inside) >= least:
                return inside
        return inside or [low]
    locator = MaxNLocator(5, integer=whole, steps=[1, 2, 5, 10], min_n_ticks=2)
    values = [float(value) for value in locator.tick_values(low, high)]
    slack = 1e-6 * (high - low)
    return [value for value in values if low - slack <= value <= high + slack] or [low]


def axis_top(values: NDArray[np.float64]) -> float:
    """The upper end of an axis for finite values (n,), without very bad ones."""
    distance = max(float(np.quantile(values, 0.75) - values.min()), 1e-9)
    return float(values[values <= values.min() + OUTLIER_FACTOR * distance].max())


def value_axis(
    axes: Axes, values: NDArray[np.float64], usual: NDArray[np.float64] | None = None
) -> float:
    """Makes the y axis fit for values of which some are very bad.

    Positive values that differ by a factor of LOG_RATIO get a logarithmic axis. Otherwise the axis
    ends at `axis_top`, and a line above it says how many values are not shown.

    Args:
        axes: The axes.
        values: All values that are drawn.
        usual: Those that set the end of the axis. Default: all.

    Returns:
        The end of the axis if it does not show all values, else infinity.
    """
    finite = values[np.isfinite(values)]
    ends = finite if usual is None else usual
    low, top, high = float(finite.min()), axis_top(ends), float(finite.max())
    if low > 0 and ends.max() / low >= LOG_RATIO:
        axes.set_yscale("log")
        set_ticks(axes.yaxis, round_ticks(low, high, log=True, least=3))
        return math.inf
    if not high > top > low:
        return math.inf
    margin = 0.06 * (top - low)
    axes.set_ylim(low - margin, top + margin)
    hidden = int((finite > top + margin).sum())
    text = f"{hidden} {'value' if hidden == 1 else 'values'} above the axis, up to {high:.3g}"
    axes.set_title(text, fontsize=8, color="#555555")
    return top + margin


def set_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Labels these values of an axis, and no others."""
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_minor_locator(NullLocator())

"""Axes for values of a hyperparameter or of the objective: positions 0..1, and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
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
    def of_objective(cls, values: Sequence[float]) -> "Scale":
        """The axis of the objective: linear, and very bad values are moved to its upper end."""
        raw = np.array(values, float)
        return cls._between(raw, axis_top(raw))

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
        raw = np.linspace(self.low, self.high, 5)
        values = 10**raw if self.log else raw
        labels = [f"{value:.0f}" if self.whole else f"{value:.3g}" for value in values]
        labels[-1] = ("≥ " if self.clipped else "") + labels[-1]
        return list(zip(np.linspace(0, 1, 5).tolist(), labels, strict=True))


def axis_top(values: NDArray[np.float64]) -> float:
    """The upper end of an axis for finite values (n,), without very bad ones."""
    distance = max(float(np.quantile(values, 0.75) - values.min()), 1e-9)
    return float(values[values <= values.min() + OUTLIER_FACTOR * distance].max())


def clip_axis(axes: Axes, values: NDArray[np.float64]) -> None:
    """Ends the y axis at `axis_top(values)`, and says above it how many values are not shown."""
    finite = values[np.isfinite(values)]
    low, top, high = float(finite.min()), axis_top(finite), float(finite.max())
    if not high > top > low:
        return
    margin = 0.06 * (top - low)
    axes.set_ylim(low - margin, top + margin)
    hidden = int((finite > top + margin).sum())
    text = f"{hidden} {'value' if hidden == 1 else 'values'} above the axis, up to {high:.3g}"
    axes.set_title(text, fontsize=8, color="#555555")

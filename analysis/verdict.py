"""Whether the search beat the baseline: one sentence, what is known about luck, and the cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis import style
from analysis.results import Choice
from analysis.runs import Sweep, as_number
from analysis.sections import fixed

OPENINGS = {
    "won": "The search beat the baseline",
    "lost": "The search did not beat the baseline",
    "noise": "The search and the baseline do not differ by more than chance",
}
ANSWERS = {"won": "Yes", "lost": "No", "noise": "Not beyond chance", "unknown": "Unknown"}
"""Kind of a verdict -> the answer to: did the search beat the baseline?"""

CONFIRM = (
    "To find out, put the best configuration into sweeps/confirm.yaml and start that sweep. Then: "
    "python -m analysis.confirm SWEEP --out FOLDER"
)

CONFIDENCE = 0.95
"""Confidence level of the interval of a gain."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """Baseline minus best over pairs of runs that share a seed.

    `margin` is half the width of the interval.
    """

    pairs: int
    best_mean: float
    best_std: float
    baseline_mean: float
    baseline_std: float
    mean: float
    margin: float

    def statement(self, objective: str) -> str:
        """The result in one sentence, with the name of the objective."""
        what = style.objective_label(objective)
        interval = f"({what}; {CONFIDENCE:.0%} interval, {self.pairs} seeds)"
        if abs(self.mean) <= self.margin:
            return (
                f"Not distinguishable from noise: the difference is {self.mean:+.4f} ± "
                f"{self.margin:.4f} {interval}."
            )
        size = f"by {abs(self.mean):.4f} ± {self.margin:.4f} {interval}"
        winner, loser = ("search", "baseline") if self.mean > 0 else ("baseline", "search")
        return f"The {winner} beat the {loser} {size}."


def compare(best: Array, baseline: Array) -> Gain:
    """Mean gain and Student's t interval of two paired (n,) arrays of objectives, n >= 2."""
    from scipy.stats import t

    gains = baseline - best
    quantile = t.ppf(0.5 + CONFIDENCE / 2, len(gains) - 1)
    margin = float(quantile * gains.std(ddof=1) / math.sqrt(len(gains)))
    return Gain(
        pairs=len(gains),
        best_mean=float(best.mean()),
        best_std=float(best.std(ddof=1)),
        baseline_mean=float(baseline.mean()),
        baseline_std=float(baseline.std(ddof=1)),
        mean=float(gains.mean()),
        margin=margin,
    )


@dataclass(frozen=True)
class Verdict:
    """The answer of a search. `kind` is a key of ANSWERS."""

    kind: str
    sentence: str
    luck: str
    """What is known about chance; empty if nothing is compared."""
    epochs: int
    """Epochs that all runs of the sweep trained."""
    minutes: float
    """Minutes that these epochs took, summed over the runs; 0 if the runs did not log them."""

    @property
    def cost(self) -> str:
        """What the search spent, in one sentence."""
        time = f" and {self.minutes:,.1f} minutes of training" if self.minutes else ""
        return f"The search spent {self.epochs:,} epochs{time}, all runs together."


def judge(choice: Choice, sweep: Sweep, gain: Gain | None = None) -> Verdict:
    """The verdict on a search, by the objective on the validation split.

    Args:
        choice: The best run and the baseline.
        sweep: The sweep of this choice.
        gain: The result of a confirmation: the same comparison over several seeds. It overrides the
            two single runs.
    """
    kind, sentence, luck = _compare(choice, sweep, gain)
    rows = [row for run in sweep.runs for row in run.history]
    seconds = [as_number(row.get("seconds")) for row in rows]
    minutes = sum(value for value in seconds if math.isfinite(value)) / 60
    return Verdict(kind, sentence, luck, len(rows), minutes)


def on_test_split(verdict: Verdict, scores: Mapping[str, float]) -> str:
    """The mean IoU on the test split in one or two sentences; empty without the best run's.

    Args:
        verdict: The verdict by the validation split.
        scores: Mean IoU on the test split by role, 0..1.
    """
    if "best" not in scores:
        return ""
    sentence = f"Mean IoU on the test split: best run of the search {scores['best']:.4f}"
    if "baseline" not in scores:
        return f"{sentence}."
    sentence += f", baseline {scores['baseline']:.4f} (higher is better)."
    ahead = {"won": "search", "lost": "baseline"}.get(verdict.kind)
    on_test = "search" if scores["best"] > scores["baseline"] else "baseline"
    if ahead and on_test != ahead:
        sentence += f" So the validation split favours the {ahead}, the test split the {on_test}."
    return sentence


def _compare(choice: Choice, sweep: Sweep, gain: Gain | None) -> tuple[str, str, str]:
    """Kind, sentence and luck of the verdict."""
    unit = f"({style.objective_label(choice.objective)}; lower is better)"
    if not choice.best:
        return "unknown", f"There is no verdict yet: {choice.statement}.", ""
    best = choice.best.objective
    if any(run.id == choice.best.id and run.is_baseline for run in sweep.runs):
        reason = f"its best run is a baseline itself, with {best:.4f} {unit}"
        return "lost", f"{OPENINGS['lost']}: {reason}.", ""
    if not choice.baseline:
        start = "Whether the search beat the baseline is unknown"
        return "unknown", f"{start}: its best run has {best:.4f} {unit}, and no baseline ran.", ""
    baseline, noise, average = choice.baseline.objective, 0.0, ""
    if gain:
        best, baseline, noise = gain.best_mean, gain.baseline_mean, gain.margin
        average = f" on average of {gain.pairs} seeds"
    elif choice.lead and choice.lead.spread is not None:
        noise = choice.lead.spread
    difference = baseline - best
    kind = "noise" if abs(difference) <= noise else "won" if difference > 0 else "lost"
    sentence = f"{OPENINGS[kind]}: {best:.4f} against {baseline:.4f}{average} {unit}."
    return kind, sentence, _luck(choice, abs(difference), gain)


def _luck(choice: Choice, difference: float, gain: Gain | None) -> str:
    """What is known about chance.

    Args:
        choice: The best run and the baseline.
        difference: Absolute difference of their objectives.
        gain: The result of a confirmation.
    """
    if gain:
        chance = "it includes 0, so it may be luck"
        if abs(gain.mean) > gain.margin:
            chance = "it excludes 0, so luck is unlikely"
        interval = f"{gain.mean:+.4f} ± {gain.margin:.4f}"
        return (
            f"The {CONFIDENCE:.0%} interval of the gain over {gain.pairs} seeds is {interval}: "
            f"{chance}."
        )
    if choice.lead is None or choice.lead.spread is None:
        return f"Whether the difference is luck is unknown: every configuration ran once. {CONFIRM}"
    size = "not larger" if difference <= choice.lead.spread else "larger"
    return (
        f"The difference to the baseline ({fixed(difference)}) is {size} than the largest "
        f"difference between repeats of one configuration ({fixed(choice.lead.spread)}; "
        f"configurations with repeats: {choice.lead.repeated}). {CONFIRM}"
    )

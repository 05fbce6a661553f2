"""Whether the best configuration beats the baseline over several seeds, or only looks so.

python -m analysis.confirm entity/project/sweep_id --out results/demo
"""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from analysis import runs, style
from analysis.records import NOT_COMPARED, Run, Sweep
from analysis.sections import Picture, Section, Table
from analysis.waist import Waist, refresh_option, results_option, tell
from segmentation.config import OBJECTIVE
from segmentation.errors import UserError

CONFIDENCE = 0.95
ROUNDED = 0.005  # relative: a learning rate copied with three digits is the same one
FREE = (*NOT_COMPARED, "epochs", "precision")  # a confirmation may train longer, or elsewhere


@click.command(context_settings={"max_content_width": 120})
@click.argument("sweep")
@results_option
@refresh_option
def main(sweep: str, folder: Path, refresh: bool) -> None:
    """Compare the best configuration of OUT/best_run.json with the baseline over the seeds of SWEEP.

    SWEEP is one of sweeps/confirm.yaml: both configurations, each with several seeds. Writes OUT/confirm.json, .csv, .md and
    .png: mean and standard deviation of both, the difference paired by seed with its 95 % interval (Student's t), and in a
    sentence whether the search bought anything.
    """
    waist = Waist.open(folder)
    tell(make(waist, runs.load(sweep, waist.cache, refresh, click.echo)))


@dataclass(frozen=True)
class Gain:
    """What best gains on baseline, over pairs that share a seed; `margin` is half the interval's width."""

    pairs: int
    best_mean: float
    best_std: float
    baseline_mean: float
    baseline_std: float
    mean: float
    margin: float

    @property
    def statement(self) -> str:
        """The plain sentence."""
        told = f"{abs(self.mean):.4f} ± {self.margin:.4f} of {OBJECTIVE} ({CONFIDENCE:.0%} interval, {self.pairs} seeds)"
        if abs(self.mean) <= self.margin:
            return (
                f"Not distinguishable from noise: the difference is {self.mean:+.4f} ± {self.margin:.4f} of {OBJECTIVE}"
                + (f" ({CONFIDENCE:.0%} interval, {self.pairs} seeds).")
            )
        return (
            f"The search bought {told}."
            if self.mean > 0
            else f"The search lost {told}: the baseline is better."
        )


def compare(best: np.ndarray, baseline: np.ndarray) -> Gain:
    """Two (n,) arrays of objectives, paired by place, n >= 2 -> the mean gain and its Student's t interval."""
    from scipy.stats import t

    gains = baseline - best
    margin = float(
        t.ppf(0.5 + CONFIDENCE / 2, len(gains) - 1) * gains.std(ddof=1) / math.sqrt(len(gains))
    )
    spreads = (best.mean(), best.std(ddof=1), baseline.mean(), baseline.std(ddof=1), gains.mean())
    return Gain(len(gains), *map(float, spreads), margin)


def make(waist: Waist, sweep: Sweep) -> Section:
    """The sentence, the figure and the table; UserError where there are no two pairs."""
    found, notes = pairs(waist, sweep)
    seeds = np.array([seed for seed, *_ in found])
    best, baseline = np.array([[one.objective, other.objective] for _, one, other in found]).T
    gain = compare(best, baseline)
    statements = [gain.statement]
    seen = waist.roles()["best"].config.get("seed")
    others = seeds != seen
    if not others.all() and others.sum() >= 2:
        without = compare(best[others], baseline[others])
        alone = without.statement[0].lower() + without.statement[1:]
        statements.append(
            f"Seed {seen} is the one that the search chose by, which flatters it. Without it: {alone}"
        )
    rows = [
        (str(seed), float(b), float(a), float(a - b))
        for seed, b, a in zip(seeds, best, baseline, strict=True)
    ]
    rows.append(("mean", gain.best_mean, gain.baseline_mean, gain.mean))
    rows.append(
        (
            "standard deviation",
            gain.best_std,
            gain.baseline_std,
            float((baseline - best).std(ddof=1)),
        )
    )
    caption = f"{OBJECTIVE} of the best configuration and of the baseline, by seed"
    table = Table(waist.folder / "confirm", caption, ("seed", "best", "baseline", "gain"), rows)
    record = {
        "sweep": sweep.path,
        "statement": statements[0],
        **asdict(gain),
        "runs": [[a.id, b.id] for _, a, b in found],
    }
    (waist.folder / "confirm.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    picture = Picture(
        _draw(waist.folder, seeds, best, baseline, gain),
        f"{caption}; a line joins the two runs of a seed.",
    )
    command = f"python -m analysis.confirm {sweep.path} --out {waist.folder}"
    return Section("What the search bought", command, statements + notes, [picture], [table])


def pairs(waist: Waist, sweep: Sweep) -> tuple[list[tuple[int, Run, Run]], list[str]]:
    """(seed, best, baseline) for each seed that both configurations finished with as many epochs, by seed; and notes."""
    chosen = waist.roles()["best"]
    if chosen.is_baseline:
        raise UserError("the best configuration is the baseline's: there is nothing to confirm")
    groups = {
        "best": [run for run in sweep.runs if _usable(run, chosen) and same_setting(run, chosen)],
        "baseline": [
            run for run in (*sweep.runs, *sweep.others) if _usable(run, chosen) and run.is_baseline
        ],
    }
    by_seed = {
        role: {(run.config.get("epochs"), run.config.get("seed")): run for run in reversed(group)}
        for role, group in groups.items()
    }
    shared = by_seed["best"].keys() & by_seed["baseline"].keys()
    lengths = Counter(epochs for epochs, _ in shared)
    if max(lengths.values(), default=0) < 2:
        held = " and ".join(
            f"{len(group)} of the {role} configuration" for role, group in groups.items()
        )
        raise UserError(
            f"{sweep.path}: of the finished runs {held}, and {max(lengths.values(), default=0)} pairs of one seed and length; "
            "two pairs are the fewest: put the best configuration into sweeps/confirm.yaml"
        )
    epochs = max(lengths, key=lambda length: (lengths[length], length))
    found = sorted(
        (seed, by_seed["best"][epochs, seed], by_seed["baseline"][epochs, seed])
        for e, seed in shared
        if e == epochs
    )
    paired = {run.id for _, *both in found for run in both}
    left = sum(run.id not in paired for run in sweep.runs if run.outcome == "finished")
    notes = (
        [f"{left} finished runs of {sweep.path} have no partner of the same seed and length."]
        if left
        else []
    )
    gone = {outcome: count for outcome, count in sweep.counts().items() if outcome != "finished"}
    notes += (
        [
            f"Also in {sweep.path}: {', '.join(f'{count} {outcome}' for outcome, count in gone.items())}."
        ]
        if gone
        else []
    )
    return found, notes


def same_setting(run: Run, chosen: Run) -> bool:
    """Whether it repeats the chosen configuration; numbers may be rounded as one copies them into a YAML file."""
    names = (set(run.hyperparameters) | set(chosen.hyperparameters)) - set(FREE)
    for name in names:
        mine, theirs = run.config.get(name), chosen.config.get(name)
        numbers = isinstance(mine, float) and isinstance(theirs, float)
        if not (math.isclose(mine, theirs, rel_tol=ROUNDED) if numbers else mine == theirs):
            return False
    return True


def _usable(run: Run, chosen: Run) -> bool:
    """Whether it is finished, and its objective means the same: the same data, the same loss."""
    same_data = run.recorded("data", "checksum") == chosen.recorded("data", "checksum")
    same_loss = run.config.get("loss") == chosen.config.get("loss")
    return same_data and same_loss and run.outcome == "finished" and math.isfinite(run.objective)


def _draw(
    folder: Path, seeds: np.ndarray, best: np.ndarray, baseline: np.ndarray, gain: Gain
) -> Path:
    figure, ((left, right),) = style.figure(1, 2, height=3.4, width_ratios=(1.4, 1))
    for values in zip(baseline, best, strict=True):
        left.plot((0, 1), values, color=style.GREY, linewidth=0.9, zorder=1)
    for x, (role, values) in enumerate({"baseline": baseline, "best": best}.items()):
        look = style.ROLES[role]
        left.plot(
            [x] * len(values),
            values,
            linestyle="",
            marker=look["marker"],
            color=look["color"],
            markersize=6,
        )
        side = -0.16 if x == 0 else 0.16
        left.errorbar(
            x + side,
            values.mean(),
            values.std(ddof=1),
            fmt="_",
            color="black",
            markersize=13,
            capsize=4,
        )
    left.set_xticks((0, 1), ("baseline", "best"))
    left.set(xlim=(-0.4, 1.4), ylabel=f"{OBJECTIVE} (no unit; lower is better)")
    left.set_title("each seed; mean and standard deviation beside")
    right.axvline(0, color="black", linewidth=0.9)
    right.plot(baseline - best, np.arange(len(seeds)), linestyle="", **_mark("best"))
    right.errorbar(gain.mean, -1, xerr=gain.margin, fmt="D", color="black", capsize=4, markersize=5)
    right.set_yticks(range(-1, len(seeds)), ["mean", *(f"seed {seed}" for seed in seeds)])
    right.set(ylim=(-1.6, len(seeds) - 0.4), xlabel="gain: baseline minus best")
    right.set_title(f"paired difference, {CONFIDENCE:.0%} interval")
    return style.save(figure, folder / "confirm.png")


def _mark(role: str) -> dict:
    return {name: style.ROLES[role][name] for name in ("marker", "color")}


if __name__ == "__main__":
    main()

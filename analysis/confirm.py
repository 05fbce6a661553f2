"""Whether the best configuration beats the baseline over several seeds, or only seems to.

python -m analysis.confirm entity/project/sweep_id --out results/demo
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from analysis import style
from analysis.cli import command_line, print_section, refresh_option, results_option
from analysis.results import Results
from analysis.runs import NOT_COMPARED, Run, Sweep, check_comparable
from analysis.sections import Note, Picture, Section, Table
from analysis.verdict import CONFIDENCE, Array, Gain, compare
from segmentation.errors import UserError

TOLERANCE = 0.005  # relative: a learning rate copied with three digits counts as the same
NOT_CONFIRMED = (*NOT_COMPARED, "epochs", "precision")
"""Hyperparameters that may differ: a confirmation may train longer, or on another device."""

Pair = tuple[int, Run, Run]
"""Seed, run of the best configuration, run of the baseline."""


@click.command(context_settings={"max_content_width": 120})
@click.argument("sweep")
@results_option
@refresh_option
def main(sweep: str, folder: Path, refresh: bool) -> None:
    """Compare the best configuration with the baseline, over the seeds of SWEEP.

    SWEEP is one of sweeps/confirm.yaml, which trains both configurations with several seeds each.
    Writes OUT/confirm.json, .csv, .md and .png: mean and standard deviation of both, the
    difference paired by seed with its 95 % interval (Student's t), and one sentence that says
    whether the search beat the baseline.
    """
    results = Results.open(folder)
    print_section(make(results, results.load_other(sweep, refresh, click.echo)))


def make(results: Results, sweep: Sweep) -> Section:
    """The sentence, the figure and the table.

    Raises:
        UserError: There are fewer than two pairs of runs, or the sweep has another data set, split
            or loss.
    """
    objective = results.sweep.objective
    pairs, notes = find_pairs(results, sweep)
    seeds = np.array([seed for seed, *_ in pairs])
    best, baseline = _objectives(pairs, objective)
    gain = compare(best, baseline)
    statements = [gain.statement(objective)]
    searched_seed = results.best.hyperparameters.get("seed")
    others = seeds != searched_seed
    if not others.all() and others.sum() >= 2:
        without = compare(best[others], baseline[others]).statement(objective)
        statements.append(
            f"The search chose its best run by seed {searched_seed}, so this seed favours it. "
            f"Without it: {without[0].lower()}{without[1:]}"
        )
    name = style.objective_label(objective).capitalize()
    caption = f"{name} of the best configuration and of the baseline, by seed"
    table = _table(results.folder / "confirm", caption, seeds, best, baseline, gain)
    _write_json(results.folder, sweep, statements[0], gain, pairs)
    picture = Picture(
        _draw(results.folder, objective, seeds, best, baseline, gain),
        f"{caption}; a line connects the two runs of a seed.",
    )
    return Section(
        "Is the gain real?",
        command_line("confirm", main, results, sweep=sweep.path),
        [Note(text) for text in statements + notes],
        [picture],
        [table],
    )


def measure(results: Results, sweep: Sweep) -> Gain:
    """The gain over the pairs of runs of a sweep. Raises UserError like `make`."""
    pairs, _ = find_pairs(results, sweep)
    return compare(*_objectives(pairs, results.sweep.objective))


def find_pairs(results: Results, sweep: Sweep) -> tuple[list[Pair], list[str]]:
    """The pairs of finished runs with equal seed and epochs, by seed; notes about other runs.

    Raises:
        UserError: The best configuration is the baseline's, there are fewer than two pairs, or the
            sweep has another data set, split or loss than the best run.
    """
    chosen, objective = results.best, results.sweep.objective
    if chosen.is_baseline:
        raise UserError("the best configuration is the baseline's: there is nothing to confirm")
    check_comparable(sweep, results.sweep, chosen)
    groups = {
        "best": [run for run in sweep.runs if repeats(run, chosen)],
        "baseline": [run for run in (*sweep.runs, *sweep.others) if run.is_baseline],
    }
    groups = {
        role: [run for run in group if run.comparable(chosen, objective)]
        for role, group in groups.items()
    }
    by_seed = {
        role: {(_value(run, "epochs"), _value(run, "seed")): run for run in reversed(group)}
        for role, group in groups.items()
    }
    shared = by_seed["best"].keys() & by_seed["baseline"].keys()
    lengths = Counter(epochs for epochs, _ in shared)
    if max(lengths.values(), default=0) < 2:
        held = " and ".join(
            f"{len(group)} of the {role} configuration" for role, group in groups.items()
        )
        raise UserError(
            f"{sweep.path} has {held} among its finished runs with a finite {objective}, but "
            f"{max(lengths.values(), default=0)} pairs with one seed and length; two pairs are the "
            "fewest: put the best configuration into sweeps/confirm.yaml"
        )
    epochs = max(lengths, key=lambda length: (lengths[length], length))
    keys = sorted((key for key in shared if key[0] == epochs), key=lambda key: key[1])
    pairs = [(key[1], by_seed["best"][key], by_seed["baseline"][key]) for key in keys]
    return pairs, _notes(sweep, pairs)


def repeats(run: Run, chosen: Run) -> bool:
    """Whether a run repeats the chosen configuration.

    Numbers may be rounded, as when copied into a YAML file.
    """
    names = (set(run.hyperparameters) | set(chosen.hyperparameters)) - set(NOT_CONFIRMED)
    return all(_equal(_value(run, name), _value(chosen, name)) for name in names)


def _objectives(pairs: Sequence[Pair], objective: str) -> tuple[Array, Array]:
    """The objectives of the best configuration and of the baseline, both (n,)."""
    best, baseline = zip(
        *((best.value(objective), base.value(objective)) for _, best, base in pairs), strict=True
    )
    return np.array(best), np.array(baseline)


def _value(run: Run, name: str) -> Any:
    return run.hyperparameters.get(name)


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=TOLERANCE)
    return bool(first == second)


def _notes(sweep: Sweep, pairs: list[Pair]) -> list[str]:
    paired = {run.id for _, *both in pairs for run in both}
    single = sum(run.id not in paired for run in sweep.runs if run.outcome == "finished")
    counts = sweep.outcome_counts()
    others = ", ".join(f"{n} {outcome}" for outcome, n in counts.items() if outcome != "finished")
    notes = []
    if single:
        notes.append(
            f"{single} finished runs of {sweep.path} have no partner with the same seed and length."
        )
    if others:
        notes.append(f"Also in {sweep.path}: {others}.")
    return notes


def _table(
    file: Path, caption: str, seeds: NDArray[np.int64], best: Array, baseline: Array, gain: Gain
) -> Table:
    rows = [
        (str(seed), float(b), float(a), float(a - b))
        for seed, b, a in zip(seeds, best, baseline, strict=True)
    ]
    spread = float((baseline - best).std(ddof=1))
    rows.append(("mean", gain.best_mean, gain.baseline_mean, gain.mean))
    rows.append(("standard deviation", gain.best_std, gain.baseline_std, spread))
    return Table(file, caption, ("seed", "best", "baseline", "gain"), rows)


def _write_json(folder: Path, sweep: Sweep, statement: str, gain: Gain, pairs: list[Pair]) -> None:
    content = {
        "sweep": sweep.path,
        "statement": statement,
        **asdict(gain),
        "runs": [[best.id, baseline.id] for _, best, baseline in pairs],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / "confirm.json").write_text(f"{text}\n", encoding="utf-8")


def _draw(
    folder: Path,
    objective: str,
    seeds: NDArray[np.int64],
    best: Array,
    baseline: Array,
    gain: Gain,
) -> Path:
    figure, ((left, right),) = style.figure(1, 2, height=3.4, width_ratios=(1.4, 1))
    for pair in zip(baseline, best, strict=True):
        left.plot((0, 1), pair, color=style.GREY, linewidth=0.9, zorder=1)
    bar: dict[str, Any] = {"fmt": "_", "color": "black", "markersize": 13, "capsize": 4}
    for x, side, role, values in ((0, -0.16, "baseline", baseline), (1, 0.16, "best", best)):
        left.plot([x] * len(values), values, linestyle="", markersize=6, **_mark(role))
        left.errorbar(x + side, values.mean(), values.std(ddof=1), **bar)
    left.set_xticks((0, 1), ("baseline", "best"))
    label = f"{style.objective_label(objective)} (lower is better)"
    left.set(xlim=(-0.4, 1.4), ylabel=label)
    left.set_title("each seed, with mean and standard deviation")
    right.axvline(0, color="black", linewidth=0.9)
    right.plot(baseline - best, np.arange(len(seeds)), linestyle="", **_mark("best"))
    right.errorbar(gain.mean, -1, xerr=gain.margin, fmt="D", color="black", capsize=4, markersize=5)
    right.set_yticks(range(-1, len(seeds)), ["mean", *(f"seed {seed}" for seed in seeds)])
    right.set(ylim=(-1.6, len(seeds) - 0.4), xlabel="gain: baseline minus best")
    right.set_title(f"paired difference, {CONFIDENCE:.0%} interval")
    return style.save(figure, folder / "confirm.png")


def _mark(role: str) -> dict[str, Any]:
    return {name: style.ROLES[role][name] for name in ("marker", "color")}


if __name__ == "__main__":
    main()

"""What each change of a configuration is worth: a sweep of chosen configurations and seeds.

python -m analysis.ablation entity/project/sweep_id --data data/ablation --out results/ablation
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from analysis import reader, scores, style, trained, weights
from analysis.cli import FOLDER, checkpoints_option, data_option
from analysis.evaluations import evaluate
from analysis.runs import Run, Sweep, as_number
from analysis.sections import Cell, Table
from analysis.verdict import CONFIDENCE
from segmentation import metrics
from segmentation.config import BASELINE
from segmentation.errors import UserError, written
from segmentation.prepared import PreparedSet

FILE = "ablation.json"
FEWEST = 2  # seeds from which an interval can be computed
STEP = 2  # by how many hyperparameters an arm may extend the arm that it is compared with

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredRun:
    """One finished run: its seed, its configuration, and its scores on every place."""

    id: str
    seed: int
    configuration: dict[str, Any]
    val_error: list[float]
    """Validation error after each epoch."""
    confusions: dict[str, list[list[int]]]
    """Place, as its tiles -> (classes, classes) pixels, by the weights after the last epoch."""

    def score(self, places: Sequence[str]) -> tuple[float, float]:
        """(accuracy, mean IoU of the real classes) of some places together."""
        pooled = np.sum([self.confusions[place] for place in places], axis=0)
        return metrics.accuracy(pooled), metrics.mean_iou(pooled, unlabeled=False)


@dataclass(frozen=True)
class Arm:
    """The runs of one configuration, by seed."""

    values: dict[str, Any]
    """The hyperparameters that are not the baseline's."""
    runs: dict[int, ScoredRun]

    def extends(self, other: "Arm") -> bool:
        """Whether this arm has all values of another one, and at most STEP more."""
        extra = len(self.values) - len(other.values)
        return 0 < extra <= STEP and other.values.items() <= self.values.items()

    def beyond(self, other: "Arm | None") -> str:
        """The values that `other` does not have, in words."""
        known = other.values if other else {}
        texts = [f"{name} {value}" for name, value in self.values.items() if name not in known]
        return ", ".join(texts) or "published baseline"


@dataclass(frozen=True)
class Comparison:
    """Differences of an arm and the arm that it is compared with, on some places."""

    differences: Array
    """(n,) arm minus other, per seed."""
    margin: float
    """Half the width of the 95 % interval of their mean; NaN if it cannot be computed."""

    def __str__(self) -> str:
        if not len(self.differences):
            return ""
        mean = f"{self.differences.mean():+.3f}"
        return mean if math.isnan(self.margin) else f"{mean} ± {self.margin:.3f}"


@click.command(context_settings={"max_content_width": 120})
@click.argument("sweep")
@data_option
@checkpoints_option
@click.option("--out", "folder", type=FOLDER, required=True, help="Folder for the results.")
@click.option(
    "--half",
    "halves",
    multiple=True,
    metavar="TILES",
    help="Tiles that are also scored together, for example 1,3,5. May be repeated.",
)
def main(sweep: str, data: Path, checkpoints: Path, folder: Path, halves: tuple[str, ...]) -> None:
    """Compare the configurations of SWEEP, paired by seed, on the places of the validation split.

    SWEEP is one of sweeps/ablation.yaml: its runs keep the weights after their last epoch. Each
    finished run is scored once, so the command can be repeated while the sweep runs. OUT receives
    ablation.json, from which all else is made, and ablation.csv, .md and .png.

    \b
    Example:
      python -m analysis.ablation loopback/aerial-sweeps/abc123 --data data/ablation \\
        --out results/ablation --half 1,3,5 --half 2,6
    """
    prepared = PreparedSet.open(data)
    groups = {half: _places(prepared, half) for half in halves}
    read = reader.read_sweep(sweep)
    runs = measure(read, prepared, folder, checkpoints)
    ordered = arms(runs, read.config)
    done = sum(len(arm.runs) for arm in ordered)  # a repeat of one seed counts once
    state = f"{done} of {_planned(read.config)} runs"
    for file in render(ordered, groups, folder, state):
        click.echo(file)


def measure(
    sweep: Sweep, prepared: PreparedSet, folder: Path, checkpoints: Path
) -> list[ScoredRun]:
    """The scores of all finished runs of a sweep; those of earlier calls come from FILE.

    Raises:
        UserError: A run was trained on another set, or has no weights of its last epoch.
    """
    tiles = np.unique(prepared.tiles[prepared.indices("val")]).tolist()
    known = {run.id: run for run in load(folder)}
    finished = [run for run in sweep.runs if run.outcome == "finished"]
    for number, run in enumerate(finished, start=1):
        if run.id not in known:
            if run.data.get("checksum") != prepared.manifest["checksum"]:
                raise UserError(f"run {run} was not trained on {prepared.folder}; name its --data")
            file = weights.find(run, "kept", sweep.path, folder / "cache", checkpoints)
            model, _ = trained.open_model(file)
            confusions = evaluate([model], prepared, tiles)
            known[run.id] = _scored(run, confusions)
            _write(folder, known.values())
            click.echo(f"scored {number} of {len(finished)} finished runs: {run}")
    return [known[run.id] for run in finished]


def load(folder: Path) -> list[ScoredRun]:
    """The runs in FILE; none if there is no such file. Raises UserError if it is damaged."""
    file = folder / FILE
    if not file.exists():
        return []
    try:
        return [ScoredRun(**record) for record in json.loads(file.read_text())["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error}); remove it to score all runs again"
        ) from error


def arms(runs: Sequence[ScoredRun], config: Mapping[str, Any]) -> list[Arm]:
    """The runs by configuration, in the order of the sweep's `configuration`."""
    order = [_changes(values) for values in config["parameters"]["configuration"]["values"]]
    found = [
        Arm(values, {run.seed: run for run in runs if _changes(run.configuration) == values})
        for values in order
    ]
    return [arm for arm in found if arm.runs]


def reference(arm: Arm, others: Sequence[Arm]) -> Arm | None:
    """The arm that `arm` is compared with: the largest one that it extends, else the baseline.

    None for the baseline.
    """
    extended = [other for other in others if arm.extends(other)]
    baseline = next((other for other in others if not other.values), None)
    chosen = max(extended, key=lambda other: len(other.values), default=baseline)
    return None if chosen is arm else chosen


def differences(arm: Arm, other: Arm, places: Sequence[str]) -> Array:
    """(n,) mean IoU of the real classes, arm minus other, per seed that both have."""
    seeds = sorted(arm.runs.keys() & other.runs.keys())
    pairs = [[one.runs[seed].score(places)[1] for one in (arm, other)] for seed in seeds]
    return np.array([first - second for first, second in pairs])


def comparisons(ordered: Sequence[Arm], places: Sequence[str]) -> list[Comparison]:
    """One comparison per arm, on some places together. That of the baseline is empty.

    The interval is Student's t with a variance that is pooled over all arms with the same
    reference: three seeds alone say little about a variance. So it assumes that these arms scatter
    alike.
    """
    from scipy.stats import t

    pairs = [(arm, reference(arm, ordered)) for arm in ordered]
    gains = [differences(arm, other, places) if other else np.array([]) for arm, other in pairs]
    found = []
    for (_, other), own in zip(pairs, gains, strict=True):
        alike = [
            gain
            for (_, its), gain in zip(pairs, gains, strict=True)
            if its is other and len(gain) >= FEWEST
        ]
        freedom = sum(len(gain) - 1 for gain in alike)
        half = math.nan
        if freedom and len(own):
            variance = sum(gain.var(ddof=1) * (len(gain) - 1) for gain in alike) / freedom
            half = t.ppf(0.5 + CONFIDENCE / 2, freedom) * math.sqrt(variance / len(own))
        found.append(Comparison(own, float(half)))
    return found


def seed_deviation(arm: Arm) -> float:
    """Standard deviation of the validation error over seeds, after one epoch.

    It is the root of the mean variance over the later half of the epochs. NaN for one seed.
    """
    curves = np.array([run.val_error for run in arm.runs.values()])
    if len(curves) < FEWEST:
        return float("nan")
    later = curves[:, curves.shape[1] // 2 :]
    return float(np.sqrt(later.var(axis=0, ddof=1).mean()))


def render(
    ordered: Sequence[Arm], groups: Mapping[str, list[str]], folder: Path, state: str
) -> list[Path]:
    """Writes the table and the figure. Returns the files.

    Args:
        ordered: The arms, in the order of the rows.
        groups: Name of each group of places -> its places.
        folder: The results folder.
        state: How much of the sweep is finished, for the caption.
    """
    places = sorted(next(iter(ordered[0].runs.values())).confusions)
    groups = {"all places": places, **groups}
    single = {f"place {place}": [place] for place in places}
    header = ["change", "compared with", "seeds", "accuracy", "mean_iou_labeled", "seed_sd"]
    header += [f"difference, {name}" for name in (*groups, *single)]
    compared = {name: comparisons(ordered, group) for name, group in {**groups, **single}.items()}
    rows = [
        [*_facts(arm, reference(arm, ordered), places), *map(str, cells)]
        for arm, *cells in zip(ordered, *compared.values(), strict=True)
    ]
    caption = (
        "Mean IoU of the five real classes on the validation places, by the weights after the last "
        "epoch. Differences are paired by seed; their 95 % intervals pool the variance of all "
        f"rows that are compared with the same one. State: {state}."
    )
    files = Table(folder / "ablation", caption, header, rows).write()
    shown = {name: compared[name] for name in groups}
    return [*files, _draw(ordered, shown, folder / "ablation.png")]


def _facts(arm: Arm, other: Arm | None, places: Sequence[str]) -> Iterator[Cell]:
    """The first cells of an arm's row, up to its differences."""
    scored = np.array([run.score(places) for run in arm.runs.values()])
    yield arm.beyond(other)
    yield other.beyond(None) if other else ""
    yield len(arm.runs)
    yield from map(float, scored.mean(axis=0))
    yield seed_deviation(arm)


def _draw(ordered: Sequence[Arm], compared: Mapping[str, Sequence[Comparison]], file: Path) -> Path:
    """One row per arm and one marker per group of places, with its interval."""
    rows = [i for i, arm in enumerate(ordered) if reference(arm, ordered)]
    figure, ((axes,),) = style.figure(height=1.2 + 0.32 * max(1, len(rows)))
    for number, (name, found) in enumerate(compared.items()):
        shown = [(row, found[i]) for row, i in enumerate(rows) if len(found[i].differences)]
        axes.errorbar(
            [comparison.differences.mean() for _, comparison in shown],
            [row + 0.2 * (number - (len(compared) - 1) / 2) for row, _ in shown],
            xerr=[np.nan_to_num(comparison.margin) for _, comparison in shown],
            fmt="o^sD"[number % 4],
            color=f"C{number}",
            label=name,
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_words(ordered[i], ordered) for i in rows])
    axes.invert_yaxis()
    axes.set_xlabel("difference of mean IoU (five classes), with 95 % interval; right is better")
    axes.legend(loc="best")
    return style.save(figure, file)


def _words(arm: Arm, others: Sequence[Arm]) -> str:
    """The name of an arm's row in the figure."""
    other = reference(arm, others)
    base = "" if other is None or not other.values else "... + "
    return base + arm.beyond(other)


def _scored(run: Run, confusions: Mapping[tuple[int, ...], NDArray[np.int64]]) -> ScoredRun:
    names = run.config.get("configuration") or run.hyperparameters
    return ScoredRun(
        run.id,
        int(as_number(run.hyperparameters["seed"])),
        {name: run.hyperparameters[name] for name in names},
        [float(value) for value in run.series("val_error")[1]],
        {",".join(map(str, place)): matrix.tolist() for place, matrix in confusions.items()},
    )


def _changes(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration that are not the baseline's."""
    return {name: v for name, v in configuration.items() if v != BASELINE.get(name)}


def _planned(config: Mapping[str, Any]) -> int:
    """Number of runs of a grid search."""
    lists = [parameter.get("values", [0]) for parameter in config["parameters"].values()]
    return int(np.prod([len(values) for values in lists]))


def _places(prepared: PreparedSet, tiles: str) -> list[str]:
    """The places of a text such as "1,3,5". Raises UserError for tiles that the set lacks."""
    numbers = set(scores.tile_numbers(tiles) or [])
    prepared.indices_of(sorted(numbers))
    return [",".join(map(str, place)) for place in prepared.places if numbers & set(place)]


def _write(folder: Path, runs: Iterable[ScoredRun]) -> None:
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"runs": [asdict(run) for run in runs]}, indent=1) + "\n"
        weights.write_atomically(folder / FILE, text.encode())


if __name__ == "__main__":
    main()

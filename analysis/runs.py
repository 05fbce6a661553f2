"""Runs and sweeps as plain data, as a results folder stores them. Nothing here uses the network."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmentation.config import (
    BEST_BY,
    NOT_HYPERPARAMETERS,
    OBJECTIVE,
    OBJECTIVES,
    STATUSES,
    Config,
    is_baseline,
)
from segmentation.errors import UserError

OTHER_KEYS = (*NOT_HYPERPARAMETERS, "configuration", "_wandb")
"""Keys of a run's W&B config that are no hyperparameters."""

NOT_COMPARED = ("seed", "keep_epoch", "val_batch_size", "best_by")
"""Runs that differ in nothing but these repeat one configuration."""

LOSS_NAMES = ("loss", "label_smoothing", "unlabeled")
"""Hyperparameters that define the loss. Losses of different definitions cannot be compared."""

CHECKSUM_DIGITS = 12
"""As many digits of a data set's checksum are compared and shown."""

UNKNOWN = ("unknown", "")
"""Conditions that a run did not store."""

LIVE_STATES = ("running", "pending", "preempting", "queued")
OUTCOMES = (*STATUSES, "failed", "running")
"""How a run ended, in the order of reports: train.py's status, else W&B's own state."""

Scalar = str | int | float
Row = dict[str, Scalar]


def as_number(value: object) -> float:
    """`value` as a float; NaN if it is no number. W&B stores NaN and infinities as strings."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def known_fields(cls: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `record` that `cls` has fields for. Files of other versions may have more."""
    return {spec.name: record[spec.name] for spec in fields(cls) if spec.name in record}


@dataclass(frozen=True)
class Run:
    """One run as W&B stores it. `history`: one row per epoch; `problem`: what could not be read."""

    id: str
    name: str = ""
    state: str = "finished"
    url: str = ""
    created: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    summary: Row = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    problem: str = ""

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Run":
        """The run in a JSON object. Raises KeyError, TypeError or ValueError if it is damaged."""
        if not all(isinstance(row, dict) for row in record.get("history", [])):
            raise ValueError(f"a row of run {record['id']} is not an object")
        values = {"tags": tuple(record["tags"]), "config": dict(record["config"])}
        return cls(**known_fields(cls, record) | values)

    def __str__(self) -> str:
        return f"{self.name} ({self.id})" if self.name and self.name != self.id else self.id

    @property
    def outcome(self) -> str:
        """How the run ended: one of OUTCOMES."""
        status = self.summary.get("status")
        if self.state in LIVE_STATES:
            return "running"
        if isinstance(status, str) and status in STATUSES:
            return status
        return "finished" if self.state == "finished" else "failed"

    def value(self, objective: str) -> float:
        """The last finite value of `objective` in the history, else in the summary.

        NaN if there is none.
        """
        values = self.series(objective)[1]
        return float(values[-1]) if len(values) else as_number(self.summary.get(objective))

    def lowest_epoch(self, name: str) -> int | None:
        """The epoch of the lowest value of `name`, such as `val_loss`; None without values."""
        epochs, values = self.series(name)
        return int(epochs[values.argmin()]) if len(values) else None

    @property
    def judged_by(self) -> str:
        """The value per epoch whose lowest epoch has the run's best weights."""
        return BEST_BY[(self.settings or Config()).best_by]

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the run's best weights; None without a validation split."""
        return self.lowest_epoch(self.judged_by)

    @cached_property
    def settings(self) -> Config | None:
        """The run's hyperparameters as a Config; None if this project's Config refuses them."""
        try:
            return Config.from_mapping(self._raw_hyperparameters)
        except UserError:
            return None

    @property
    def stored_names(self) -> set[str]:
        """Names of the hyperparameters that the run stored. An older version stored fewer."""
        return set(self.config) - set(OTHER_KEYS)

    @cached_property
    def hyperparameters(self) -> dict[str, Any]:
        """Name -> value in the order of Config's fields.

        Runs of other projects: as stored, by name.
        """
        if self._raw_hyperparameters and self.settings:
            return asdict(self.settings)
        return self._raw_hyperparameters

    @property
    def _raw_hyperparameters(self) -> dict[str, Any]:
        names = [spec.name for spec in fields(Config)]
        order = {name: position for position, name in enumerate(names)}
        ordered = sorted(self.stored_names, key=lambda name: (order.get(name, len(order)), name))
        return {name: self.config[name] for name in ordered}

    @property
    def is_baseline(self) -> bool:
        """Whether the run has the published setting, or the tag `baseline`."""
        return "baseline" in self.tags or is_baseline(self.hyperparameters)

    def task(self, objective: str) -> dict[str, str]:
        """What two runs must share so that `objective` means the same in both, by name.

        Only `best_val_loss` depends on the loss function. What a run did not store is `unknown`.
        """
        task = {
            "data set": str(self.data.get("checksum", "unknown"))[:CHECKSUM_DIGITS],
            "split": str(self.data_options.get("split", "unknown")),
        }
        if objective == "best_val_loss":
            values = {name: self.hyperparameters.get(name, "unknown") for name in LOSS_NAMES}
            loss, *others = (f"{name} {value}" for name, value in values.items())
            task["loss"] = ", ".join((loss.removeprefix("loss "), *others))
        return task

    def same_task(self, other: "Run", objective: str) -> bool:
        """Whether `objective` means the same in both runs: same data, split and loss."""
        return self.task(objective) == other.task(objective)

    def comparable(self, other: "Run", objective: str) -> bool:
        """Whether the run is finished and its value can be compared with that of `other`."""
        usable = self.outcome == "finished" and math.isfinite(self.value(objective))
        return usable and self.same_task(other, objective)

    def configuration_key(self, *without: str) -> str:
        """The hyperparameters except `without`, as text: equal for equal configurations."""
        compared = {name: v for name, v in self.hyperparameters.items() if name not in without}
        return json.dumps(compared, sort_keys=True)

    @property
    def data(self) -> dict[str, Any]:
        """What train.py stored about the prepared set; empty for runs of other projects."""
        return _mapping(self.config.get("data"))

    @property
    def environment(self) -> dict[str, Any]:
        """The stored commit, device and precision; empty for runs of other projects."""
        return _mapping(self.config.get("environment"))

    @property
    def data_options(self) -> dict[str, Any]:
        """The options that the run's prepared set was made with, by name."""
        return dict(sorted(_mapping(self.data.get("options")).items()))

    def series(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(epochs, values) of one metric, both (n,), by epoch.

        Rows without a finite value are left out.
        """
        pairs = [
            (as_number(row.get("epoch", row.get("_step"))), as_number(row.get(name)))
            for row in self.history
        ]
        finite = sorted(pair for pair in pairs if all(map(math.isfinite, pair)))
        epochs, values = zip(*finite, strict=True) if finite else ((), ())
        return np.array(epochs, float), np.array(values, float)

    def second_training_start(self, objective: str) -> int | None:
        """The first epoch that cannot belong to the training of the rows before; None if all can.

        One training logs the lowest value per epoch so far. So its objective never rises, and is
        always the value of one of its rows. Rows without a value are ignored: a run that fails in
        its first epoch logs only the worst objective.
        """
        lowest = previous = math.inf
        for row in self.history:
            value, best = (as_number(row.get(name)) for name in (OBJECTIVES[objective], objective))
            if not (math.isfinite(value) and math.isfinite(best)):
                continue
            lowest = min(lowest, value)
            if best > previous or best < lowest - 1e-6 * abs(lowest):
                return int(as_number(row.get("epoch", row.get("_step"))))
            previous = best
        return None

    def data_problems(self, objective: str) -> Iterator[str]:
        """One line for each problem of the run's data that a reader of the figures should know.

        Args:
            objective: Name of the objective that the figures show.
        """
        if self.problem:
            yield f"run {self}: {self.problem}"
        elif not self.history:
            yield f"run {self} ({self.outcome}) has no rows: it is counted, but not drawn"
        elif not any(objective in row for row in self.history):
            yield (
                f"run {self} logs no {objective}: train.py did not make it, or an older version "
                "did, so it is not compared"
            )
        strings = [[v for v in row.values() if isinstance(v, str)] for row in self.history]
        if count := sum(not all(map(_is_finite_text, values)) for values in strings):
            yield (
                f"run {self}: {count} of {len(self.history)} rows have values that are not finite; "
                "these values are left out"
            )
        if epoch := self.second_training_start(objective):
            yield (
                f"run {self}: from epoch {epoch} on, {objective} does not follow from the rows "
                "before: the history holds two trainings, for example of two machines; "
                "train the run again"
            )


@dataclass(frozen=True)
class Sweep:
    """A sweep and its runs in the order of their creation.

    `others` are baselines outside the sweep.
    """

    path: str
    name: str = ""
    state: str = ""
    url: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    wandb_best: str | None = None
    """Id of the run that W&B's own `best_run()` named when the sweep was read."""
    runs: tuple[Run, ...] = ()
    others: tuple[Run, ...] = ()

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Sweep":
        """The sweep in a JSON object. Raises KeyError, TypeError or ValueError if it is damaged."""
        runs = {name: tuple(map(Run.from_json, record[name])) for name in ("runs", "others")}
        return cls(**known_fields(cls, record) | runs)

    def __str__(self) -> str:
        return self.name or self.path

    def outcome_counts(self) -> dict[str, int]:
        """Outcome -> number of runs, in the order of OUTCOMES, without zeros."""
        counts = Counter(run.outcome for run in self.runs)
        return {outcome: counts[outcome] for outcome in OUTCOMES if counts[outcome]}

    @property
    def metric(self) -> str | None:
        """Name of the metric in the sweep's configuration; None if there is none."""
        return _mapping(self.config.get("metric")).get("name")

    @property
    def objective(self) -> str:
        """Name of the objective that ranks the runs: the metric, OBJECTIVE for other metrics."""
        return self.metric if self.metric in OBJECTIVES else OBJECTIVE

    def value(self, run: Run) -> float:
        """The value of this sweep's objective in a run of any sweep; NaN if there is none."""
        return run.value(self.objective)

    def ranked(self) -> list[Run]:
        """The finished runs with a finite objective, best first, ties broken by run id."""
        finished = [
            run for run in self.runs if run.outcome == "finished" and math.isfinite(self.value(run))
        ]
        return sorted(finished, key=lambda run: (self.value(run), run.id))

    def tasks(self, objective: str) -> dict[str, Counter[str]]:
        """Name of each part of `Run.task` -> its values, with the number of runs that have each.

        Runs without a value of `objective` do not count: they are in no comparison.
        """
        counts: dict[str, Counter[str]] = {}
        for run in self.runs:
            if math.isfinite(run.value(objective)):
                for name, value in run.task(objective).items():
                    counts.setdefault(name, Counter())[value] += 1
        return counts

    def mixed_conditions(self) -> Iterator[str]:
        """One line per condition in which runs differ although their objectives are compared."""
        devices = Counter(
            " on ".join(
                str(run.environment[n]) for n in ("precision", "device") if n in run.environment
            )
            for run in self.runs
        )
        conditions = {
            **{_plural(name): counts for name, counts in self.tasks(self.objective).items()},
            "combinations of number format and device": devices,
        }
        for what, counts in conditions.items():
            known = {value: counts[value] for value in sorted(counts) if value not in UNKNOWN}
            if len(known) > 1:
                listed = ", ".join(
                    f"{value} ({count} {'run' if count == 1 else 'runs'})"
                    for value, count in known.items()
                )
                yield (
                    f"the runs of the sweep were trained with {len(known)} {what}: {listed}; "
                    "compare them with care"
                )

    def varied(self) -> list[str]:
        """Names of the hyperparameters in which the runs differ, in Config's order."""
        settings = [run.hyperparameters for run in self.runs]
        names = dict.fromkeys(name for setting in settings for name in setting)
        simple = (str, int, float, bool, type(None))
        values = {
            name: {s.get(name) for s in settings if isinstance(s.get(name), simple)}
            for name in names
        }
        return [name for name in names if len(values[name]) > 1]


def check_comparable(sweep: Sweep, mine: Sweep, chosen: Run | None = None) -> None:
    """Checks that the objective of `mine` means the same in the runs of both sweeps.

    Args:
        sweep: The sweep to compare.
        mine: The sweep of the results folder.
        chosen: The run of `mine` that is compared. None compares the searches themselves: then they
            must also have searched by one objective.

    Raises:
        UserError: They differ in data, split, loss or objective. The message names both values.
    """
    objective = mine.objective
    theirs, ours = (each.tasks(objective) for each in (sweep, mine))
    if chosen is None:
        theirs |= {"objective": Counter([sweep.objective])}
        ours |= {"objective": Counter([objective])}
    else:
        ours = {name: Counter([value]) for name, value in chosen.task(objective).items()}
    for name in [name for name in ours if name in theirs]:
        if set(theirs[name]) != set(ours[name]):
            values = [" and ".join(sorted(each[name])) for each in (theirs, ours)]
            raise UserError(
                f"{sweep.path} has the {name} {values[0]}, but {mine.path} has {values[1]}: their "
                f"values cannot be compared; name a sweep with the same {name}"
            )


def _plural(name: str) -> str:
    return f"{name}es" if name.endswith("s") else f"{name}s"


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_finite_text(text: str) -> bool:
    return text.lower().lstrip("-+") not in ("nan", "inf", "infinity")

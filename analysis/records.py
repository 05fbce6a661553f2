"""Runs and sweeps as plain data, the way they lie in the cache. Nothing here knows the network."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np

from segmentation.config import BASELINE, NOT_HYPERPARAMETERS, OBJECTIVE, STATUSES, Config

OTHER_KEYS = (*NOT_HYPERPARAMETERS, "configuration", "_wandb")  # of a config as W&B gives it
NOT_COMPARED = (
    "seed",
    "keep_epoch",
    "val_batch_size",
)  # two runs that differ in no others are repeats of one configuration
LIVE = ("running", "pending", "preempting", "queued")
OUTCOMES = (*STATUSES, "failed", "running")
"""How a run may have ended, in the order in which they are told: its status, or else what W&B's own state says."""


def number(value) -> float:
    """A number from W&B as a float; NaN for what is none. W&B writes NaN and infinities as words."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


@dataclass(frozen=True)
class Run:
    """One run as W&B keeps it; `history` has one row an epoch, `problem` says what could not be read of it."""

    id: str
    name: str = ""
    state: str = "finished"
    url: str = ""
    created: str = ""
    tags: tuple[str, ...] = ()
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    problem: str = ""

    @classmethod
    def from_json(cls, record: dict) -> "Run":
        """The run in a record of the cache. Raises KeyError, TypeError or ValueError if it is damaged."""
        config = dict(record["config"])
        if not all(isinstance(row, dict) for row in record.get("history", [])):
            raise ValueError(f"a row of run {record['id']} is not an object")
        if (
            "activation" in config and config["activation"] is None
        ):  # a sweep's null; a run told so by name says `linear`
            config["activation"] = "linear"
        return cls(**record | {"tags": tuple(record["tags"]), "config": config})

    def __str__(self) -> str:
        return f"{self.name} ({self.id})" if self.name and self.name != self.id else self.id

    @property
    def outcome(self) -> str:
        """One of OUTCOMES."""
        status = self.summary.get("status")
        if self.state in LIVE:
            return "running"
        if status in STATUSES:
            return status
        return "finished" if self.state == "finished" else "failed"

    @property
    def objective(self) -> float:
        """What the search saw of it: the last finite value of the objective, or the summary's; NaN where there is none."""
        values = self.series(OBJECTIVE)[1]
        return float(values[-1]) if len(values) else number(self.summary.get(OBJECTIVE))

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the lowest validation loss, whose weights are the run's `best` ones."""
        epochs, losses = self.series("val_loss")
        return int(epochs[losses.argmin()]) if len(losses) else None

    @property
    def hyperparameters(self) -> dict:
        """Name -> value, sorted by the order of Config's fields, then by name."""
        known = {spec.name: position for position, spec in enumerate(fields(Config))}
        names = sorted(
            set(self.config) - set(OTHER_KEYS), key=lambda name: (known.get(name, len(known)), name)
        )
        return {name: self.config[name] for name in names}

    @property
    def is_baseline(self) -> bool:
        """Whether it holds the published values, or its tag says so."""
        return "baseline" in self.tags or BASELINE.items() <= self.config.items()

    def setting(self, *without: str) -> str:
        """The hyperparameters as one comparable text, without those named."""
        return json.dumps(
            {name: value for name, value in self.hyperparameters.items() if name not in without},
            sort_keys=True,
        )

    def recorded(self, kind: str, name: str, default=None):
        """A field of the records `data` or `environment` in its config; `default` in a run of another project's shape."""
        record = self.config.get(kind)
        return record.get(name, default) if isinstance(record, dict) else default

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(epochs, values), both (n,) float64: the history's finite values of one metric, by epoch."""
        pairs = [
            (number(row.get("epoch", row.get("_step"))), number(row.get(name)))
            for row in self.history
        ]
        finite = sorted(pair for pair in pairs if all(map(math.isfinite, pair)))
        epochs, values = zip(*finite, strict=True) if finite else ((), ())
        return np.array(epochs, float), np.array(values, float)

    def second_training(self) -> int | None:
        """First epoch whose objective is above the one before, or below all validation losses so far; None in general.

        One training logs the lowest validation loss so far, which never rises and is always the loss of a row.
        Rows without a validation loss are ignored: a run that fails in its first epoch logs the worst value alone.
        """
        lowest = previous = math.inf
        for row in self.history:
            loss, objective = number(row.get("val_loss")), number(row.get(OBJECTIVE))
            if not (math.isfinite(loss) and math.isfinite(objective)):
                continue
            lowest = min(lowest, loss)
            if objective > previous or objective < lowest - 1e-6 * abs(lowest):
                return int(number(row.get("epoch", row.get("_step"))))
            previous = objective
        return None

    def oddities(self) -> Iterator[str]:
        """A line for everything about it that a reader of the figures should know."""
        if self.problem:
            yield f"run {self}: {self.problem}"
        elif not self.history:
            yield f"run {self} ({self.outcome}) has no rows: it is counted, and drawn nowhere"
        elif not any(OBJECTIVE in row for row in self.history):
            yield f"run {self} logs no {OBJECTIVE}: it is of another project's shape, and not compared"
        missing = [
            row
            for row in self.history
            if any(isinstance(value, str) and not _finite(value) for value in row.values())
        ]
        if missing:
            yield f"run {self} has {len(missing)} of {len(self.history)} rows with values that are not finite: they are left out"
        if epoch := self.second_training():
            yield (
                f"run {self}: from epoch {epoch} on, {OBJECTIVE} does not follow from the rows before: "
                "the history holds two trainings, for example of two machines; train the run again"
            )


@dataclass(frozen=True)
class Sweep:
    """A sweep and its runs in the order in which they were created; `others` are baselines of the same project outside it."""

    path: str
    name: str = ""
    state: str = ""
    url: str = ""
    config: dict = field(default_factory=dict)
    wandb_best: str | None = None
    """Id of the run that W&B's own `best_run()` named when the sweep was read."""
    runs: tuple[Run, ...] = ()
    others: tuple[Run, ...] = ()

    @classmethod
    def from_json(cls, record: dict) -> "Sweep":
        """The sweep in a record of the cache. Raises KeyError, TypeError or ValueError if it is damaged."""
        runs = {name: tuple(map(Run.from_json, record[name])) for name in ("runs", "others")}
        return cls(**record | runs)

    def __str__(self) -> str:
        return self.name or self.path

    def counts(self) -> dict[str, int]:
        """Outcome -> runs, in the order of OUTCOMES, without those that none had."""
        found = Counter(run.outcome for run in self.runs)
        return {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}

    def ranked(self) -> list[Run]:
        """The finished runs with a finite objective, best first, ties broken by run id."""
        finished = [
            run for run in self.runs if run.outcome == "finished" and math.isfinite(run.objective)
        ]
        return sorted(finished, key=lambda run: (run.objective, run.id))

    def mixtures(self) -> Iterator[str]:
        """A line for each circumstance that the runs do not share although their objectives are compared."""
        circumstances = {
            "data sets": lambda run: str(run.recorded("data", "checksum", ""))[:12],
            "kinds of arithmetic": lambda run: " on ".join(
                filter(
                    None, (run.recorded("environment", name) for name in ("precision", "device"))
                )
            ),
        }
        for what, read in circumstances.items():
            counts = Counter(filter(None, map(read, self.runs)))
            if len(counts) > 1:
                listed = ", ".join(
                    f"{name} ({count} run{'s' * (count > 1)})"
                    for name, count in sorted(counts.items())
                )
                yield f"the runs of the sweep were trained with {len(counts)} {what}: {listed}; compare them with care"

    def varied(self) -> list[str]:
        """The hyperparameters in which its runs differ, in Config's order."""
        settings = [run.hyperparameters for run in self.runs]
        names = dict.fromkeys(name for setting in settings for name in setting)
        simple = (str, int, float, bool, type(None))
        return [
            name
            for name in names
            if len(
                {setting.get(name) for setting in settings if isinstance(setting.get(name), simple)}
            )
            > 1
        ]


def _finite(word: str) -> bool:
    return word.lower().lstrip("-+") not in ("nan", "inf", "infinity")

"""What to try next and what to give up, decided by W&B's own `sweeps` package.

The package wants every run of the sweep each time. Reading them all anew would make each suggestion slower than
the last, so they are kept in memory as `SearchedRun`s and only the runs that changed are read again.
"""

import json
import logging
import math
import threading
import time
import warnings
from dataclasses import dataclass, field

import yaml
from pydantic import PrivateAttr

from loopback import lifecycle
from loopback.store import Store

warnings.filterwarnings(
    "ignore", message="Valid config keys have changed in V2"
)  # `sweeps` is older than pydantic 2

import sweeps  # noqa: E402
from sweeps.util import dict_has_nested_key  # noqa: E402

logger = logging.getLogger("loopback")

STATES = {state.value for state in sweeps.RunState}
PATIENCE = 10  # early stopping may take one part in so many of the time


class SearchedRun(sweeps.SweepRun):
    """A run as `sweeps` sees it, which keeps the finite values of the objective instead of rows of history."""

    _values: list = PrivateAttr(default_factory=list)
    _lowest: float = PrivateAttr(default=math.inf)
    _highest: float = PrivateAttr(default=-math.inf)
    _lines: int = PrivateAttr(default=0)
    _config: str = PrivateAttr(default="")  # the text from which `config` was read

    def add(self, values: list) -> None:
        """Takes further values of the objective, in their order; what is no finite number is left out."""
        for value in values:
            if (
                isinstance(value, (int, float))
                and not isinstance(value, bool)
                and math.isfinite(value)
            ):
                self._values.append(value)
                self._lowest, self._highest = min(self._lowest, value), max(self._highest, value)

    def metric_history(self, metric_name: str, filter_invalid: bool = False) -> list:
        """The objective so far, one value a row that holds it."""
        return self._values

    def metric_extremum(self, metric_name: str, kind: str) -> float:
        """The lowest or highest finite value in history and summary. ValueError if there is none."""
        low = kind.lower() in ("minimum", "min", "minimize")
        known = [self._lowest if low else self._highest]
        summary = self.summary_metrics.get(metric_name)
        if sweeps.run.is_number(summary):
            known.append(summary)
        best = min(known) if low else max(known)
        if not math.isfinite(best):
            raise ValueError(f"the run has no finite {metric_name}")
        return best


@dataclass
class Sample:
    """One sweep in memory: its runs by row id, and the number of the last change that they show."""

    lock: threading.RLock = field(
        default_factory=threading.RLock
    )  # one agent at a time is given a run
    runs: dict[int, SearchedRun] = field(default_factory=dict)
    version: int = -1
    config: str = ""
    parameters: list | None = (
        None  # the HyperParameterSet of a search that reads its runs' configurations
    )
    judged: int = -1  # version at which early stopping last looked
    resting: float = 0.0  # until when it rests


def objective(config: dict) -> tuple[str | None, str]:
    """(name, goal) of what the sweep optimizes."""
    metric = config.get("metric") or {}
    return metric.get("name"), metric.get("goal", "minimize")


def filled(config: dict) -> sweeps.SweepConfig:
    """The sweep's configuration with the defaults of `sweeps`. Raises ValidationError if it refuses the configuration.

    `SweepConfig` leaves out parameters that have parameters of their own, though its searches understand them.
    """
    whole = sweeps.SweepConfig(config)
    whole["parameters"] = config.get("parameters", {}) | whole.get("parameters", {})
    return whole


def proposed(config: dict, values) -> dict:
    """The part of a run's configuration that the search chose: `{name: {"value": ...}}`."""
    found = (
        {name: values.get(name) for name in config.get("parameters", {})}
        if isinstance(values, dict)
        else {}
    )
    return {
        name: value for name, value in found.items() if isinstance(value, dict) and "value" in value
    }


def parameter_set(config: dict) -> list:
    """The `HyperParameterSet` of a sweep's configuration, in which nested parameters are flat."""
    from sweeps.params import (
        HyperParameterSet,
    )  # it loads SciPy, which takes longer than the server's start

    return HyperParameterSet.from_config(filled(config)["parameters"])


def readable(parameters: list | None, chosen: dict) -> bool:
    """Whether the searches of `sweeps` can read a run's values. One that they cannot read would end every suggestion."""
    if not parameters:
        return True
    try:
        for parameter in parameters:
            head, *rest = parameter.name.split(parameters.NESTING_DELIMITER)
            dict_has_nested_key(chosen, [head, "value", *rest])
        parameters.normalize_runs_as_array([sweeps.SweepRun(name="", config=chosen)])
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def problems(config: dict) -> tuple[str | None, list[str]]:
    """(why W&B would refuse the sweep, or None; and what it would warn of)."""
    violations = list(sweeps.schema_violations_from_proposed_config(config))
    if config.get("method") == "custom":
        return None, violations
    try:
        whole = filled(config)
        if "early_terminate" in whole:
            sweeps.stop_runs(whole, [])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sweeps.next_run(whole, [])
    except (
        Exception
    ) as error:  # the package raises whatever its parts raise; the text is what helps
        return "; ".join(violations) or str(error), violations
    return None, violations


class Search:
    """The searches of all sweeps of one store."""

    def __init__(self, store: Store):
        self._store = store
        self._samples: dict[int, Sample] = {}
        self._guard = threading.Lock()

    def sample(self, sweep: dict) -> Sample:
        """The sweep in memory. Hold its `lock` while reading runs, or while giving out runs."""
        with self._guard:
            return self._samples.setdefault(sweep["id"], Sample())

    def refresh(self, sweep: dict, config: dict) -> Sample:
        """Brings the sample up to what the store holds; only changed runs are read."""
        sample = self.sample(sweep)
        with sample.lock:
            if sample.config != sweep["config"]:  # another metric or other parameters: start over
                sample.runs, sample.version, sample.judged, sample.config = (
                    {},
                    -1,
                    -1,
                    sweep["config"],
                )
                reads = config.get("method") in ("bayes", "grid")
                sample.parameters = parameter_set(config) if reads else None
            sql = "SELECT * FROM runs WHERE sweep_id = ? AND version > ? ORDER BY version"
            for row in self._store.all(sql, sweep["id"], sample.version):
                self._read(sample, row, config)
                sample.version = row["version"]
        return sample

    def forget(self, sweep_id: int | None) -> None:
        """Has the sweep read anew next time: one of its runs is deleted."""
        with self._guard:
            if sweep_id in self._samples:
                self._samples[sweep_id].config = ""

    def _read(self, sample: Sample, row: dict, config: dict) -> None:
        metric, _goal = objective(config)
        summary = json.loads(row["summary"])
        run = sample.runs.get(row["id"])
        if run is None:
            run = sample.runs[row["id"]] = SearchedRun(name=row["name"])
        run.state = row["state"] if row["state"] in STATES else "failed"
        run.stopped = run.should_stop = bool(row["stopped"])
        if row["config"] != run._config:
            chosen, run._config = proposed(config, json.loads(row["config"])), row["config"]
            run.config = chosen if readable(sample.parameters, chosen) else {}
            if chosen and not run.config:
                logger.warning(
                    "the search leaves out run %s: it cannot read %s",
                    row["name"],
                    str(chosen)[:200],
                )
        run.summary_metrics = (
            {metric: summary[metric]} if isinstance(summary, dict) and metric in summary else {}
        )
        if metric and row["history_lines"] > run._lines:
            sql = "SELECT json_extract(row, ?) AS value FROM history WHERE run_id = ? AND line >= ? AND line < ? ORDER BY line"
            found = self._store.all(
                sql, "$." + json.dumps(metric), row["id"], run._lines, row["history_lines"]
            )
            run.add([cell["value"] for cell in found])
            run._lines = row["history_lines"]

    def suggest(self, sweep: dict, config: dict) -> dict | None:
        """The next run's parameters as `{name: {"value": ...}}`, or None when there is nothing left to try."""
        sample = self.refresh(sweep, config)
        runs = (
            []
            if config["method"] == "random"
            else [run for run in sample.runs.values() if run.config]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = sweeps.next_run(filled(config), runs)
        return None if found is None else json.loads(json.dumps(found.config, default=_plain))

    def give_up(self, sweep: dict, config: dict) -> None:
        """Asks the runs to stop that early termination would stop, as soon as there is news of the sweep."""
        if "early_terminate" not in config or sweep["state"] not in ("RUNNING", "PAUSED"):
            return
        if (config.get("controller") or {}).get("type") == "local":
            return  # its own controller decides
        sample = self.refresh(sweep, config)
        with sample.lock:
            started = time.monotonic()
            if sample.judged == sample.version or started < sample.resting:
                return
            sample.judged = sample.version
            doomed = {
                run.name for run in sweeps.stop_runs(filled(config), list(sample.runs.values()))
            }
            spent = time.monotonic() - started
            sample.resting = time.monotonic() + PATIENCE * spent if spent > 0.05 else 0.0
            found = [
                key for key, run in sample.runs.items() if run.name in doomed and not run.stopped
            ]
            lifecycle.ask_to_stop(self._store, found)

    def reached(self, sweep: dict, config: dict) -> bool:
        """Whether a run has reached `metric.target`, after which W&B starts no further one."""
        metric, goal = objective(config)
        target = (config.get("metric") or {}).get("target")
        if target is None:
            return False
        kind = "maximum" if goal == "maximize" else "minimum"
        for run in self.refresh(sweep, config).runs.values():
            try:
                best = run.metric_extremum(metric, kind)
            except ValueError:
                continue
            if best >= target if goal == "maximize" else best <= target:
                return True
        return False


def warm_up() -> None:
    """Loads scikit-learn, which takes seconds, before the first agent waits for it."""
    problems(
        {
            "method": "bayes",
            "metric": {"name": "y", "goal": "minimize"},
            "parameters": {"x": {"min": 0.0, "max": 1.0}},
        }
    )


def _plain(value):
    """NumPy's numbers as Python's."""
    return value.item()


def parsed(sweep: dict) -> dict:
    """The sweep's configuration. It was checked when it was stored."""
    return yaml.load(sweep["config"], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  it is a safe one

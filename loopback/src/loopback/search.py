"""Proposes runs and stops runs early, with W&B's own `sweeps` package.

The package needs all runs of the sweep for each decision. Reading them from the store each time
would make every decision slower than the one before. So the runs stay in memory as `SearchedRun`s,
and only those that changed are read again.
"""

import json
import logging
import math
import threading
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml
from pydantic import PrivateAttr

from loopback import lifecycle
from loopback.store import Row, Store

# The package `sweeps` is older than pydantic 2.
warnings.filterwarnings("ignore", message="Valid config keys have changed in V2")

import sweeps  # noqa: E402
from sweeps.util import dict_has_nested_key  # noqa: E402

logger = logging.getLogger("loopback")

SweepConfig = dict[str, Any]  # a sweep's YAML
STATES = {state.value for state in sweeps.RunState}
PAUSE_RATIO = 10  # after early stopping took t seconds, it pauses for PAUSE_RATIO * t seconds,
MIN_SECONDS_TO_PAUSE = 0.05  # if t is more than this


class SearchedRun(sweeps.SweepRun):  # type: ignore[misc]  # `sweeps` has no annotations
    """A run as `sweeps` sees it. Keeps the objective's finite values instead of history rows."""

    _values: list[float] = PrivateAttr(default_factory=list)
    _lowest: float = PrivateAttr(default=math.inf)
    _highest: float = PrivateAttr(default=-math.inf)
    _lines: int = PrivateAttr(default=0)  # lines of history that were read
    _config: str = PrivateAttr(default="")  # the text from which `config` was read

    def add(self, values: Iterable[object]) -> None:
        """Appends further values of the objective. Skips everything that is not a finite number."""
        for value in values:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if math.isfinite(value):
                self._values.append(value)
                self._lowest, self._highest = min(self._lowest, value), max(self._highest, value)

    def metric_history(self, metric_name: str, filter_invalid: bool = False) -> list[float]:
        """The objective's values so far, one per history row that has it."""
        return self._values

    def metric_extremum(self, metric_name: str, kind: str) -> float:
        """The lowest or highest finite value of history and summary. ValueError without any."""
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
class CachedSweep:
    """One sweep in memory: its runs by row id, as of one version of the store."""

    lock: threading.RLock = field(default_factory=threading.RLock)  # one agent at a time gets a run
    runs: dict[int, SearchedRun] = field(default_factory=dict)
    version: int = -1  # of the last change that `runs` show
    config: str = ""  # the sweep's YAML when `runs` were read
    parameters: Any = None  # HyperParameterSet of a search that reads its runs' configurations
    stopping_version: int = -1  # version of the last decision on early stopping
    stopping_paused_until: float = 0.0  # on the monotonic clock, in seconds


@lru_cache(maxsize=64)
def config_of(text: str) -> SweepConfig:
    """A stored sweep's YAML as a dictionary, parsed once. Treat it as read-only."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    config: SweepConfig = yaml.load(text, Loader=loader)  # noqa: S506  both loaders are safe
    return config


def objective(config: SweepConfig) -> tuple[str | None, str]:
    """(name, goal) of the metric that the sweep optimizes; the name is None if it names none."""
    metric = config.get("metric") or {}
    return metric.get("name"), metric.get("goal", "minimize")


def has_local_controller(config: SweepConfig) -> bool:
    """Whether `wandb sweep --controller` makes the decisions instead of this server."""
    return bool((config.get("controller") or {}).get("type") == "local")


def with_defaults(config: SweepConfig) -> Any:
    """The `sweeps.SweepConfig` of a configuration. Raises ValidationError if it is not valid.

    `SweepConfig` drops parameters that have parameters of their own, although the searches of the
    package understand them. They are added again here.
    """
    filled = sweeps.SweepConfig(config)
    filled["parameters"] = config.get("parameters", {}) | filled.get("parameters", {})
    return filled


def chosen_values(config: SweepConfig, values: object) -> dict[str, Any]:
    """The part of a run's configuration that the search chose: `{name: {"value": ...}}`."""
    if not isinstance(values, dict):
        return {}
    parameters = config.get("parameters", {})
    found = {name: values.get(name) for name in parameters}
    chosen = {
        name: value["value"]
        for name, value in found.items()
        if isinstance(value, dict) and "value" in value
    }
    return {name: {"value": value} for name, value in as_declared(parameters, chosen).items()}


def as_declared(parameters: object, values: dict[str, Any]) -> dict[str, Any]:
    """`values` with each value replaced by the equal one that the sweep declares.

    The client stores 1.0 as 1. W&B's grid search compares mappings as text, so it would not see
    that {a: 1.0} was tried, and propose it again without end.

    Args:
        parameters: The `parameters` of a sweep, perhaps nested.
        values: Name -> value.
    """
    if not isinstance(parameters, dict):
        return values
    found = dict(values)
    for name, parameter in parameters.items():
        if name not in found or not isinstance(parameter, dict):
            continue
        if "parameters" in parameter and isinstance(found[name], dict):
            found[name] = as_declared(parameter["parameters"], found[name])
            continue
        declared = parameter.get("values", [parameter.get("value")])
        key = _comparable(found[name])
        equal = [value for value in declared or () if _comparable(value) == key]
        found[name] = equal[0] if equal else found[name]
    return found


def _comparable(value: object) -> str:
    """Text that is the same for 1 and 1.0, also inside lists and mappings, but not for true."""

    def plain(part: Any) -> Any:
        if isinstance(part, dict):
            return {str(name): plain(inner) for name, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [plain(inner) for inner in part]
        return int(part) if isinstance(part, float) and part.is_integer() else part

    return json.dumps(plain(value), sort_keys=True, default=str)


def parameter_set(config: SweepConfig) -> Any:
    """The `HyperParameterSet` of a sweep's configuration. It flattens nested parameters."""
    # Imported here because it loads SciPy, which takes longer than the server's start.
    from sweeps.params import HyperParameterSet

    return HyperParameterSet.from_config(with_defaults(config)["parameters"])


def is_readable(parameters: Any, chosen: dict[str, Any]) -> bool:
    """Whether the searches of `sweeps` can read a run's values.

    One run that they cannot read would make them fail at each proposal.
    """
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


def problems(config: SweepConfig) -> tuple[str | None, list[str]]:
    """(why W&B would refuse the sweep, or None; the warnings that W&B would give)."""
    violations = list(sweeps.schema_violations_from_proposed_config(config))
    if config.get("method") == "custom":
        return None, violations
    try:
        filled = with_defaults(config)
        if "early_terminate" in filled:
            sweeps.stop_runs(filled, [])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sweeps.next_run(filled, [])
    except Exception as error:  # `sweeps` raises many types; the user needs the text of any of them
        return "; ".join(violations) or str(error), violations
    return None, violations


class Search:
    """The searches of all sweeps of one store. `sweep` is a row of the table `sweeps`."""

    def __init__(self, store: Store):
        self._store = store
        self._sweeps: dict[int, CachedSweep] = {}
        self._guard = threading.Lock()

    def cached(self, sweep: Row) -> CachedSweep:
        """The sweep in memory. Hold its `lock` to read its runs or to assign a run to an agent."""
        with self._guard:
            return self._sweeps.setdefault(sweep["id"], CachedSweep())

    def refresh(self, sweep: Row) -> CachedSweep:
        """The sweep in memory, updated from the store. Reads only the runs that changed."""
        cached, config = self.cached(sweep), config_of(sweep["config"])
        with cached.lock:
            if cached.config != sweep["config"]:  # another metric or other parameters: start over
                cached.runs, cached.version, cached.stopping_version = {}, -1, -1
                cached.config = sweep["config"]
                reads_configs = config.get("method") in ("bayes", "grid")
                cached.parameters = parameter_set(config) if reads_configs else None
            sql = "SELECT * FROM runs WHERE sweep_id = ? AND version > ? ORDER BY version"
            for row in self._store.all(sql, sweep["id"], cached.version):
                self._read(cached, row, config)
                cached.version = row["version"]
        return cached

    def forget(self, sweep_id: int | None) -> None:
        """Discards the sweep's runs in memory, because one of them was deleted or rewound."""
        with self._guard:
            if sweep_id in self._sweeps:
                self._sweeps[sweep_id].config = ""

    def _read(self, cached: CachedSweep, row: Row, config: SweepConfig) -> None:
        metric, _goal = objective(config)
        summary = json.loads(row["summary"])
        run = cached.runs.setdefault(row["id"], SearchedRun(name=row["name"]))
        run.state = row["state"] if row["state"] in STATES else "failed"
        run.stopped = run.should_stop = bool(row["stopped"])
        if row["config"] != run._config:
            chosen, run._config = chosen_values(config, json.loads(row["config"])), row["config"]
            run.config = chosen if is_readable(cached.parameters, chosen) else {}
            if chosen and not run.config:
                message = "the search ignores run %s, whose values it cannot read: %s"
                logger.warning(message, row["name"], str(chosen)[:200])
        has_metric = isinstance(summary, dict) and metric in summary
        run.summary_metrics = {metric: summary[metric]} if has_metric else {}
        if metric and row["history_lines"] > run._lines:
            run.add(self._objective_values(row, metric, run._lines))
            run._lines = row["history_lines"]

    def _objective_values(self, row: Row, metric: str, first_line: int) -> list[object]:
        sql = """SELECT json_extract(row, ?) AS value FROM history
            WHERE run_id = ? AND line >= ? AND line < ? ORDER BY line"""
        path = "$." + json.dumps(metric)
        cells = self._store.all(sql, path, row["id"], first_line, row["history_lines"])
        return [cell["value"] for cell in cells]

    def suggest(self, sweep: Row) -> dict[str, Any] | None:
        """The next run's values as `{name: {"value": ...}}`. None if nothing is left to try."""
        cached, config = self.refresh(sweep), config_of(sweep["config"])
        needs_runs = config["method"] != "random"
        runs = [run for run in cached.runs.values() if run.config] if needs_runs else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            proposed = sweeps.next_run(with_defaults(config), runs)
        if proposed is None:
            return None
        values: dict[str, Any] = json.loads(json.dumps(proposed.config, default=_plain_number))
        return values

    def stop_early(self, sweep: Row) -> None:
        """Asks runs to stop as `early_terminate` says. Does nothing if no run has changed since."""
        config = config_of(sweep["config"])
        if "early_terminate" not in config or sweep["state"] not in ("RUNNING", "PAUSED"):
            return
        if has_local_controller(config):
            return
        cached = self.refresh(sweep)
        with cached.lock:
            started = time.monotonic()
            no_news = cached.stopping_version == cached.version
            if no_news or started < cached.stopping_paused_until:
                return
            cached.stopping_version = cached.version
            chosen = sweeps.stop_runs(with_defaults(config), list(cached.runs.values()))
            ended = time.monotonic()
            if ended - started > MIN_SECONDS_TO_PAUSE:
                cached.stopping_paused_until = ended + PAUSE_RATIO * (ended - started)
            names = {run.name for run in chosen}
            run_ids = [
                run_id
                for run_id, run in cached.runs.items()
                if run.name in names and not run.stopped
            ]
            lifecycle.ask_to_stop(self._store, run_ids)

    def target_reached(self, sweep: Row) -> bool:
        """Whether a run has reached `metric.target`. Then W&B starts no further run."""
        config = config_of(sweep["config"])
        metric, goal = objective(config)
        target = (config.get("metric") or {}).get("target")
        if metric is None or target is None:
            return False
        kind = "maximum" if goal == "maximize" else "minimum"
        for run in self.refresh(sweep).runs.values():
            try:
                best = run.metric_extremum(metric, kind)
            except ValueError:
                continue
            if best >= target if goal == "maximize" else best <= target:
                return True
        return False


def warm_up() -> None:
    """Loads scikit-learn, which takes seconds, before the first agent needs it."""
    problems(
        {
            "method": "bayes",
            "metric": {"name": "y", "goal": "minimize"},
            "parameters": {"x": {"min": 0.0, "max": 1.0}},
        }
    )


def _plain_number(value: Any) -> Any:
    """A NumPy number as Python's int or float."""
    return value.item()

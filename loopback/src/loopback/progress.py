"""Reads the state of a sweep, and shows it: numbers of runs, the best one, the time left."""

import json
import math
import shutil
import sys
import time
from dataclasses import dataclass
from typing import Any

import click
import yaml

from loopback.client import AskError, ask
from loopback.store import ENTITY
from loopback.time_left import RunClock

LINE_SECONDS = 5.0  # at least so long between two lines where stderr is no terminal
QUERY = """
query Progress($entity: String, $project: String, $sweep: String!, $after: String) {
  project(name: $project, entityName: $entity) {
    sweep(sweepName: $sweep) {
      state config runCountExpected
      runs(first: 1000, after: $after) {
        edges { node { name displayName state stopped config summaryMetrics historyLineCount } }
        pageInfo { endCursor hasNextPage }
      }
    }
  }
}
"""
STATES = {  # of a run on the server -> as shown here; every other state is shown as running
    "finished": "finished",
    "killed": "stopped",
    "failed": "failed",
    "crashed": "failed",
    "preempted": "waiting",
}
ENDED = ("finished", "stopped", "failed")


@dataclass
class Run:
    """A run of a sweep.

    Attributes:
        state: finished, stopped, failed, running or waiting.
        objective: the last value of the sweep's metric; None if it has none.
        parameters: values of the searched hyperparameters.
        rows: number of rows in its history.
    """

    name: str
    display_name: str
    state: str
    objective: float | None
    parameters: dict[str, Any]
    rows: int


@dataclass
class Sweep:
    """A sweep at one moment; `expected` is its number of runs, None if it has no end."""

    path: str
    state: str
    metric: str | None
    maximize: bool
    expected: int | None
    runs: list[Run]

    @property
    def over(self) -> bool:
        """Whether it will start no further run."""
        return self.state in ("FINISHED", "CANCELED")

    def count(self, state: str) -> int:
        """Number of runs in a state."""
        return sum(run.state == state for run in self.runs)

    def ended(self) -> set[str]:
        """Names of the runs that have ended in any way."""
        return {run.name for run in self.runs if run.state in ENDED}

    def running(self) -> set[str]:
        """Names of the runs that run now."""
        return {run.name for run in self.runs if run.state == "running"}

    def ranked(self) -> list[Run]:
        """The runs, best first; those without an objective last."""
        sign = -1 if self.maximize else 1

        def rank(run: Run) -> tuple[float, str]:
            return (math.inf if run.objective is None else sign * run.objective, run.name)

        return sorted(self.runs, key=rank)


def read(url: str, key: str, path: str) -> Sweep | None:
    """The sweep ENTITY/PROJECT/SWEEP on the server at `url`; None if there is none.

    Raises:
        AskError: the server does not answer.
    """
    entity, project, name = path.split("/")
    runs: list[Run] = []
    after = None
    while True:
        answer = ask(url, key, QUERY, entity=entity, project=project, sweep=name, after=after)
        sweep = answer["project"] and answer["project"]["sweep"]
        if not sweep:
            return None
        config = yaml.safe_load(sweep["config"])
        metric = config.get("metric") or {}
        runs += [_run(edge["node"], config, metric.get("name")) for edge in sweep["runs"]["edges"]]
        page = sweep["runs"]["pageInfo"]
        if not page["hasNextPage"]:
            break
        after = page["endCursor"]
    maximize = metric.get("goal") == "maximize"
    return Sweep(
        path, sweep["state"], metric.get("name"), maximize, sweep["runCountExpected"], runs
    )


NAMES = """
query Names($entity: String, $project: String, $after: String) {
  project(name: $project, entityName: $entity) {
    runs(first: 1000, after: $after) { edges { node { name } } pageInfo { endCursor hasNextPage } }
  }
}
"""


def run_names(url: str, key: str, project: str) -> list[str]:
    """The names of all runs of a project.

    Raises:
        AskError: there is no such project, or the server does not answer.
    """
    names: list[str] = []
    after = None
    while True:
        answer = ask(url, key, NAMES, entity=ENTITY, project=project, after=after)["project"]
        if answer is None:
            raise AskError(f"there is no project {project!r}")
        names += [edge["node"]["name"] for edge in answer["runs"]["edges"]]
        after = answer["runs"]["pageInfo"]["endCursor"]
        if not answer["runs"]["pageInfo"]["hasNextPage"]:
            return names


def _run(node: dict[str, Any], config: dict[str, Any], metric: str | None) -> Run:
    """The run in a node of QUERY's answer, without parameters that the sweep keeps constant."""
    cells = json.loads(node["config"])
    values = {name: cell["value"] for name, cell in cells.items() if name != "_wandb"}
    listed = config.get("parameters") or values
    searched = {
        name: values[name]
        for name in listed
        if name in values and "value" not in (listed[name] or {})
    }
    objective = json.loads(node["summaryMetrics"]).get(metric)
    state = STATES.get(node["state"], "running")
    return Run(
        name=node["name"],
        display_name=node["displayName"],
        state="stopped" if state == "finished" and node["stopped"] else state,
        objective=objective if isinstance(objective, (int, float)) else None,
        parameters=searched,
        rows=node["historyLineCount"],
    )


def line(sweep: Sweep, seconds_left: float | None) -> str:
    """The sweep in one line: numbers of runs, the best objective, the estimated time left."""
    finished, running = sweep.count("finished"), sweep.count("running")
    parts = [
        f"{finished} finished of {sweep.expected}" if sweep.expected else f"{finished} finished",
        f"{sweep.count('stopped')} stopped",
        f"{sweep.count('failed')} failed",
        f"{running} running",
    ]
    if waiting := sweep.count("waiting"):
        parts.append(f"{waiting} waiting")
    best = next((run.objective for run in sweep.ranked() if run.objective is not None), None)
    if best is not None:
        parts.append(f"best {sweep.metric} {best:.5g}")
    if seconds_left is not None:
        parts.append(f"about {duration(seconds_left)} left")
    return " | ".join(parts)


def duration(seconds: float) -> str:
    """3723 -> '1 h 02 min'; 75 -> '1 min 15 s'."""
    minutes, seconds = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


class Display:
    """Shows progress on stderr.

    At a terminal it rewrites one line. Elsewhere it prints a line when something changed.
    """

    def __init__(self, agents: int, count: int | None = None) -> None:
        """For a command that keeps `agents` agents running, and ends after `count` runs."""
        self._clock, self._agents, self._count = RunClock(), agents, count
        self._last, self._last_shown = "", 0.0

    def show(self, sweep: Sweep) -> None:
        """Shows the newest state of the sweep."""
        moment = time.monotonic()
        self._clock.update(moment, sweep.running(), sweep.ended())
        text = line(sweep, self._seconds_left(sweep))
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"\r\x1b[K{text[:width]}", err=True, nl=False)
            return
        without_time = text.partition(" | about")[0]
        if without_time != self._last and moment - self._last_shown > LINE_SECONDS:
            click.echo(text, err=True)
            self._last, self._last_shown = without_time, moment

    def _seconds_left(self, sweep: Sweep) -> float | None:
        """Until this command ends; None if that cannot be estimated."""
        running = sweep.running()
        limits = []
        if sweep.expected:
            limits.append(sweep.expected - len(sweep.ended()))
        if self._count:
            limits.append(self._count - self._clock.ended)
        if not limits or sweep.over:
            return None
        not_started = max(0, min(limits) - len(running))
        return self._clock.time_left(running, not_started, self._agents)

    def close(self) -> None:
        """Moves the terminal's cursor to the next line."""
        if sys.stderr.isatty():
            click.echo(err=True)


def table(sweep: Sweep) -> str:
    """One row per run, best first, as plain text."""
    names = list(dict.fromkeys(name for run in sweep.runs for name in run.parameters))
    head = ["run", "name", "state", sweep.metric or "objective", *names, "rows"]
    rows = [head]
    for run in sweep.ranked():
        cells = [run.name, run.display_name, run.state, _cell(run.objective)]
        rows.append([*cells, *(_cell(run.parameters.get(name)) for name in names), str(run.rows)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)

"""A sweep as its owner wants to see it: how many runs are done, the best so far, how long it will take."""

import json
import math
import shutil
import sys
import time
from dataclasses import dataclass

import click
import yaml

from loopback.client import AskError, ask
from loopback.store import ENTITY

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
BUCKETS = {
    "finished": "done",
    "killed": "stopped",
    "failed": "failed",
    "crashed": "failed",
    "preempted": "waiting",
}
ENDED = ("done", "stopped", "failed")


@dataclass
class Run:
    """A run of the sweep: its parameters, its objective (None if it has none) and its number of rows."""

    name: str
    display_name: str
    state: str  # done, stopped, failed, running, waiting
    objective: float | None
    parameters: dict
    rows: int


@dataclass
class Sweep:
    """A sweep at one moment."""

    path: str
    state: str
    metric: str | None
    maximize: bool
    expected: int | None
    runs: list[Run]

    @property
    def over(self) -> bool:
        return self.state in ("FINISHED", "CANCELED")

    def count(self, state: str) -> int:
        return sum(run.state == state for run in self.runs)

    def ranked(self) -> list[Run]:
        """Best first; runs without an objective last."""
        sign = -1 if self.maximize else 1
        worst = math.inf
        return sorted(
            self.runs, key=lambda t: (worst if t.objective is None else sign * t.objective, t.name)
        )


def read(url: str, key: str, path: str) -> Sweep | None:
    """The sweep at ENTITY/PROJECT/SWEEP, None if there is none. AskError if the server does not answer."""
    entity, project, name = path.split("/")
    runs, after = [], None
    while True:
        within = ask(url, key, QUERY, entity=entity, project=project, sweep=name, after=after)[
            "project"
        ]
        found = within and within["sweep"]
        if not found:
            return None
        config = yaml.safe_load(found["config"])
        metric = (config.get("metric") or {}).get("name")
        runs += [_run(edge["node"], config, metric) for edge in found["runs"]["edges"]]
        after = found["runs"]["pageInfo"]["endCursor"]
        if not found["runs"]["pageInfo"]["hasNextPage"]:
            break
    maximize = (config.get("metric") or {}).get("goal") == "maximize"
    return Sweep(path, found["state"], metric, maximize, found["runCountExpected"], runs)


NAMES = """
query Names($entity: String, $project: String, $after: String) {
  project(name: $project, entityName: $entity) {
    runs(first: 1000, after: $after) { edges { node { name } } pageInfo { endCursor hasNextPage } }
  }
}
"""


def names(url: str, key: str, project: str) -> list[str]:
    """The names of a project's runs. AskError if there is no such project."""
    found, after = [], None
    while True:
        answer = ask(url, key, NAMES, entity=ENTITY, project=project, after=after)["project"]
        if answer is None:
            raise AskError(f"there is no project {project!r}")
        found += [edge["node"]["name"] for edge in answer["runs"]["edges"]]
        after = answer["runs"]["pageInfo"]["endCursor"]
        if not answer["runs"]["pageInfo"]["hasNextPage"]:
            return found


def _run(node: dict, config: dict, metric: str | None) -> Run:
    values = {
        name: cell["value"] for name, cell in json.loads(node["config"]).items() if name != "_wandb"
    }
    listed = config.get("parameters") or values
    searched = {
        name: values[name]
        for name in listed
        if name in values and "value" not in (listed[name] or {})
    }
    objective = json.loads(node["summaryMetrics"]).get(metric)
    if not isinstance(objective, (int, float)):
        objective = None
    state = BUCKETS.get(node["state"], "running")
    state = "stopped" if state == "done" and node["stopped"] else state
    return Run(
        node["name"], node["displayName"], state, objective, searched, node["historyLineCount"]
    )


def line(sweep: Sweep, ended_before: int, elapsed: float) -> str:
    """One line of progress; `ended_before` runs had ended when we began, `elapsed` seconds ago."""
    parts = [
        f"{sweep.count('done')} done",
        f"{sweep.count('stopped')} stopped",
        f"{sweep.count('failed')} failed",
    ]
    parts.append(f"{sweep.count('running')} running")
    if waiting := sweep.count("waiting"):
        parts.append(f"{waiting} waiting")
    best = next((run.objective for run in sweep.ranked() if run.objective is not None), None)
    if best is not None:
        parts.append(f"best {sweep.metric} {best:.5g}")
    ended = sum(run.state in ENDED for run in sweep.runs)
    if sweep.expected:
        parts[0] = f"{parts[0]} of {sweep.expected}"
        if ended > ended_before and not sweep.over:
            left = (sweep.expected - ended) * elapsed / (ended - ended_before)
            parts.append(f"about {duration(left)} left")
    return " | ".join(parts)


def duration(seconds: float) -> str:
    """3723 -> '1 h 02 min'; 75 -> '1 min 15 s'."""
    minutes, seconds = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min"
        if hours
        else f"{minutes} min {seconds:02} s"
        if minutes
        else f"{seconds} s"
    )


class Display:
    """Shows progress on stderr: one line that renews itself at a terminal, else a line whenever something changed."""

    def __init__(self):
        self._began, self._before, self._last, self._spoke = time.monotonic(), None, "", 0.0

    def show(self, sweep: Sweep) -> None:
        """Takes the sweep's newest state."""
        if self._before is None:
            self._before = sum(run.state in ENDED for run in sweep.runs)
        text = line(sweep, self._before, time.monotonic() - self._began)
        counts = text.partition("| about")[0]
        if sys.stderr.isatty():
            click.echo(
                f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", err=True, nl=False
            )
        elif counts != self._last and time.monotonic() - self._spoke > 5:
            click.echo(text, err=True)
            self._last, self._spoke = counts, time.monotonic()

    def close(self) -> None:
        """Leaves the terminal on a fresh line."""
        if sys.stderr.isatty():
            click.echo(err=True)


def table(sweep: Sweep) -> str:
    """All runs, best first, as plain text."""
    names = list(dict.fromkeys(name for run in sweep.runs for name in run.parameters))
    head = ["run", "name", "state", sweep.metric or "objective", *names, "rows"]
    rows = [head]
    for run in sweep.ranked():
        cells = [run.name, run.display_name, run.state, _cell(run.objective)]
        rows.append([*cells, *(_cell(run.parameters.get(name)) for name in names), str(run.rows)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cell(value) -> str:
    return "-" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)

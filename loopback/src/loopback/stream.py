"""The file stream: requests by which a run sends metrics, system metrics, console and its end.

Each line has a number. A client that did not receive our answer sends its lines again. A line whose
number is stored already is the same line.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from loopback import lifecycle
from loopback.common import SELECT_RUNS, Info, Resolvers
from loopback.search import Search
from loopback.store import (
    DEFAULT_PROJECT,
    ENTITY,
    NotFoundError,
    Row,
    Store,
    dumps,
    json_object,
    now,
)

logger = logging.getLogger("loopback")

HISTORY = "wandb-history.jsonl"
EVENTS = "wandb-events.jsonl"
SUMMARY = "wandb-summary.json"
CONSOLE = "output.log"
MAX_LINE_NUMBER = 2**40  # far more lines than a run has
MAX_STEP = 2**62  # SQLite stores integers in 64 bits
MAX_EXIT_CODE = 2**32

Body = dict[str, Any]  # the JSON of one request


def receive(store: Store, search: Search, entity: str, project: str, name: str, body: Body) -> Row:
    """Stores one request of a run's file stream. The answer says whether the run should stop.

    Raises:
        NotFoundError: there is no such run.
        ValueError: the body has another shape; then nothing is stored.
    """
    _check(body)
    files = body.get("files") or {}
    with store.writing():
        run = _require_run(store, entity, project, name)
        for file, chunk in files.items():
            _take(store, run, file, chunk)
        _update_state(store, run, body)
        for file in body.get("uploaded") or []:
            logger.debug("%s: %s is uploaded", name, file)
    # Early stopping runs after the state is stored: it must not stop a run that has just ended.
    if run["sweep_id"] and HISTORY in files:
        search.stop_early(store.row("sweeps", run["sweep_id"]))
    run = _require_run(store, entity, project, name)
    return {"exitcode": run["exitcode"], "limits": {}, "stopped": bool(run["stopped"])}


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_exit_code(value: object) -> bool:
    return type(value) is int and abs(value) < MAX_EXIT_CODE


SHAPES: dict[str, tuple[Callable[[object], bool], str]] = {  # field -> (check, its description)
    "files": (lambda value: isinstance(value, dict), "an object"),
    "uploaded": (_is_names, "a list of names"),
    "preempting": (_is_bool, "true or false"),
    "complete": (_is_bool, "true or false"),
    "exitcode": (_is_exit_code, "a whole number below 2^32"),
}


def _check(body: Body) -> None:
    """Raises ValueError for a field that is neither null nor of its shape."""
    for name, (fits, shape) in SHAPES.items():
        if body.get(name) is not None and not fits(body[name]):
            raise ValueError(f"{name} must be {shape}")


def _run(store: Store, entity: str, project: str, name: str) -> Row | None:
    sql = f"{SELECT_RUNS} WHERE p.entity = ? AND p.name = ? AND r.name = ?"
    return store.one(sql, entity, project, name)


def _require_run(store: Store, entity: str, project: str, name: str) -> Row:
    run = _run(store, entity, project, name)
    if run is None:
        raise NotFoundError(f"{entity}/{project}/{name} does not exist")
    return run


def _update_state(store: Store, run: Row, body: Body) -> None:
    """Records the request's time, and what it says about the run's state."""
    store.update("runs", run["id"], seen=time.time(), heartbeat_at=now())
    if run["state"] in ("pending", "crashed"):  # the run lives, although it was taken for lost
        lifecycle.begin(store, run)
        run = run | {"state": "running"}
    if body.get("preempting") and run["state"] in lifecycle.LIVE:
        lifecycle.change(store, run["id"], state="preempting")
        run = run | {"state": "preempting"}
    # The server ended the run before its process could report an exit code.
    ended_by_server = run["exitcode"] is None and run["state"] in ("killed", "crashed", "failed")
    if body.get("complete") and (run["state"] in lifecycle.LIVE or ended_by_server):
        lifecycle.end(store, run, int(body.get("exitcode") or 0))


def _take(store: Store, run: Row, file: str, chunk: object) -> None:
    """Stores the lines of one file. Raises ValueError for a chunk of another shape."""
    offset, lines = _lines(file, chunk)
    if file == HISTORY:
        _store_history(store, run, offset, [json_object(line, f"{file}: a row") for line in lines])
    elif file == SUMMARY:
        if lines:
            summary = dumps(json_object(lines[-1], f"{file}: the summary"))
            lifecycle.change(store, run["id"], summary=summary)
    elif file == EVENTS:
        rows = [dumps(json_object(line, f"{file}: a row")) for line in lines]
        _append(store, run, "events", "event_lines", offset, rows)
    elif file == CONSOLE:
        _append(store, run, "console", "log_lines", offset, lines)
    else:
        logger.warning("%s streams a file that loopback does not keep: %s", run["name"], file)


def _lines(file: str, chunk: object) -> tuple[int, list[str]]:
    """(number of the first line, lines) of a chunk."""
    if not isinstance(chunk, dict):
        raise ValueError(f"{file}: a chunk is {{offset, content}}")
    offset, lines = chunk.get("offset") or 0, chunk.get("content") or []
    if type(offset) is not int or not 0 <= offset < MAX_LINE_NUMBER:
        raise ValueError(
            f"{file}: offset must be a line number below {MAX_LINE_NUMBER}, not {str(offset)[:50]}"
        )
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError(f"{file}: content must be a list of lines")
    return offset, lines


def _append(store: Store, run: Row, table: str, counter: str, offset: int, rows: list[str]) -> None:
    sql = f"INSERT OR REPLACE INTO {table} (run_id, line, row) VALUES (?, ?, ?)"  # noqa: S608  our own names
    store.many(sql, [(run["id"], number, row) for number, row in enumerate(rows, start=offset)])
    store.update("runs", run["id"], **{counter: max(run[counter], offset + len(rows))})


class HistoryKeys:
    """A run's `historyKeys`: how often each name was logged, per type of value; the last step."""

    def __init__(self, keys: dict[str, Any] | None = None):
        self.keys = keys or {"keys": {}, "lastStep": -1}

    def add(self, rows: Iterable[Row]) -> None:
        """Counts the values of history rows."""
        for row in rows:
            for key, value in row.items():
                self._count(key, _kind(value))
            self.keys["lastStep"] = max(self.keys["lastStep"], row.get("_step", -1))

    def _count(self, key: str, kind: str) -> None:
        counts = self.keys["keys"].setdefault(key, {"typeCounts": []})["typeCounts"]
        for entry in counts:
            if entry["type"] == kind:
                entry["count"] += 1
                return
        counts.append({"type": kind, "count": 1})


def _kind(value: object) -> str:
    """W&B's name of a value's type."""
    if isinstance(value, dict) and isinstance(value.get("_type"), str):
        return str(value["_type"])
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "map"


def _store_history(store: Store, run: Row, offset: int, rows: list[Row]) -> None:
    known: int = run["history_lines"]
    if offset > known:
        raise ValueError(
            f"{HISTORY}: the next line is number {known}, offset {offset} would leave a gap"
        )
    new = rows[known - offset :]  # the lines before are stored already
    if not new:
        return
    for row in new:
        step = row.get("_step", -1)
        if type(step) is not int or abs(step) > MAX_STEP:
            raise ValueError(f"{HISTORY}: _step must be a whole number, not {str(step)[:50]}")
    counted = HistoryKeys(json.loads(run["history_keys"]))
    counted.add(new)
    sql = "INSERT INTO history (run_id, line, step, row) VALUES (?, ?, ?, ?)"
    numbered = enumerate(new, start=known)
    store.many(sql, [(run["id"], line, row.get("_step"), dumps(row)) for line, row in numbered])
    lifecycle.change(
        store, run["id"], history_lines=offset + len(rows), history_keys=dumps(counted.keys)
    )


def rewind_run(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Deletes the history after a step, so that a process can resume there (`resume_from`).

    The summary becomes the last value of each name in the rows that stay. System metrics and
    console are deleted, because the client numbers their lines from 0 after a rewind.

    Raises ValueError if there is no such run, and for any metric but `_step`.
    """
    store, metric, step = info.context.store, input["metricName"], input["metricValue"]
    if metric != "_step":
        raise ValueError(f"a run can be rewound to a _step, not to a value of {metric}")
    entity = input.get("entityName") or ENTITY
    project = input.get("projectName") or DEFAULT_PROJECT
    with store.writing():
        run = _run(store, entity, project, input["runName"])
        if run is None:
            raise ValueError(f"run {input['runName']} does not exist, so it cannot be rewound")
        sql = "SELECT line FROM history WHERE run_id = ? AND step > ? ORDER BY line LIMIT 1"
        first_removed = store.value(sql, run["id"], step)
        lines = run["history_lines"] if first_removed is None else first_removed
        store.write("DELETE FROM history WHERE run_id = ? AND line >= ?", run["id"], lines)
        store.write("DELETE FROM events WHERE run_id = ?", run["id"])
        store.write("DELETE FROM console WHERE run_id = ?", run["id"])
        counted = HistoryKeys()
        summary: Row = {}
        for cell in store.all("SELECT row FROM history WHERE run_id = ? ORDER BY line", run["id"]):
            row = json.loads(cell["row"])
            counted.add([row])
            summary |= row
        lifecycle.change(
            store,
            run["id"],
            history_lines=lines,
            event_lines=0,
            log_lines=0,
            history_keys=dumps(counted.keys),
            summary=dumps(summary),
        )
        lifecycle.begin(store, run)
    info.context.search.forget(run["sweep_id"])
    return {"rewoundRun": _run(store, entity, project, input["runName"])}


RESOLVERS: Resolvers = {"Mutation": {"rewindRun": rewind_run}}

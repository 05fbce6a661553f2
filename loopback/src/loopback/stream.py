"""What a run says while it runs: the file stream. Rows of history, of system metrics and of the console, and the end.

Every line has a number, so that a client that did not hear our answer may send its lines again: the same
number is the same line.
"""

import json
import logging
import time

from loopback import lifecycle
from loopback.projects import RUNS
from loopback.search import Search
from loopback.store import DEFAULT_PROJECT, ENTITY, NotFoundError, Store, dumps, json_object, now
from loopback.sweep_controls import config_of

logger = logging.getLogger("loopback")

HISTORY, EVENTS, SUMMARY, CONSOLE = (
    "wandb-history.jsonl",
    "wandb-events.jsonl",
    "wandb-summary.json",
    "output.log",
)
LARGEST_LINE = 2**40  # of an offset; a run has fewer lines
LARGEST_STEP = 2**62  # of `_step`, which SQLite keeps in 64 bits


def receive(store: Store, search: Search, entity: str, project: str, name: str, body: dict) -> dict:
    """Takes one request of a run's file stream; the answer tells whether the run should stop.

    NotFoundError if there is no such run, ValueError for a body of another shape, which changes nothing.
    """
    _check(body)
    with store.writing():
        run = _run(store, entity, project, name)
        if run is None:
            raise NotFoundError(f"{entity}/{project}/{name} does not exist")
        for file, chunk in (body.get("files") or {}).items():
            _take(store, run, file, chunk)
        _live(store, run, body)
        for file in body.get("uploaded") or []:
            logger.debug("%s: %s is uploaded", name, file)
    if run["sweep_id"] and HISTORY in (
        body.get("files") or {}
    ):  # its last words are heard before anybody is stopped
        sweep = store.one("SELECT * FROM sweeps WHERE id = ?", run["sweep_id"])
        search.give_up(sweep, config_of(sweep["config"]))
    run = _run(store, entity, project, name)
    return {"exitcode": run["exitcode"], "limits": {}, "stopped": bool(run["stopped"])}


SHAPES = {  # of a request's body: what a field may be besides null, and how a message says it
    "files": (lambda value: isinstance(value, dict), "an object"),
    "uploaded": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of names",
    ),
    "preempting": (lambda value: isinstance(value, bool), "true or false"),
    "complete": (lambda value: isinstance(value, bool), "true or false"),
    "exitcode": (
        lambda value: type(value) is int and abs(value) < 2**32,
        "a whole number below 2^32",
    ),
}


def _check(body: dict) -> None:
    for field, (fits, shape) in SHAPES.items():
        if body.get(field) is not None and not fits(body[field]):
            raise ValueError(f"{field} must be {shape}")


def _run(store: Store, entity: str, project: str, name: str) -> dict | None:
    return store.one(
        f"{RUNS} WHERE p.entity = ? AND p.name = ? AND r.name = ?", entity, project, name
    )


def _live(store: Store, run: dict, body: dict) -> None:
    store.update("runs", run["id"], seen=time.time(), heartbeat_at=now())
    if run["state"] in ("pending", "crashed"):
        lifecycle.begin(store, run)  # it was given up too early
        run = run | {"state": "running"}
    if body.get("preempting") and run["state"] in lifecycle.LIVE:
        lifecycle.change(store, run["id"], state="preempting")
        run = run | {"state": "preempting"}
    given_up = run["exitcode"] is None and run["state"] in (
        "killed",
        "crashed",
        "failed",
    )  # before its last words came
    if body.get("complete") and (run["state"] in lifecycle.LIVE or given_up):
        lifecycle.end(store, run, int(body.get("exitcode") or 0))


def _take(store: Store, run: dict, file: str, chunk: dict) -> None:
    if not isinstance(chunk, dict):
        raise ValueError(f"{file}: a chunk is {{offset, content}}")
    offset, lines = chunk.get("offset") or 0, chunk.get("content") or []
    if type(offset) is not int or not 0 <= offset < LARGEST_LINE:
        raise ValueError(
            f"{file}: offset must be a line number below {LARGEST_LINE}, not {str(offset)[:50]}"
        )
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError(f"{file}: content must be a list of lines")
    if file == HISTORY:
        _history(store, run, offset, [json_object(line, f"{file}: a row") for line in lines])
    elif file == SUMMARY:
        if lines:
            lifecycle.change(
                store, run["id"], summary=dumps(json_object(lines[-1], f"{file}: the summary"))
            )
    elif file == EVENTS:
        rows = [dumps(json_object(line, f"{file}: a row")) for line in lines]
        _append(store, run, "events", "event_lines", offset, rows)
    elif file == CONSOLE:
        _append(store, run, "console", "log_lines", offset, lines)
    else:
        logger.warning("%s streams a file that loopback does not keep: %s", run["name"], file)


def _append(
    store: Store, run: dict, table: str, counter: str, offset: int, rows: list[str]
) -> None:
    sql = f"INSERT OR REPLACE INTO {table} (run_id, line, row) VALUES (?, ?, ?)"  # noqa: S608  our own names
    store.many(sql, [(run["id"], number, row) for number, row in enumerate(rows, start=offset)])
    count = max(run[counter], offset + len(rows))
    store.update("runs", run["id"], **{counter: count})


def _history(store: Store, run: dict, offset: int, rows: list[dict]) -> None:
    known = run["history_lines"]
    if offset > known:
        raise ValueError(
            f"{HISTORY}: the next line is number {known}, offset {offset} would leave a gap"
        )
    fresh = [
        (number, row) for number, row in enumerate(rows, start=offset) if number >= known
    ]  # the rest came before
    if not fresh:
        return
    keys = json.loads(run["history_keys"])
    for _number, row in fresh:
        for key, value in row.items():
            _count(keys["keys"], key, value)
        step = row.get("_step", -1)
        if type(step) is not int or abs(step) > LARGEST_STEP:
            raise ValueError(f"{HISTORY}: _step must be a whole number, not {str(step)[:50]}")
        keys["lastStep"] = max(keys["lastStep"], step)
    sql = "INSERT INTO history (run_id, line, step, row) VALUES (?, ?, ?, ?)"
    store.many(sql, [(run["id"], number, row.get("_step"), dumps(row)) for number, row in fresh])
    lines = offset + len(rows)
    lifecycle.change(store, run["id"], history_lines=lines, history_keys=dumps(keys))


def _count(keys: dict, key: str, value) -> None:
    kind = (
        "number"
        if isinstance(value, (int, float))
        else "string"
        if isinstance(value, str)
        else "map"
    )
    if isinstance(value, dict) and isinstance(value.get("_type"), str):
        kind = value["_type"]
    counts = keys.setdefault(key, {"typeCounts": []})["typeCounts"]
    for entry in counts:
        if entry["type"] == kind:
            entry["count"] += 1
            return
    counts.append({"type": kind, "count": 1})


def rewind_run(_source, info, input: dict) -> dict:
    """Removes the rows after a step, so that a process can continue from there (`resume_from=ID?_step=N`).

    The summary becomes the last values in the rows that stay. System metrics and console start over, because the
    client numbers their lines from 0 after a rewind. Raises ValueError for any metric but `_step`.
    """
    store, metric, step = info.context.store, input["metricName"], input["metricValue"]
    if metric != "_step":
        raise ValueError(f"a run can be rewound to a _step, not to a value of {metric}")
    with store.writing():
        run = _run(
            store,
            input.get("entityName") or ENTITY,
            input.get("projectName") or DEFAULT_PROJECT,
            input["runName"],
        )
        if run is None:
            raise ValueError(f"run {input['runName']} does not exist, so it cannot be rewound")
        sql = "SELECT line FROM history WHERE run_id = ? AND step > ? ORDER BY line LIMIT 1"
        removed = store.value(sql, run["id"], step)
        lines = run["history_lines"] if removed is None else removed
        store.write("DELETE FROM history WHERE run_id = ? AND line >= ?", run["id"], lines)
        store.write("DELETE FROM events WHERE run_id = ?", run["id"])
        store.write("DELETE FROM console WHERE run_id = ?", run["id"])
        keys, summary = {"keys": {}, "lastStep": -1}, {}
        for cell in store.all("SELECT row FROM history WHERE run_id = ? ORDER BY line", run["id"]):
            row = json.loads(cell["row"])
            for key, value in row.items():
                _count(keys["keys"], key, value)
            keys["lastStep"] = max(keys["lastStep"], row.get("_step", -1))
            summary |= row
        counts = {"history_lines": lines, "event_lines": 0, "log_lines": 0}
        lifecycle.change(
            store, run["id"], **counts, history_keys=dumps(keys), summary=dumps(summary)
        )
        lifecycle.begin(store, run)
    info.context.search.forget(run["sweep_id"])
    return {"rewoundRun": _run(store, run["entity_name"], run["project_name"], run["name"])}


RESOLVERS = {"Mutation": {"rewindRun": rewind_run}}

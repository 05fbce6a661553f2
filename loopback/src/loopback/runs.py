"""Runs: open, change, stop and delete them, and read their history, console and files."""

# ruff: noqa: S608  (table and column names come from this program; every value is bound with a ?)

import fnmatch
import json
import mimetypes
import shutil
import time
from functools import partial
from typing import Any

from loopback import artifacts, inputs, lifecycle, pages
from loopback.common import SELECT_RUNS, USER, Info, Resolvers, id_of, project_of, row_of
from loopback.store import Row, Store, dumps, json_object, now

COLUMNS = {  # input field -> column
    "displayName": "display_name",
    "notes": "notes",
    "description": "description",
    "groupName": "run_group",
    "jobType": "job_type",
    "commit": "commit_hash",
    "host": "host",
    "jobProgram": "program",
}

DEFAULT_SAMPLES = 500  # rows, as on W&B
MAX_SAMPLES = 100_000  # rows
MAX_KEYS = 900  # per sample: SQLite accepts 1,000 conditions in one expression
KEYS_PER_CALL = 50  # an SQL function accepts 100 arguments, and a key takes two


def upsert_bucket(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Opens the run with the input's name, or changes the one with its id; merges the config.

    Raises ValueError for a config, tags or a summary of another shape, and for a forked run.
    """
    store = info.context.store
    config = json_object(input["config"], "config") if input.get("config") is not None else {}
    if not all(isinstance(value, dict) for value in config.values()):
        raise ValueError('config must be {"NAME": {"value": VALUE}, ...}')
    _refuse_fork(config, input.get("name"))
    with store.writing():
        if input.get("id"):
            run, is_new = row_of(info, "runs", input["id"]), False
        else:
            run, is_new = _open(store, input)
        changes = _changes(input, json.loads(run["config"]), config)
        if changes:
            lifecycle.change(store, run["id"], **changes)
    return {"bucket": store.one(f"{SELECT_RUNS} WHERE r.id = ?", run["id"]), "inserted": is_new}


def _changes(
    input: dict[str, Any], before: dict[str, Any], config: dict[str, Any]
) -> dict[str, object]:
    """The columns that an input sets."""
    changes = {column: input[key] for key, column in COLUMNS.items() if input.get(key) is not None}
    if input.get("tags") is not None:
        changes["tags"] = dumps(input["tags"])
    if input.get("config") is not None:
        changes["config"] = dumps(before | config)
    if input.get("summaryMetrics") is not None:
        changes["summary"] = dumps(json_object(input["summaryMetrics"], "summaryMetrics"))
    return changes


def _client_notes(config: dict[str, Any]) -> dict[str, Any]:
    """What W&B's client has noted about itself in a run's configuration."""
    notes = config.get("_wandb", {}).get("value")
    return notes if isinstance(notes, dict) else {}


def _refuse_fork(config: dict[str, Any], name: str | None) -> None:
    """Raises NotServedError if the run should start as a copy of another run (`fork_from`)."""
    branch_point = _client_notes(config).get("branch_point")
    origin = branch_point.get("run_id") if isinstance(branch_point, dict) else None
    if name and origin and origin != name:
        raise inputs.NotServedError(
            f"loopback does not serve fork_from: run {name} would begin with the history of "
            f"{origin}; start a new run, or rewind {origin} itself by resume_from"
        )


def _open(store: Store, input: dict[str, Any]) -> tuple[Row, bool]:
    """(run, whether it is new). A run that was pending or has ended becomes running again."""
    project = store.ensure_project(input.get("entityName"), input.get("modelName"))
    sweep = store.named("sweeps", project["id"], input["sweep"]) if input.get("sweep") else None
    sweep_id = sweep["id"] if sweep else None
    run = store.named("runs", project["id"], input["name"])
    if run is None:
        state = input.get("state") or "running"
        run_id = create(store, project["id"], input["name"], sweep_id=sweep_id, state=state)
        return store.row("runs", run_id), True
    if sweep_id and run["sweep_id"] is None:
        lifecycle.change(store, run["id"], sweep_id=sweep_id)
    if not input.get("state"):
        lifecycle.begin(store, run)
    return store.row("runs", run["id"]), False


def create(
    store: Store, project_id: int, name: str, *, sweep_id: int | None, state: str, **columns: object
) -> int:
    """Adds a run and returns its row id. Display names count the runs of the sweep or project."""
    owner, owner_id = ("sweep_id", sweep_id) if sweep_id else ("project_id", project_id)
    with store.writing():
        number = 1 + store.value(f"SELECT COUNT(*) FROM runs WHERE {owner} = ?", owner_id)
        columns.setdefault("display_name", f"{'sweep' if sweep_id else 'run'}-{number}")
        return store.insert(
            "runs",
            **columns,
            project_id=project_id,
            name=name,
            sweep_id=sweep_id,
            state=state,
            created_at=now(),
            updated_at=now(),
            heartbeat_at=now(),
            seen=time.time(),
            version=store.next_version(),
        )


def update_run_state(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Sets a run outside of sweeps to `pending` or `failed`. ValueError for anything else."""
    run = row_of(info, "runs", input["id"])
    if run["sweep_id"] or input["state"] not in ("pending", "failed"):
        raise ValueError("only runs outside of sweeps can be set, to pending or failed")
    lifecycle.change(info.context.store, run["id"], state=input["state"])
    return {"success": True}


def stop_run(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Asks a run to stop, unless it has ended."""
    run = row_of(info, "runs", input["id"])
    if run["state"] in lifecycle.LIVE:
        lifecycle.ask_to_stop(info.context.store, [run["id"]])
    return {"success": True}


def delete_run(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Deletes a run with its rows and files; with `deleteArtifacts` also the artifacts it made."""
    store, run = info.context.store, row_of(info, "runs", input["id"])
    with store.writing():
        for table in ("history", "events", "console", "files", "alerts", "uses"):
            store.write(f"DELETE FROM {table} WHERE run_id = ?", run["id"])
        store.write("DELETE FROM runs WHERE id = ?", run["id"])
        lifecycle.search_again(store, run["sweep_id"])
    if input.get("deleteArtifacts"):
        sql = "SELECT * FROM artifacts WHERE run_id = ? AND state != 'DELETED'"
        for artifact in store.all(sql, run["id"]):
            artifacts.discard(store, artifact)
    info.context.search.forget(run["sweep_id"])
    shutil.rmtree(store.inside("runs", str(run["id"])), ignore_errors=True)
    return {"clientMutationId": None}


def _run_in(info: Info, input: dict[str, Any]) -> Row:
    """The run that an input names by entity, project and name. ValueError if there is none."""
    store = info.context.store
    project = store.project(input.get("entityName"), input.get("projectName"))
    run = project and store.named("runs", project["id"], input["runName"])
    if not run:
        raise ValueError(f"run {input['runName']} does not exist")
    return run


def create_run_files(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Links to upload a run's files. ValueError for a name that leads out of the run's folder."""
    run, links = _run_in(info, input), info.context.links
    files = []
    for name in input["files"]:
        info.context.store.inside("runs", str(run["id"]), name)
        url = links.upload(f"/storage/runs/{run['id']}/{name}")
        files.append({"id": f"File:{name}", "name": name, "upload_url": url})
    return {"runID": f"Run:{run['id']}", "uploadHeaders": [], "files": files}


def _file(info: Info, row: Row) -> Row:
    """A stored file of a run, with its link and its type, as the schema's `File`."""
    url = info.context.links.download(f"/storage/runs/{row['run_id']}/{row['name']}")
    return {
        "id": f"File:{row['id']}",
        "name": row["name"],
        "display_name": row["name"],
        "url": url,
        "direct_url": url,
        "size_bytes": row["size"],
        "mimetype": mimetypes.guess_type(row["name"])[0] or "application/octet-stream",
        "updated_at": row["updated_at"],
        "md5": row["md5"],
        "digest": row["md5"],
    }


def files(
    source: Row,
    info: Info,
    names: list[str] | None = None,
    pattern: str | None = None,
    first: int | None = None,
    after: str | None = None,
) -> pages.Connection:
    """A page of a run's uploaded files.

    `names` are exact names; `pattern` has % and _ as in SQL's LIKE.
    """
    sql = "SELECT * FROM files WHERE run_id = ? ORDER BY name"
    rows = info.context.store.all(sql, source["id"])
    if names:
        rows = [row for row in rows if row["name"] in names]
    if pattern:
        glob = pattern.replace("%", "*").replace("_", "?")
        rows = [row for row in rows if fnmatch.fnmatchcase(row["name"], glob)]
    return pages.sliced([_file(info, row) for row in rows], first, after, totalCount=len(rows))


def file_count(source: Row, info: Info) -> int:
    """How many files of the run are uploaded."""
    sql = "SELECT COUNT(*) FROM files WHERE run_id = ?"
    count: int = info.context.store.value(sql, source["id"])
    return count


def delete_files(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Deletes files of runs."""
    store = info.context.store
    for file_id in input["files"]:
        row = row_of(info, "files", file_id)
        store.inside("runs", str(row["run_id"]), row["name"]).unlink(missing_ok=True)
        store.write("DELETE FROM files WHERE id = ?", row["id"])
    return {"success": True}


def alert(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Stores an alert. This server sends no mail."""
    run = _run_in(info, input)
    texts = {key: input.get(key) for key in ("title", "text", "severity")}
    info.context.store.insert("alerts", run_id=run["id"], created_at=now(), **texts)
    return {"success": True}


def _wandb_config(source: Row, _info: Info, keys: list[str] | None = None) -> str:
    """The client's notes about itself, as JSON. The note `t` exists once the run has started."""
    notes = _client_notes(json.loads(source["config"]))
    return dumps({key: notes[key] for key in keys or notes if key in notes})


def history(
    source: Row,
    info: Info,
    minStep: int | None = None,  # noqa: N803  the schema's names
    maxStep: int | None = None,  # noqa: N803
    samples: int | None = None,
) -> list[str]:
    """History rows as JSON: those with minStep <= _step < maxStep, or an even sample of all."""
    store, run_id = info.context.store, source["id"]
    if minStep is None and maxStep is None:
        return _even_sample(store, "history", run_id, source["history_lines"], samples)
    sql = "SELECT row FROM history WHERE run_id = ? AND step >= ? AND step < ? ORDER BY line"
    end = int(maxStep) if maxStep is not None else 2**62
    return [row["row"] for row in store.bounded(sql, run_id, int(minStep or 0), end)]


def events(source: Row, info: Info, samples: int | None = None) -> list[str]:
    """System metrics as JSON, at most `samples` rows at even distances."""
    store = info.context.store
    return _even_sample(store, "events", source["id"], source["event_lines"], samples)


def _even_sample(
    store: Store, table: str, run_id: int, lines: int, samples: int | None
) -> list[str]:
    """At most `samples` rows of a run's table, with the first and the last one."""
    sql = f"SELECT row FROM {table} WHERE run_id = ?"
    picked = _evenly(lines, DEFAULT_SAMPLES if samples is None else samples)
    if picked is None:
        rows = store.bounded(f"{sql} ORDER BY line", run_id)
    else:
        sql += " AND line IN (SELECT value FROM json_each(?)) ORDER BY line"
        rows = store.bounded(sql, run_id, json.dumps(picked))
    return [row["row"] for row in rows]


def _evenly(total: int, samples: int) -> list[int] | None:
    """`samples` numbers at even distances from 0 to `total` - 1. None if `samples` covers all."""
    samples = max(2, min(samples, MAX_SAMPLES))
    if total <= samples:
        return None
    return sorted({round(number * (total - 1) / (samples - 1)) for number in range(samples)})


def sampled_history(source: Row, info: Info, specs: list[str]) -> list[list[Row]]:
    """Per spec an even sample of the rows that have all its keys.

    A spec is JSON: `{keys, samples, minStep, maxStep}`, both steps inclusive.
    """
    store = info.context.store
    return [_sample(store, source["id"], json_object(spec, "a spec")) for spec in specs]


def _sample(store: Store, run_id: int, spec: dict[str, Any]) -> list[Row]:
    keys = _keys(spec)
    if not keys:
        return []
    paths = ["$." + json.dumps(key) for key in keys]
    low = _number("minStep", spec, 0)
    high = _number("maxStep", spec, 2**62)
    samples = _number("samples", spec, DEFAULT_SAMPLES)
    has_all_keys = "".join(" AND json_type(row, ?) IS NOT NULL" for _ in keys)
    source = f"FROM history WHERE run_id = ? AND step >= ? AND step <= ?{has_all_keys}"
    values = [run_id, low, high, *paths]
    picked = _evenly(store.value(f"SELECT COUNT(*) {source}", *values), samples)
    if picked is not None:
        numbered = f"SELECT row, line, ROW_NUMBER() OVER (ORDER BY line) - 1 AS place {source}"
        source = f"FROM ({numbered}) WHERE place IN (SELECT value FROM json_each(?))"
        values.append(json.dumps(picked))
    groups = [paths[n : n + KEYS_PER_CALL] for n in range(0, len(paths), KEYS_PER_CALL)]
    cells = [
        f"json_array({', '.join(['json_extract(row, ?)'] * len(group))}) AS c{n}"
        for n, group in enumerate(groups)
    ]
    rows = store.bounded(f"SELECT {', '.join(cells)} {source} ORDER BY line", *paths, *values)
    return [
        dict(zip(keys, [cell for text in row.values() for cell in json.loads(text)], strict=True))
        for row in rows
    ]


def _keys(spec: dict[str, Any]) -> list[str]:
    keys = spec.get("keys") or []
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("keys must be a list of names")
    if len(keys) > MAX_KEYS:
        raise ValueError(f"history is read by at most {MAX_KEYS} keys at a time, not {len(keys)}")
    return keys


def _number(name: str, spec: dict[str, Any], default: int) -> int:
    value = spec.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not abs(value) < 2**63:  # a client may write 5.0
        raise ValueError(f"{name} must be a number, not {str(value)[:50]}")
    return int(value)


def parquet_history(
    source: Row,
    _info: Info,
    liveKeys: list[str] | None = None,  # noqa: N803  the schema's name
) -> Row:
    """Says that there are no Parquet files: clients then read all rows from step 0 page by page."""
    return {"parquetUrls": [], "liveData": [{"_step": 0}] if source["history_lines"] else []}


def log_lines(
    source: Row,
    info: Info,
    first: int | None = None,
    last: int | None = None,
    after: str | None = None,
    useImprovedPagination: bool | None = None,  # noqa: N803  the schema's name
) -> pages.Connection:
    """A page of the run's console: the `last` lines, or `first` lines after `after`."""
    if last is not None:
        after, first = str(max(0, source["log_lines"] - last)), last
    sql = "SELECT line, row FROM console WHERE run_id = ? AND line >= ? ORDER BY line LIMIT ?"

    def fetch(offset: int, limit: int) -> list[Row]:
        rows = info.context.store.bounded(sql, source["id"], offset, limit)
        return [_log_line(row) for row in rows]

    return pages.paged(fetch, first, after)


def _log_line(row: Row) -> Row:
    """A console line as the schema's `LogLine`.

    The client writes `ERROR 2026-01-01T00:00:00.000000 text`; the level, or the level and the time,
    may be missing.
    """
    level, text = None, row["row"].rstrip("\n")
    if text.startswith("ERROR "):
        level, text = "error", text.removeprefix("ERROR ")
    stamp, _, rest = text.partition(" ")
    has_stamp = len(stamp) >= 19 and stamp[4:5] == "-" and stamp[10:11] == "T"
    stamp, text = (stamp, rest) if has_stamp else (None, text)
    return {"number": row["line"], "timestamp": stamp, "level": level, "label": None, "line": text}


def _tail(table: str, source: Row, info: Info) -> str:
    """A JSON list with the last row as JSON text. A resumed run continues the numbers in it."""
    sql = f"SELECT row FROM {table} WHERE run_id = ? ORDER BY line DESC LIMIT 1"
    return dumps([row["row"] for row in info.context.store.all(sql, source["id"])])


def _system_metrics(source: Row, info: Info) -> str:
    """The last row of system metrics as JSON, `{}` if there is none."""
    sql = "SELECT row FROM events WHERE run_id = ? ORDER BY line DESC LIMIT 1"
    return info.context.store.value(sql, source["id"]) or "{}"


RESOLVERS: Resolvers = {
    "Run": {
        "id": partial(id_of, "Run"),
        "project": project_of,
        "projectId": lambda source, _info: str(source["project_id"]),
        "wandbConfig": _wandb_config,
        "summaryMetrics": lambda source, _info: source["summary"],
        "systemMetrics": _system_metrics,
        "tags": lambda source, _info: json.loads(source["tags"]),
        "group": lambda source, _info: source["run_group"],
        "commit": lambda source, _info: source["commit_hash"],
        "readOnly": lambda *_: False,
        "stopped": lambda source, _info: bool(source["stopped"]),
        "shouldStop": lambda source, _info: bool(source["stopped"]),
        "failed": lambda source, _info: source["state"] in ("failed", "crashed"),
        "running": lambda source, _info: source["state"] in lifecycle.STARTED,
        "user": lambda *_: USER,
        "historyLineCount": lambda source, _info: source["history_lines"],
        "eventsLineCount": lambda source, _info: source["event_lines"],
        "logLineCount": lambda source, _info: source["log_lines"],
        "historyTail": partial(_tail, "history"),
        "eventsTail": partial(_tail, "events"),
        "historyKeys": lambda source, _info: json.loads(source["history_keys"]),
        "history": history,
        "events": events,
        "sampledHistory": sampled_history,
        "parquetHistory": parquet_history,
        "logLines": log_lines,
        "fileCount": file_count,
        "files": files,
    },
    "Mutation": {
        "upsertBucket": upsert_bucket,
        "updateRunState": update_run_state,
        "deleteRun": delete_run,
        "stopRun": stop_run,
        "createRunFiles": create_run_files,
        "markRunFilesUploaded": lambda *_, **__: {"success": True},
        "deleteFiles": delete_files,
        "notifyScriptableRunAlert": alert,
    },
}

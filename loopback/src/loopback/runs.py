"""Runs: what clients ask about them and how they open, change and delete them."""

# ruff: noqa: S608  (table and column names are our own words; every value goes through a ?)

import fnmatch
import json
import mimetypes
import shutil
import time
from functools import partial

from loopback import artifacts, inputs, lifecycle, pages
from loopback.projects import RUNS, USER, identified, project_of, row_of
from loopback.store import dumps, json_object, now

COLUMNS = {  # what a client may set, and the column that keeps it
    "displayName": "display_name",
    "notes": "notes",
    "description": "description",
    "groupName": "run_group",
    "jobType": "job_type",
    "commit": "commit_hash",
    "host": "host",
    "jobProgram": "program",
}

MOST_SAMPLES = 100_000  # rows that a sample of a history may have
MOST_KEYS = 900  # by which a history is read at a time: SQLite takes 1,000 conditions


def upsert_bucket(_source, info, input: dict) -> dict:
    """Opens a run by its name, or changes it by its id; a config is merged into what is there."""
    store = info.context.store
    config = json_object(input["config"], "config") if input.get("config") is not None else {}
    if not all(isinstance(value, dict) for value in config.values()):
        raise ValueError('config must be {"NAME": {"value": VALUE}, ...}')
    _refuse_fork(config, input.get("name"))
    with store.writing():
        if input.get("id"):
            run, opened = row_of(info, "runs", input["id"]), False
        else:
            run, opened = _open(store, input)
        changes = {
            column: input[key] for key, column in COLUMNS.items() if input.get(key) is not None
        }
        if input.get("tags") is not None:
            changes["tags"] = dumps(input["tags"])
        if input.get("config") is not None:
            changes["config"] = dumps(json.loads(run["config"]) | config)
        if input.get("summaryMetrics") is not None:
            changes["summary"] = dumps(json_object(input["summaryMetrics"], "summaryMetrics"))
        if changes:
            lifecycle.change(store, run["id"], **changes)
    return {"bucket": store.one(f"{RUNS} WHERE r.id = ?", run["id"]), "inserted": opened}


def _noted(config: dict) -> dict:
    """What the client noted about itself in a run's configuration."""
    noted = config.get("_wandb", {}).get("value")
    return noted if isinstance(noted, dict) else {}


def _refuse_fork(config: dict, name: str | None) -> None:
    """NotServedError if the client says that the run begins as a copy of another one (`fork_from`)."""
    branch_point = _noted(config).get("branch_point")
    origin = branch_point.get("run_id") if isinstance(branch_point, dict) else None
    if name and origin and origin != name:
        raise inputs.NotServedError(
            f"loopback does not serve fork_from: run {name} would begin with the history of {origin}; "
            f"start a new run, or rewind {origin} itself by resume_from"
        )


def _open(store, input: dict) -> tuple[dict, bool]:
    """(the run, whether it is new). Opening a run that waited, ended or was lost makes it run again."""
    project = store.project(input.get("entityName"), input.get("modelName"), create=True)
    sweep = None
    if input.get("sweep"):
        sweep = store.value(
            "SELECT id FROM sweeps WHERE project_id = ? AND name = ?", project["id"], input["sweep"]
        )
    sql = "SELECT * FROM runs WHERE project_id = ? AND name = ?"
    run = store.one(sql, project["id"], input["name"])
    if run is not None:
        if sweep and run["sweep_id"] is None:
            lifecycle.change(store, run["id"], sweep_id=sweep)
        if not input.get("state"):
            lifecycle.begin(store, run)
        return store.one(sql, project["id"], input["name"]), False
    create(
        store, project["id"], input["name"], sweep_id=sweep, state=input.get("state") or "running"
    )
    return store.one(sql, project["id"], input["name"]), True


def create(
    store, project_id: int, name: str, *, sweep_id: int | None, state: str, **columns
) -> int:
    """A new run's id; its display name is the next number in its sweep or project."""
    with store.writing():
        if sweep_id:
            number = 1 + store.value("SELECT COUNT(*) FROM runs WHERE sweep_id = ?", sweep_id)
        else:
            number = 1 + store.value("SELECT COUNT(*) FROM runs WHERE project_id = ?", project_id)
        columns.setdefault("display_name", f"{'sweep' if sweep_id else 'run'}-{number}")
        stamps = {
            "created_at": now(),
            "updated_at": now(),
            "heartbeat_at": now(),
            "seen": time.time(),
        }
        columns |= {"project_id": project_id, "name": name, "sweep_id": sweep_id, "state": state}
        return store.insert("runs", **columns, **stamps, version=store.tick())


def update_run_state(_source, info, input: dict) -> dict:
    """Sets a run that belongs to no sweep to `pending` or `failed`. ValueError otherwise."""
    run = row_of(info, "runs", input["id"])
    if run["sweep_id"] or input["state"] not in ("pending", "failed"):
        raise ValueError("only runs outside of sweeps can be set, to pending or failed")
    lifecycle.change(info.context.store, run["id"], state=input["state"])
    return {"success": True}


def stop_run(_source, info, input: dict) -> dict:
    """Asks a live run to stop; one that has ended is left alone."""
    run = row_of(info, "runs", input["id"])
    if run["state"] in lifecycle.LIVE:
        lifecycle.ask_to_stop(info.context.store, [run["id"]])
    return {"success": True}


def delete_run(_source, info, input: dict) -> dict:
    """Forgets a run, its rows and its files, and with `deleteArtifacts` the artifacts that it has made."""
    store, run = info.context.store, row_of(info, "runs", input["id"])
    with store.writing():
        for table in ("history", "events", "console", "files", "alerts", "uses"):
            store.write(f"DELETE FROM {table} WHERE run_id = ?", run["id"])
        store.write("DELETE FROM runs WHERE id = ?", run["id"])
        lifecycle.search_again(store, run["sweep_id"])
    if input.get("deleteArtifacts"):
        for artifact in store.all(
            "SELECT * FROM artifacts WHERE run_id = ? AND state != 'DELETED'", run["id"]
        ):
            artifacts.discard(store, artifact)
    info.context.search.forget(run["sweep_id"])
    shutil.rmtree(store.inside("runs", str(run["id"])), ignore_errors=True)
    return {"clientMutationId": None}


def _addressed(info, input: dict) -> dict:
    project = info.context.store.project(input.get("entityName"), input.get("projectName"))
    sql = "SELECT * FROM runs WHERE project_id = ? AND name = ?"
    run = info.context.store.one(sql, project and project["id"], input["runName"])
    if run is None:
        raise ValueError(f"run {input['runName']} does not exist")
    return run


def create_run_files(_source, info, input: dict) -> dict:
    """Links to upload a run's files. ValueError for names that would lead out of the run's folder."""
    run, links = _addressed(info, input), info.context.links
    files = []
    for name in input["files"]:
        info.context.store.inside("runs", str(run["id"]), name)
        files.append(
            {
                "id": f"File:{name}",
                "name": name,
                "upload_url": links.upload(f"/storage/runs/{run['id']}/{name}"),
            }
        )
    return {"runID": f"Run:{run['id']}", "uploadHeaders": [], "files": files}


def file_row(info, row: dict) -> dict:
    """A stored file of a run, as clients see it."""
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


def files(source, info, names=None, pattern=None, first=None, after=None) -> dict:
    """A page of a run's uploaded files, by exact names or by a pattern with % as in SQL."""
    rows = info.context.store.all(
        "SELECT * FROM files WHERE run_id = ? ORDER BY name", source["id"]
    )
    if names:
        rows = [row for row in rows if row["name"] in names]
    if pattern:
        rows = [
            row
            for row in rows
            if fnmatch.fnmatchcase(row["name"], pattern.replace("%", "*").replace("_", "?"))
        ]
    return pages.sliced([file_row(info, row) for row in rows], first, after, totalCount=len(rows))


def delete_files(_source, info, input: dict) -> dict:
    """Forgets files of runs."""
    store = info.context.store
    for file_id in input["files"]:
        row = row_of(info, "files", file_id)
        store.inside("runs", str(row["run_id"]), row["name"]).unlink(missing_ok=True)
        store.write("DELETE FROM files WHERE id = ?", row["id"])
    return {"success": True}


def alert(_source, info, input: dict) -> dict:
    """Keeps an alert and logs it: there is nobody to mail it to."""
    run = _addressed(info, input)
    texts = {key: input.get(key) for key in ("title", "text", "severity")}
    info.context.store.insert("alerts", run_id=run["id"], created_at=now(), **texts)
    return {"success": True}


def _wandb_config(source, _info, keys=None) -> str:
    """What the client noted about itself; without `t` the run was not started yet."""
    noted = _noted(json.loads(source["config"]))
    return dumps({key: noted[key] for key in keys or noted if key in noted})


def history(source, info, minStep=None, maxStep=None, samples=None) -> list[str]:  # noqa: N803
    """Rows with minStep <= _step < maxStep as JSON; without steps, at most `samples` rows evenly picked."""
    sql = "SELECT row FROM history WHERE run_id = ?"
    values = [source["id"]]
    if minStep is not None or maxStep is not None:
        sql += " AND step >= ? AND step < ?"
        values += [int(minStep or 0), int(maxStep if maxStep is not None else 2**62)]
        return [row["row"] for row in info.context.store.bounded(f"{sql} ORDER BY line", *values)]
    return [
        row["row"]
        for row in _spread(
            info.context.store, "history", source["id"], source["history_lines"], samples
        )
    ]


def events(source, info, samples=None) -> list[str]:
    """System metrics as JSON, at most `samples` rows evenly picked."""
    return [
        row["row"]
        for row in _spread(
            info.context.store, "events", source["id"], source["event_lines"], samples
        )
    ]


def _spread(store, table: str, run_id: int, lines: int, samples: int | None) -> list[dict]:
    """At most `samples` (default 500) rows of a run, the first and the last among them."""
    sql = f"SELECT row FROM {table} WHERE run_id = ?"
    picked = _evenly(lines, 500 if samples is None else samples)
    if picked is None:
        return store.bounded(f"{sql} ORDER BY line", run_id)
    sql += " AND line IN (SELECT value FROM json_each(?)) ORDER BY line"
    return store.bounded(sql, run_id, json.dumps(picked))


def _evenly(total: int, samples: int) -> list[int] | None:
    """`samples` numbers from 0 to `total` - 1, evenly spread, both ends among them. None where all are wanted."""
    samples = max(2, min(samples, MOST_SAMPLES))
    if total <= samples:
        return None
    return sorted({round(number * (total - 1) / (samples - 1)) for number in range(samples)})


def sampled_history(source, info, specs: list[str]) -> list[list[dict]]:
    """For every spec `{keys, samples, minStep, maxStep}` (both inclusive) the rows that hold all its keys, evenly picked."""
    return [
        _sample(info.context.store, source["id"], json_object(spec, "a spec")) for spec in specs
    ]


def _sample(store, run_id: int, spec: dict) -> list[dict]:
    keys = spec.get("keys") or []
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("keys must be a list of names")
    if not keys:
        return []
    if len(keys) > MOST_KEYS:
        raise ValueError(f"history is read by at most {MOST_KEYS} keys at a time, not {len(keys)}")
    paths = ["$." + json.dumps(key) for key in keys]
    bounds = {"minStep": 0, "maxStep": 2**62, "samples": 500}
    low, high, samples = (_number(name, spec.get(name), usual) for name, usual in bounds.items())
    whole = "".join(" AND json_type(row, ?) IS NOT NULL" for _ in keys)
    found = f"FROM history WHERE run_id = ? AND step >= ? AND step <= ?{whole}"
    values = [run_id, low, high, *paths]
    total = store.value(f"SELECT COUNT(*) {found}", *values)
    places = _evenly(total, samples)
    if places is not None:
        found = f"FROM (SELECT row, line, ROW_NUMBER() OVER (ORDER BY line) - 1 AS place {found}) "
        found += "WHERE place IN (SELECT value FROM json_each(?))"
        values.append(json.dumps(places))
    groups = [
        paths[start : start + 50] for start in range(0, len(paths), 50)
    ]  # a function has 100 arguments at most
    cells = [
        f"json_array({', '.join(['json_extract(row, ?)'] * len(group))}) AS c{n}"
        for n, group in enumerate(groups)
    ]
    rows = store.bounded(f"SELECT {', '.join(cells)} {found} ORDER BY line", *paths, *values)
    return [
        dict(zip(keys, [c for text in row.values() for c in json.loads(text)], strict=True))
        for row in rows
    ]


def _number(name: str, value, usual: int) -> int:
    if value is None:
        return usual
    if type(value) not in (int, float) or not abs(value) < 2**63:  # a client may write 5.0
        raise ValueError(f"{name} must be a number, not {str(value)[:50]}")
    return int(value)


def parquet_history(source, _info, liveKeys=None) -> dict:  # noqa: N803
    """No parquet files: everything is live, from the first step on, and is read page by page."""
    return {"parquetUrls": [], "liveData": [{"_step": 0}] if source["history_lines"] else []}


def log_lines(source, info, first=None, last=None, after=None, useImprovedPagination=None) -> dict:  # noqa: N803
    """A page of the run's console."""
    if last is not None:
        after, first = str(max(0, source["log_lines"] - last)), last

    def fetch(offset, limit):
        sql = "SELECT line, row FROM console WHERE run_id = ? AND line >= ? ORDER BY line LIMIT ?"
        return [
            _log_line(row) for row in info.context.store.bounded(sql, source["id"], offset, limit)
        ]

    return pages.paged(fetch, first, after)


def _log_line(row: dict) -> dict:
    """`ERROR 2026-01-01T00:00:00.000000 text` as the client writes it, or bare text."""
    level, text = None, row["row"].rstrip("\n")
    if text.startswith("ERROR "):
        level, text = "error", text.removeprefix("ERROR ")
    stamp, _, rest = text.partition(" ")
    stamped = len(stamp) >= 19 and stamp[4:5] == "-" and stamp[10:11] == "T"
    stamp, text = (stamp, rest) if stamped else (None, text)
    return {"number": row["line"], "timestamp": stamp, "level": level, "label": None, "line": text}


def _tail(table: str, source: dict, info) -> str:
    """The last row, as a JSON list of one JSON text: from here a resumed run goes on counting."""
    sql = f"SELECT row FROM {table} WHERE run_id = ? ORDER BY line DESC LIMIT 1"
    return dumps([row["row"] for row in info.context.store.all(sql, source["id"])])


def _system_metrics(source, info) -> str:
    tail = json.loads(_tail("events", source, info))
    return tail[0] if tail else "{}"


RESOLVERS = {
    "Run": {
        "id": partial(identified, "Run"),
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
        "running": lambda source, _info: source["state"] in ("running", "preempting"),
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
        "fileCount": lambda source, info: info.context.store.value(
            "SELECT COUNT(*) FROM files WHERE run_id = ?", source["id"]
        ),
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

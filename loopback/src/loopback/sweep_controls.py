"""Sweeps: created, changed, paused, stopped and cancelled; fed by schedulers and by local controllers."""

# ruff: noqa: S608  (table and column names are our own words; every value goes through a ?)

import json
import math
import secrets
import string
import time
from functools import lru_cache, partial

import yaml

from loopback import lifecycle, pages
from loopback.projects import RUNS, identified, project_of, row_of
from loopback.runs import create
from loopback.search import objective, parsed, problems
from loopback.store import dumps, now

ALPHABET = string.ascii_lowercase + string.digits
TRANSITIONS = {  # state asked for: states from which it may be reached
    "RUNNING": ("PENDING", "RUNNING", "PAUSED", "FINISHED"),
    "PAUSED": ("PENDING", "RUNNING", "PAUSED"),
    "FINISHED": ("PENDING", "RUNNING", "PAUSED", "FINISHED"),
    "CANCELED": ("PENDING", "RUNNING", "PAUSED", "CANCELED"),
}


def new_name() -> str:
    """Eight letters and digits, as W&B names runs and sweeps."""
    return "".join(secrets.choice(ALPHABET) for _ in range(8))


@lru_cache(maxsize=64)
def config_of(text: str) -> dict:
    """A stored sweep configuration, parsed once. Treat it as read-only."""
    return parsed({"config": text})


def upsert_sweep(_source, info, input: dict) -> dict:
    """Creates a sweep, or changes one by its id. ValueError for what W&B would refuse."""
    store, warnings = info.context.store, []
    columns = {"display_name": input.get("displayName"), "description": input.get("description")}
    columns |= {"controller": input.get("controller"), "scheduler": input.get("scheduler")}
    columns = {name: value for name, value in columns.items() if value is not None}
    if input.get("config") is not None:
        config = yaml.safe_load(input["config"])
        if not isinstance(config, dict):
            raise ValueError("a sweep is a YAML mapping with method, parameters and so on")
        refusal, warnings = problems(config)
        if refusal:
            raise ValueError(f"Invalid sweep config: {refusal}")
        columns["config"] = input["config"]
    with store.writing():
        sweep = (
            row_of(info, "sweeps", input["id"])
            if input.get("id")
            else _create(store, input, columns)
        )
        if columns:
            store.update("sweeps", sweep["id"], **columns, updated_at=now())
        if columns.get("config", sweep["config"]) != sweep["config"]:
            lifecycle.search_again(store, sweep["id"])
        if input.get("state"):
            _move(store, sweep, input["state"])
        sweep = store.one("SELECT * FROM sweeps WHERE id = ?", sweep["id"])
        _obey(store, sweep)
    return {
        "sweep": store.one("SELECT * FROM sweeps WHERE id = ?", sweep["id"]),
        "configValidationWarnings": warnings,
    }


def _create(store, input: dict, columns: dict) -> dict:
    if "config" not in columns:
        raise ValueError("a new sweep needs a config")
    project = store.project(input.get("entityName"), input.get("projectName"), create=True)
    stamps = {"created_at": now(), "updated_at": now()}
    sweep_id = store.insert(
        "sweeps",
        project_id=project["id"],
        name=new_name(),
        state="PENDING",
        config=columns["config"],
        **stamps,
    )
    if input.get("priorRunsFilters"):
        names = [item["name"] for item in json.loads(input["priorRunsFilters"])["$or"]]
        for name in names:
            run = store.one(
                "SELECT * FROM runs WHERE project_id = ? AND name = ?", project["id"], name
            )
            if run is None:
                raise ValueError(f"prior run {name} does not exist")
            lifecycle.change(store, run["id"], sweep_id=sweep_id)
    return store.one("SELECT * FROM sweeps WHERE id = ?", sweep_id)


def _move(store, sweep: dict, state: str) -> None:
    state = state.upper()
    if state not in TRANSITIONS:
        raise ValueError(f"a sweep can be {', '.join(TRANSITIONS)}, not {state}")
    if sweep["state"] not in TRANSITIONS[state]:
        raise ValueError(
            f"sweep {sweep['name']} is {sweep['state'].lower()} and cannot become {state.lower()}"
        )
    if state == "RUNNING":
        lifecycle.search_again(store, sweep["id"])
    scheduled = "scheduler" in config_of(
        sweep["config"]
    )  # it says FINISHED as soon as its last run is enqueued
    lifecycle.set_sweep_state(store, sweep["id"], state, drain=scheduled)


def _obey(store, sweep: dict) -> None:
    """Does what a local controller (`wandb sweep --controller`) has written down: schedule runs, stop runs."""
    orders = json.loads(sweep["controller"] or "{}")
    done = json.loads(sweep["scheduler"] or "{}").get("scheduled") or []
    known = {entry["id"] for entry in done}
    for order in orders.get("schedule") or []:
        if order["id"] in known:
            continue
        arguments = order["data"]["args"]
        if arguments is None or capped(store, sweep):  # nothing left to try
            store.update("sweeps", sweep["id"], exhausted=1)
            lifecycle.settle(store, sweep["id"])
        else:
            done.append({"id": order["id"], "runid": enqueue(store, sweep, arguments)})
    if orders.get("schedule"):
        store.update("sweeps", sweep["id"], scheduler=dumps({"scheduled": done}))
    sql = "SELECT id FROM runs WHERE sweep_id = ? AND name = ? AND stopped = 0 AND state IN ('running', 'preempting')"
    for name in orders.get("earlystop") or []:
        lifecycle.ask_to_stop(store, [row["id"] for row in store.all(sql, sweep["id"], name)])


def enqueue(store, sweep: dict, config: dict, display_name: str | None = None) -> str:
    """Puts a run with this configuration into the sweep's queue; its name."""
    name, extra = new_name(), {"display_name": display_name} if display_name else {}
    stamps = {"config": dumps(config), "queued": time.time()}
    create(
        store, sweep["project_id"], name, sweep_id=sweep["id"], state="pending", **stamps, **extra
    )
    return name


def capped(store, sweep: dict) -> bool:
    """Whether the sweep has as many runs as its run_cap allows."""
    cap = config_of(sweep["config"]).get("run_cap")
    return (
        bool(cap)
        and store.value("SELECT COUNT(*) FROM runs WHERE sweep_id = ?", sweep["id"]) >= cap
    )


def enqueue_sweep_run(_source, info, input: dict) -> dict:
    """Takes a run that `wandb sweep-scheduler` proposes; the id in the answer is the run's name.

    With the run that fills run_cap the sweep is FINISHED, which is how the scheduler learns that it is done. The rest
    of its batch is accepted as well, because a refusal would end it as failed; what is in the queue is still run.
    """
    store, sweep = info.context.store, row_of(info, "sweeps", input["id"])
    config = {
        key: value if _wrapped(value) else {"value": value}
        for key, value in json.loads(input["config"]).items()
    }
    with store.writing():
        name = enqueue(store, sweep, config, input.get("displayName"))
        if capped(store, sweep):
            lifecycle.set_sweep_state(store, sweep["id"], "FINISHED", drain=True)
    return {"id": name, "runQueueItemId": None}


def _wrapped(value) -> bool:
    return isinstance(value, dict) and "value" in value


def expected(sweep: dict, _info) -> int | None:
    """How many runs the sweep can have: a grid's size, capped by run_cap; null if without end."""
    config = config_of(sweep["config"])
    cap = config.get("run_cap")
    if config.get("method") != "grid":
        return cap
    size = math.prod(_choices(parameter) for parameter in config["parameters"].values())
    return min(size, cap) if cap else size


def _choices(parameter: dict) -> int:
    if "values" in parameter:
        return len(parameter["values"])
    if "min" in parameter and "max" in parameter:
        step = parameter.get("q", 1)
        return int((parameter["max"] - parameter["min"]) / step) + 1
    if "parameters" in parameter:
        return math.prod(_choices(nested) for nested in parameter["parameters"].values())
    return 1


def best_loss(sweep: dict, info) -> float | None:
    """The best value of the objective in any run's summary."""
    metric, goal = objective(config_of(sweep["config"]))
    if metric is None:
        return None
    best = "MAX" if goal == "maximize" else "MIN"
    cell = "json_extract(summary, ?)"
    sql = f"SELECT {best}({cell}) FROM runs WHERE sweep_id = ? AND typeof({cell}) IN ('integer', 'real')"
    path = "$." + json.dumps(metric)
    return info.context.store.value(sql, path, sweep["id"], path)


def runs(source, info, first=None, after=None) -> dict:
    """The sweep's runs, oldest first; all of them unless a page is asked for."""
    sql = f"{RUNS} WHERE r.sweep_id = ? ORDER BY r.id LIMIT ? OFFSET ?"
    fetch = lambda offset, limit: info.context.store.all(sql, source["id"], limit, offset)  # noqa: E731
    return pages.paged(fetch, pages.MOST if first is None else first, after)


RESOLVERS = {
    "Sweep": {
        "id": partial(identified, "Sweep"),
        "method": lambda source, _info: config_of(source["config"]).get("method", "custom"),
        "project": project_of,
        "bestLoss": best_loss,
        "runCount": lambda source, info: info.context.store.value(
            "SELECT COUNT(*) FROM runs WHERE sweep_id = ?", source["id"]
        ),
        "runCountExpected": expected,
        "controllerRunName": lambda source, _info: f"scheduler-{source['name']}",
        "earlyStopJobRunning": lambda *_: False,
        "runs": runs,
    },
    "Mutation": {"upsertSweep": upsert_sweep, "enqueueSweepRun": enqueue_sweep_run},
}

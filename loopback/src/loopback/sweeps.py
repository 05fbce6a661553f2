"""Sweeps: create, change, pause, finish and cancel them, and fill their queues."""

# ruff: noqa: S608  (table and column names come from this program; every value is bound with a ?)

import json
import math
import secrets
import string
import time
from functools import partial
from typing import Any

import yaml

from loopback import lifecycle, pages
from loopback.common import SELECT_RUNS, Info, Resolvers, id_of, project_of, row_of
from loopback.runs import create
from loopback.search import config_of, objective, problems
from loopback.store import Row, Store, dumps, now

NAME_CHARACTERS = string.ascii_lowercase + string.digits
NAME_LENGTH = 8  # as on W&B
COLUMNS = {  # input field -> column
    "displayName": "display_name",
    "description": "description",
    "controller": "controller",
    "scheduler": "scheduler",
    "config": "config",
}
TRANSITIONS = {  # requested state -> states from which it can be reached
    "RUNNING": ("PENDING", "RUNNING", "PAUSED", "FINISHED"),
    "PAUSED": ("PENDING", "RUNNING", "PAUSED"),
    "FINISHED": ("PENDING", "RUNNING", "PAUSED", "FINISHED"),
    "CANCELED": ("PENDING", "RUNNING", "PAUSED", "CANCELED"),
}


def new_name() -> str:
    """A random name for a run, sweep or agent."""
    return "".join(secrets.choice(NAME_CHARACTERS) for _ in range(NAME_LENGTH))


def upsert_sweep(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Creates a sweep, or changes the one with the input's id.

    Raises ValueError for a configuration that W&B would refuse and for an impossible state.
    """
    store = info.context.store
    columns = {column: input[key] for key, column in COLUMNS.items() if input.get(key) is not None}
    warnings = _check_config(input["config"]) if "config" in columns else []
    with store.writing():
        sweep = row_of(info, "sweeps", input["id"]) if input.get("id") else _create(store, input)
        if columns:
            store.update("sweeps", sweep["id"], **columns, updated_at=now())
        if columns.get("config", sweep["config"]) != sweep["config"]:
            lifecycle.search_again(store, sweep["id"])
        if input.get("state"):
            _set_state(store, sweep, input["state"].upper())
        _follow_controller(store, store.row("sweeps", sweep["id"]))
    return {
        "sweep": store.row("sweeps", sweep["id"]),
        "configValidationWarnings": warnings,
    }


def _check_config(text: str) -> list[str]:
    """The warnings that W&B would give for a sweep's YAML. ValueError if W&B would refuse it."""
    config = yaml.safe_load(text)
    if not isinstance(config, dict):
        raise ValueError("a sweep is a YAML mapping with method, parameters and so on")
    refusal, warnings = problems(config)
    if refusal:
        raise ValueError(f"Invalid sweep config: {refusal}")
    return warnings


def _create(store: Store, input: dict[str, Any]) -> Row:
    if input.get("config") is None:
        raise ValueError("a new sweep needs a config")
    project = store.ensure_project(input.get("entityName"), input.get("projectName"))
    sweep_id = store.insert(
        "sweeps",
        project_id=project["id"],
        name=new_name(),
        state="PENDING",
        config=input["config"],
        created_at=now(),
        updated_at=now(),
    )
    if input.get("priorRunsFilters"):
        for item in json.loads(input["priorRunsFilters"])["$or"]:
            run = store.named("runs", project["id"], item["name"])
            if run is None:
                raise ValueError(f"prior run {item['name']} does not exist")
            lifecycle.change(store, run["id"], sweep_id=sweep_id)
    return store.row("sweeps", sweep_id)


def _set_state(store: Store, sweep: Row, state: str) -> None:
    if state not in TRANSITIONS:
        raise ValueError(f"a sweep can be {', '.join(TRANSITIONS)}, not {state}")
    if sweep["state"] not in TRANSITIONS[state]:
        raise ValueError(
            f"sweep {sweep['name']} is {sweep['state'].lower()} and cannot become {state.lower()}"
        )
    if state == "RUNNING":
        lifecycle.search_again(store, sweep["id"])
    # `wandb sweep-scheduler` sets FINISHED with its last run enqueued; that run must still start.
    has_scheduler = "scheduler" in config_of(sweep["config"])
    lifecycle.set_sweep_state(store, sweep["id"], state, drain=has_scheduler)


def _follow_controller(store: Store, sweep: Row) -> None:
    """Schedules and stops the runs that `wandb sweep --controller` asks for."""
    orders = json.loads(sweep["controller"] or "{}")
    scheduled = json.loads(sweep["scheduler"] or "{}").get("scheduled") or []
    known = {entry["id"] for entry in scheduled}
    for order in orders.get("schedule") or []:
        if order["id"] in known:
            continue
        arguments = order["data"]["args"]
        if arguments is None or is_capped(store, sweep):  # nothing is left to try
            store.update("sweeps", sweep["id"], exhausted=1)
            lifecycle.settle(store, sweep["id"])
        else:
            scheduled.append({"id": order["id"], "runid": enqueue(store, sweep, arguments)})
    if orders.get("schedule"):
        store.update("sweeps", sweep["id"], scheduler=dumps({"scheduled": scheduled}))
    for name in orders.get("earlystop") or []:
        runs = store.runs(lifecycle.STARTED, sweep_id=sweep["id"], name=name, stopped=0)
        lifecycle.ask_to_stop(store, [run["id"] for run in runs])


def enqueue(
    store: Store, sweep: Row, config: dict[str, Any], display_name: str | None = None
) -> str:
    """Adds a run with this configuration to the sweep's queue and returns the run's name."""
    name, extra = new_name(), {"display_name": display_name} if display_name else {}
    create(
        store,
        sweep["project_id"],
        name,
        sweep_id=sweep["id"],
        state="pending",
        config=dumps(config),
        queued=time.time(),
        **extra,
    )
    return name


def is_capped(store: Store, sweep: Row) -> bool:
    """Whether the sweep has as many runs as its `run_cap` allows."""
    cap: int | None = config_of(sweep["config"]).get("run_cap")
    return bool(cap and _run_count(store, sweep) >= cap)


def _run_count(store: Store, sweep: Row) -> int:
    count: int = store.value("SELECT COUNT(*) FROM runs WHERE sweep_id = ?", sweep["id"])
    return count


def enqueue_sweep_run(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Adds a run that `wandb sweep-scheduler` proposes; the id in the answer is the run's name.

    With the run that fills `run_cap` the sweep becomes FINISHED, which stops the scheduler. Further
    runs of the same batch are accepted too, because the scheduler would report a refusal as a
    failure of the sweep. Agents still run everything in the queue.
    """
    store, sweep = info.context.store, row_of(info, "sweeps", input["id"])
    config = {
        key: value if _is_wrapped(value) else {"value": value}
        for key, value in json.loads(input["config"]).items()
    }
    with store.writing():
        name = enqueue(store, sweep, config, input.get("displayName"))
        if is_capped(store, sweep):
            lifecycle.set_sweep_state(store, sweep["id"], "FINISHED", drain=True)
    return {"id": name, "runQueueItemId": None}


def _is_wrapped(value: object) -> bool:
    return isinstance(value, dict) and "value" in value


def expected_runs(sweep: Row, _info: Info) -> int | None:
    """How many runs the sweep can have: the grid's size and `run_cap` limit it. None: no limit."""
    config = config_of(sweep["config"])
    cap: int | None = config.get("run_cap")
    if config.get("method") != "grid":
        return cap
    size = math.prod(_grid_size(parameter) for parameter in config["parameters"].values())
    return min(size, cap) if cap else size


def _grid_size(parameter: dict[str, Any]) -> int:
    """How many values of a parameter a grid search tries."""
    if "values" in parameter:
        return len(parameter["values"])
    if "min" in parameter and "max" in parameter:
        step = parameter.get("q", 1)
        return int((parameter["max"] - parameter["min"]) / step) + 1
    if "parameters" in parameter:
        return math.prod(_grid_size(nested) for nested in parameter["parameters"].values())
    return 1


def best_loss(sweep: Row, info: Info) -> float | None:
    """The best value of the objective in the summaries of the sweep's runs, or None."""
    metric, goal = objective(config_of(sweep["config"]))
    if metric is None:
        return None
    best = "MAX" if goal == "maximize" else "MIN"
    cell = "json_extract(summary, ?)"
    sql = f"""SELECT {best}({cell}) FROM runs
        WHERE sweep_id = ? AND typeof({cell}) IN ('integer', 'real')"""
    path = "$." + json.dumps(metric)
    value: float | None = info.context.store.value(sql, path, sweep["id"], path)
    return value


def runs(
    source: Row, info: Info, first: int | None = None, after: str | None = None
) -> pages.Connection:
    """The sweep's runs, oldest first. Without `first`, as many as one page can have."""
    sql = f"{SELECT_RUNS} WHERE r.sweep_id = ? ORDER BY r.id"
    size = pages.MAX_PAGE_SIZE if first is None else first
    return pages.selected(info.context.store, sql, source["id"], first=size, after=after)


RESOLVERS: Resolvers = {
    "Sweep": {
        "id": partial(id_of, "Sweep"),
        "method": lambda source, _info: config_of(source["config"]).get("method", "custom"),
        "project": project_of,
        "bestLoss": best_loss,
        "runCount": lambda source, info: _run_count(info.context.store, source),
        "runCountExpected": expected_runs,
        "controllerRunName": lambda source, _info: f"scheduler-{source['name']}",
        "earlyStopJobRunning": lambda *_: False,
        "runs": runs,
    },
    "Mutation": {"upsertSweep": upsert_sweep, "enqueueSweepRun": enqueue_sweep_run},
}

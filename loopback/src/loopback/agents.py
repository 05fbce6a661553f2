"""Agents: they report which runs they run, and are told what to run, resume, stop, or that all is done."""

import json
import logging
import secrets
import time
from functools import partial

from loopback import lifecycle, pages
from loopback.projects import RUNS, identified, row_of
from loopback.search import Search, proposed
from loopback.store import NotFoundError, Store, dumps, now
from loopback.sweep_controls import capped, config_of, enqueue, new_name

logger = logging.getLogger("loopback")

LIFE = secrets.token_hex(
    4
)  # this life of the server: what an earlier one told an agent may never have arrived
ATTEMPTS = 3  # a run whose agents vanish before it begins is handed on so often
GRACE = 15.0  # seconds between a process' end and the last words of its run


def create_agent(_source, info, input: dict) -> dict:
    """Registers an agent of a sweep. NotFoundError without such a sweep."""
    store = info.context.store
    project = store.project(input.get("entityName"), input.get("projectName"))
    sql = "SELECT * FROM sweeps WHERE project_id = ? AND name = ?"
    sweep = store.one(sql, project and project["id"], input["sweep"])
    if sweep is None:
        raise NotFoundError(f"sweep {input['sweep']} does not exist")
    stamps = {"created_at": now(), "heartbeat_at": now(), "seen": time.time()}
    agent_id = store.insert(
        "agents",
        sweep_id=sweep["id"],
        name=new_name(),
        host=input["host"],
        state="RUNNING",
        **stamps,
    )
    return {"agent": store.one("SELECT * FROM agents WHERE id = ?", agent_id)}


def heartbeat(_source, info, input: dict) -> dict:
    """One sign of life of an agent, with the runs it runs; the answer holds its next commands."""
    store, search = info.context.store, info.context.search
    agent = row_of(info, "agents", input["id"])
    sweep = store.one("SELECT * FROM sweeps WHERE id = ?", agent["sweep_id"])
    if sweep is None:
        raise NotFoundError("the agent's sweep does not exist")
    reported = {name for name, alive in json.loads(input.get("runState") or "{}").items() if alive}
    with search.sample(sweep).lock:
        resent = _listen(store, agent, reported)
        if sweep["state"] == "PENDING":
            lifecycle.set_sweep_state(store, sweep["id"], "RUNNING")
        config = config_of(sweep["config"])
        search.give_up(store.one("SELECT * FROM sweeps WHERE id = ?", sweep["id"]), config)
        commands = _commands(store, search, agent, sweep["id"], config, reported, resent)
    return {
        "agent": store.one("SELECT * FROM agents WHERE id = ?", agent["id"]),
        "commands": dumps(commands),
    }


def _listen(store: Store, agent: dict, reported: set[str]) -> list[dict]:
    """Notes what the agent reports. The runs it was told to run but cannot have heard of are returned."""
    sql = "SELECT * FROM runs WHERE agent_id = ? AND state IN ('pending', 'running', 'preempting')"
    resend, moment = [], time.time()
    with store.writing():
        store.update("agents", agent["id"], seen=moment, heartbeat_at=now(), state="RUNNING")
        store.update("sweeps", agent["sweep_id"], heartbeat_at=now())
        for run in store.all(sql, agent["id"]):
            if run["name"] in reported:
                store.update("runs", run["id"], seen=moment, missing=None, assigned_by=LIFE)
            elif run["state"] == "pending" and run["assigned_by"] != LIFE:
                store.update("runs", run["id"], seen=moment, assigned_by=LIFE)
                resend.append(run)
            elif run["missing"] is None:
                store.update("runs", run["id"], missing=moment)
            elif run["stopped"] or moment - run["missing"] > GRACE:
                lifecycle.lose(store, run)
    return resend


def _commands(
    store: Store, search: Search, agent: dict, sweep_id: int, config: dict, reported: set, resent
) -> list:
    sweep = store.one("SELECT * FROM sweeps WHERE id = ?", sweep_id)
    if resent:
        return [_start(run, config) for run in resent]
    if reported:
        sql = "SELECT name FROM runs WHERE agent_id = ? AND stopped = 1"
        return [
            {"type": "stop", "run_id": row["name"]}
            for row in store.all(sql, agent["id"])
            if row["name"] in reported
        ]
    if sweep["state"] in ("RUNNING", "FINISHED"):
        run = _next(store, search, sweep, config)
        if run is not None:
            lifecycle.change(
                store,
                run["id"],
                state="pending",
                agent_id=agent["id"],
                queued=None,
                attempts=run["attempts"] + 1,
                assigned_by=LIFE,
                seen=time.time(),
            )
            return [_start(run, config)]
        lifecycle.settle(store, sweep_id)
        sweep = store.one("SELECT * FROM sweeps WHERE id = ?", sweep_id)
    if sweep["state"] in ("FINISHED", "CANCELED"):
        store.update("agents", agent["id"], state="FINISHED")
        for run in store.all(
            "SELECT * FROM runs WHERE agent_id = ? AND state IN ('running', 'preempting')",
            agent["id"],
        ):
            lifecycle.lose(store, run)  # it will not be heard of again
        return [{"type": "exit"}]
    return []


def _start(run: dict, config: dict) -> dict:
    """`resume` goes on with a run that began before, `run` starts a new one; the agent treats them alike."""
    values = json.loads(run["config"])
    arguments = proposed(config, values)
    if not arguments:  # a scheduler's run may hold names that the sweep's YAML does not list
        arguments = {name: value for name, value in values.items() if not name.startswith("_")}
    kind = "resume" if run["state"] == "preempted" else "run"
    return {
        "type": kind,
        "run_id": run["name"],
        "program": config.get("program", ""),
        "args": arguments,
    }


def _next(store: Store, search: Search, sweep: dict, config: dict) -> dict | None:
    """The run that waited longest, else a new one of the search's choice, else None."""
    waiting = "SELECT * FROM runs WHERE sweep_id = ? AND queued IS NOT NULL ORDER BY queued LIMIT 1"
    run = store.one(waiting, sweep["id"])
    if (
        run is not None
        or sweep["state"] == "FINISHED"
        or sweep["exhausted"]
        or config["method"] == "custom"
        or _local(config)
    ):
        return run
    if search.reached(sweep, config):
        lifecycle.set_sweep_state(store, sweep["id"], "FINISHED")
        return None
    chosen = None if capped(store, sweep) else search.suggest(sweep, config)
    if chosen is None:
        store.update("sweeps", sweep["id"], exhausted=1)
        return None
    name = enqueue(store, sweep, chosen)
    return store.one("SELECT * FROM runs WHERE sweep_id = ? AND name = ?", sweep["id"], name)


def _local(config: dict) -> bool:
    return (config.get("controller") or {}).get("type") == "local"


def reap(store: Store, patience: float, since: float) -> None:
    """Marks agents and runs that were not heard of for `patience` seconds.

    `since` is when the server began to listen, in seconds since the epoch: nobody could be heard before.
    """
    limit = time.time() - patience
    if since > limit:
        return
    with store.writing():
        for agent in store.all("SELECT * FROM agents WHERE state = 'RUNNING' AND seen < ?", limit):
            logger.warning("agent %s on %s is lost", agent["name"], agent["host"])
            store.update("agents", agent["id"], state="LOST")
        sql = "SELECT * FROM runs WHERE state IN ('pending', 'running', 'preempting') AND queued IS NULL AND seen < ?"
        for run in store.all(sql, limit):
            agent = store.one("SELECT state FROM agents WHERE id = ?", run["agent_id"])
            if run["state"] == "pending" and agent and run["attempts"] < ATTEMPTS:
                logger.warning("run %s was never begun, another agent will", run["name"])
                lifecycle.give_back(store, run)
            elif run["state"] != "pending" or agent:
                logger.warning("run %s is lost", run["name"])
                lifecycle.lose(store, run)


def agents(source, info) -> dict:
    """All agents of a sweep."""
    return pages.whole(
        info.context.store.all("SELECT * FROM agents WHERE sweep_id = ? ORDER BY id", source["id"])
    )


def agent(source, info, agentName: str) -> dict | None:  # noqa: N803  GraphQL's own name
    """An agent of a sweep by its name or id; null if there is none."""
    sql = "SELECT * FROM agents WHERE sweep_id = ? AND (name = ? OR id = ?)"
    return info.context.store.one(sql, source["id"], agentName, agentName.rpartition(":")[2])


def agent_runs(source, info, first=None, after=None, last=None, before=None, order=None) -> dict:
    """A page of the runs that an agent has run."""
    sql = f"{RUNS} WHERE r.agent_id = ? ORDER BY r.id LIMIT ? OFFSET ?"
    fetch = lambda offset, limit: info.context.store.all(sql, source["id"], limit, offset)  # noqa: E731
    return pages.paged(fetch, first, after)


RESOLVERS = {
    "Sweep": {"agent": agent, "agents": agents},
    "Agent": {
        "id": partial(identified, "Agent"),
        "totalRuns": lambda source, info: info.context.store.value(
            "SELECT COUNT(*) FROM runs WHERE agent_id = ?", source["id"]
        ),
        "runs": agent_runs,
    },
    "Mutation": {"createAgent": create_agent, "agentHeartbeat": heartbeat},
}

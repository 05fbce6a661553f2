"""Agents: a heartbeat reports an agent's runs; the answer says which run to start or stop."""

import json
import logging
import secrets
import time
from functools import partial
from typing import Any

from loopback import lifecycle, pages
from loopback.common import SELECT_RUNS, Context, Info, Resolvers, id_of, row_of
from loopback.search import SweepConfig, chosen_values, config_of, has_local_controller
from loopback.store import NotFoundError, Row, Store, dumps, now
from loopback.sweeps import enqueue, is_capped, new_name

logger = logging.getLogger("loopback")

# Identifies this server process. An assignment by an earlier process is sent again, because its
# answer may never have reached the agent.
SERVER_INSTANCE = secrets.token_hex(4)
MAX_ASSIGNMENTS = 3  # of one run, if its agents disappear before they start it
SECONDS_TO_FINISH = 15.0  # a run may still send its last data after its agent stops reporting it

Command = dict[str, Any]  # {"type": "run", "resume", "stop" or "exit", ...} for W&B's agent


def create_agent(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Registers an agent of a sweep. Raises NotFoundError if the sweep does not exist."""
    store = info.context.store
    project = store.project(input.get("entityName"), input.get("projectName"))
    sweep = project and store.named("sweeps", project["id"], input["sweep"])
    if not sweep:
        raise NotFoundError(f"sweep {input['sweep']} does not exist")
    agent_id = store.insert(
        "agents",
        sweep_id=sweep["id"],
        name=new_name(),
        host=input["host"],
        state="RUNNING",
        created_at=now(),
        heartbeat_at=now(),
        seen=time.time(),
    )
    return {"agent": store.row("agents", agent_id)}


def heartbeat(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Records an agent's heartbeat with the runs it reports; the answer holds its next commands."""
    context, store = info.context, info.context.store
    agent = row_of(info, "agents", input["id"])
    sweep = store.row("sweeps", agent["sweep_id"])
    reported = {name for name, alive in json.loads(input.get("runState") or "{}").items() if alive}
    with context.search.cached(sweep).lock:
        unsent = _record(store, agent, reported)
        if sweep["state"] == "PENDING":
            lifecycle.set_sweep_state(store, sweep["id"], "RUNNING")
        context.search.stop_early(store.row("sweeps", sweep["id"]))
        if unsent:
            config = config_of(sweep["config"])
            commands = [_start_command(run, config) for run in unsent]
        elif reported:
            commands = _stop_commands(store, agent, reported)
        else:
            commands = _commands_when_idle(context, agent)
    return {"agent": store.row("agents", agent["id"]), "commands": dumps(commands)}


def _record(store: Store, agent: Row, reported: set[str]) -> list[Row]:
    """Records which runs an agent reports and ends those that it no longer reports.

    Returns the runs assigned to it by an earlier server process, to be sent again.
    """
    unsent, moment = [], time.time()
    with store.writing():
        store.update("agents", agent["id"], seen=moment, heartbeat_at=now(), state="RUNNING")
        store.update("sweeps", agent["sweep_id"], heartbeat_at=now())
        for run in store.runs(lifecycle.LIVE, agent_id=agent["id"]):
            if run["name"] in reported:
                columns = {"seen": moment, "missing": None, "assigned_by": SERVER_INSTANCE}
                store.update("runs", run["id"], **columns)
            elif run["state"] == "pending" and run["assigned_by"] != SERVER_INSTANCE:
                store.update("runs", run["id"], seen=moment, assigned_by=SERVER_INSTANCE)
                unsent.append(run)
            elif run["missing"] is None:
                store.update("runs", run["id"], missing=moment)
            elif run["stopped"] or moment - run["missing"] > SECONDS_TO_FINISH:
                lifecycle.end(store, run, exitcode=None)
    return unsent


def _stop_commands(store: Store, agent: Row, reported: set[str]) -> list[Command]:
    """One command for each reported run that was asked to stop."""
    asked = store.all("SELECT name FROM runs WHERE agent_id = ? AND stopped = 1", agent["id"])
    return [{"type": "stop", "run_id": run["name"]} for run in asked if run["name"] in reported]


def _commands_when_idle(context: Context, agent: Row) -> list[Command]:
    """Starts the next run, or stops the agent if its sweep is over; else nothing."""
    store = context.store
    sweep = store.row("sweeps", agent["sweep_id"])
    if sweep["state"] in ("RUNNING", "FINISHED"):
        run = _next_run(context, sweep)
        if run is not None:
            _assign(store, run, agent)
            return [_start_command(run, config_of(sweep["config"]))]
        lifecycle.settle(store, sweep["id"])
        sweep = store.row("sweeps", sweep["id"])
    if sweep["state"] in ("FINISHED", "CANCELED"):
        store.update("agents", agent["id"], state="FINISHED")
        for run in store.runs(lifecycle.STARTED, agent_id=agent["id"]):
            lifecycle.end(store, run, exitcode=None)  # no later heartbeat could do it
        return [{"type": "exit"}]
    return []


def _assign(store: Store, run: Row, agent: Row) -> None:
    lifecycle.change(
        store,
        run["id"],
        state="pending",
        agent_id=agent["id"],
        queued=None,
        attempts=run["attempts"] + 1,
        assigned_by=SERVER_INSTANCE,
        seen=time.time(),
    )


def _start_command(run: Row, config: SweepConfig) -> Command:
    """The command that starts or resumes a run. W&B's agent treats `run` and `resume` alike."""
    values = json.loads(run["config"])
    arguments = chosen_values(config, values)
    if not arguments:  # a scheduler's run may have names that the sweep's YAML does not list
        arguments = {name: value for name, value in values.items() if not name.startswith("_")}
    return {
        "type": "resume" if run["state"] == "preempted" else "run",
        "run_id": run["name"],
        "program": config.get("program", ""),
        "args": arguments,
    }


def _next_run(context: Context, sweep: Row) -> Row | None:
    """The run with the longest wait in the queue, else a new run that the search proposes, or None.

    Sets the sweep to FINISHED if its target is reached, and to exhausted if nothing is left to try.
    """
    store, config = context.store, config_of(sweep["config"])
    waiting = lifecycle.queue(store, sweep["id"])
    if waiting:
        return waiting[0]
    is_over = sweep["state"] == "FINISHED" or sweep["exhausted"]
    if is_over or config["method"] == "custom" or has_local_controller(config):
        return None
    if context.search.target_reached(sweep):
        lifecycle.set_sweep_state(store, sweep["id"], "FINISHED")
        return None
    values = None if is_capped(store, sweep) else context.search.suggest(sweep)
    if values is None:
        store.update("sweeps", sweep["id"], exhausted=1)
        return None
    return store.named("runs", sweep["project_id"], enqueue(store, sweep, values))


def reap(store: Store, lost_after: float, since: float) -> None:
    """Marks agents and runs as lost after `lost_after` seconds without a request from them.

    Args:
        store: the store.
        lost_after: seconds.
        since: when the server began to receive requests, in seconds since 1970. Nothing is marked
            within `lost_after` seconds of it, because no request could arrive before.
    """
    limit = time.time() - lost_after
    if since > limit:
        return
    with store.writing():
        for agent in store.all("SELECT * FROM agents WHERE state = 'RUNNING' AND seen < ?", limit):
            logger.warning("agent %s on %s is lost", agent["name"], agent["host"])
            store.update("agents", agent["id"], state="LOST")
        for run in store.runs(lifecycle.LIVE, queued=None):
            if run["seen"] < limit:
                _lose(store, run)


def _lose(store: Store, run: Row) -> None:
    """Puts a run that was never started back into the queue; ends any other run.

    A pending run without an agent is left alone: a client has created it to start it later.
    """
    if run["state"] != "pending":
        logger.warning("run %s is lost", run["name"])
        lifecycle.end(store, run, exitcode=None)
    elif run["agent_id"] is None:
        return
    elif run["attempts"] < MAX_ASSIGNMENTS:
        logger.warning("run %s was not started; another agent will start it", run["name"])
        lifecycle.give_back(store, run)
    else:
        logger.warning("run %s is lost: %d agents did not start it", run["name"], run["attempts"])
        lifecycle.end(store, run, exitcode=None)


def agents(source: Row, info: Info) -> pages.Connection:
    """All agents of a sweep, oldest first."""
    sql = "SELECT * FROM agents WHERE sweep_id = ? ORDER BY id"
    return pages.one_page(info.context.store.all(sql, source["id"]))


def agent(source: Row, info: Info, agentName: str) -> Row | None:  # noqa: N803  the schema's name
    """The agent of a sweep with this name or id, or None."""
    sql = "SELECT * FROM agents WHERE sweep_id = ? AND (name = ? OR id = ?)"
    return info.context.store.one(sql, source["id"], agentName, agentName.rpartition(":")[2])


def agent_runs(
    source: Row,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    **_other: object,  # last, before and order: W&B's client does not use them
) -> pages.Connection:
    """A page of an agent's runs, oldest first."""
    sql = f"{SELECT_RUNS} WHERE r.agent_id = ? ORDER BY r.id"
    return pages.selected(info.context.store, sql, source["id"], first=first, after=after)


def run_count(source: Row, info: Info) -> int:
    """How many runs were assigned to an agent."""
    sql = "SELECT COUNT(*) FROM runs WHERE agent_id = ?"
    count: int = info.context.store.value(sql, source["id"])
    return count


RESOLVERS: Resolvers = {
    "Sweep": {"agent": agent, "agents": agents},
    "Agent": {"id": partial(id_of, "Agent"), "totalRuns": run_count, "runs": agent_runs},
    "Mutation": {"createAgent": create_agent, "agentHeartbeat": heartbeat},
}

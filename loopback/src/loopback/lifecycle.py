"""How runs and sweeps change state, in one place.

pending -> running -> finished | failed | killed (asked to stop) | crashed (vanished) | preempted (goes back to the queue).
"""

# ruff: noqa: S608  (table and column names are our own words; every value goes through a ?)

import time

from loopback.store import Store, now

LIVE = ("pending", "running", "preempting")
ENDED = ("finished", "failed", "killed", "crashed")
UNSETTLED = "(state IN ('pending', 'running', 'preempting') OR queued IS NOT NULL)"  # a sweep with such a run goes on


def change(store: Store, run_id: int, **columns) -> None:
    """Changes a run and stamps the change, so that the search notices it."""
    with store.writing():
        store.update("runs", run_id, **columns, version=store.tick(), updated_at=now())


def begin(store: Store, run: dict) -> None:
    """A process has opened the run: a new, waiting, preempted or lost one runs (again)."""
    if run["state"] in ("running", "preempting"):
        return  # the same process speaks again; preempting must survive until it exits
    change(
        store,
        run["id"],
        state="running",
        exitcode=None,
        stopped=0,
        queued=None,
        missing=None,
        seen=time.time(),
    )


def end(store: Store, run: dict, exitcode: int) -> None:
    """The run's process has said its last word and exits with `exitcode`."""
    if exitcode == 0:
        state = "finished"
    elif run["stopped"]:
        state = "killed"
    elif run["state"] == "preempting":
        return requeue(store, run, exitcode)
    else:
        state = "failed"
    change(store, run["id"], state=state, exitcode=exitcode, missing=None)
    settle(store, run["sweep_id"])


def requeue(store: Store, run: dict, exitcode: int | None = None) -> None:
    """A preempted run of a sweep waits for the next free agent, which goes on with it under the same id."""
    queued = time.time() if run["sweep_id"] else None
    change(
        store,
        run["id"],
        state="preempted",
        exitcode=exitcode,
        agent_id=None,
        queued=queued,
        missing=None,
    )


def lose(store: Store, run: dict) -> None:
    """The run's process is gone without a word."""
    if run["state"] == "preempting" and not run["stopped"]:
        return requeue(store, run)
    state = "failed" if run["state"] == "pending" else "killed" if run["stopped"] else "crashed"
    change(store, run["id"], state=state, missing=None)
    settle(store, run["sweep_id"])


def give_back(store: Store, run: dict) -> None:
    """The agent that was told to start the run is gone before it did: the run waits for another one."""
    change(store, run["id"], state="pending", agent_id=None, queued=time.time(), missing=None)


def follow_clock(store: Store) -> None:
    """Sets moments that lie in the future, because the clock was set back, to the present."""
    columns = {"agents": ("seen",), "runs": ("seen", "missing", "queued")}
    moment = time.time()
    for table, names in columns.items():
        for name in names:
            if store.value(f"SELECT 1 FROM {table} WHERE {name} > ? LIMIT 1", moment + 1):
                store.write(f"UPDATE {table} SET {name} = ? WHERE {name} > ?", moment, moment)


def ask_to_stop(store: Store, run_ids: list[int]) -> None:
    """The runs' agents, and the runs themselves, will hear of it with their next sign of life."""
    with store.writing():
        for run_id in run_ids:
            change(store, run_id, stopped=1)


def set_sweep_state(store: Store, sweep_id: int, state: str, drain: bool = False) -> None:
    """RUNNING, PAUSED, FINISHED (no new runs) or CANCELED (and stop those that run).

    What waits in the queue of a finished sweep will not be begun, unless the queue is to `drain`.
    """
    with store.writing():
        store.update("sweeps", sweep_id, state=state, updated_at=now())
        if state == "CANCELED":
            sql = "SELECT id FROM runs WHERE sweep_id = ? AND state IN ('pending', 'running', 'preempting')"
            ask_to_stop(store, [row["id"] for row in store.all(sql, sweep_id)])
        if state == "CANCELED" or (state == "FINISHED" and not drain):
            sql = "SELECT id, state FROM runs WHERE sweep_id = ? AND queued IS NOT NULL"
            for row in store.all(sql, sweep_id):
                left = "killed" if row["state"] == "pending" else row["state"]
                change(store, row["id"], state=left, queued=None)


def settle(store: Store, sweep_id: int | None) -> None:
    """A sweep whose search is exhausted is finished when its last run is."""
    if sweep_id is None:
        return
    with store.writing():
        sweep = store.one("SELECT state, exhausted FROM sweeps WHERE id = ?", sweep_id)
        unsettled = store.value(
            f"SELECT COUNT(*) FROM runs WHERE sweep_id = ? AND {UNSETTLED}", sweep_id
        )
        if sweep["state"] == "RUNNING" and sweep["exhausted"] and not unsettled:
            set_sweep_state(store, sweep_id, "FINISHED")


def search_again(store: Store, sweep_id: int | None) -> None:
    """Asks the search of an exhausted sweep again, because its configuration or its runs have changed.

    If the sweep was FINISHED for that reason, it is RUNNING again; one that somebody has stopped stays as it is.
    """
    if sweep_id is None:
        return
    with store.writing():
        sql = "SELECT state FROM sweeps WHERE id = ? AND exhausted = 1"
        state = store.value(sql, sweep_id)
        store.update("sweeps", sweep_id, exhausted=0)
        if state == "FINISHED":
            set_sweep_state(store, sweep_id, "RUNNING")

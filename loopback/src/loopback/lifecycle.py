"""How runs and sweeps change state. Nothing else writes these columns.

A run is `pending` until a process opens it, then `running`. It ends as

- `finished`: exit code 0,
- `failed`: another exit code, or never opened,
- `killed`: it was asked to stop,
- `crashed`: its process disappeared,
- `preempted`: its machine was taken back. In a sweep it waits in the queue for another agent.
"""

# ruff: noqa: S608  (table and column names come from this program; every value is bound with a ?)

import time
from collections.abc import Iterable

from loopback.store import Row, Store, now

LIVE = ("pending", "running", "preempting")
STARTED = ("running", "preempting")
OTHER = "any other state"
RUN_TRANSITIONS = {  # (how the process ended, run was asked to stop): {state before: state after}
    ("succeeded", False): {OTHER: "finished"},
    ("succeeded", True): {OTHER: "finished"},
    ("failed", False): {"preempting": "preempted", OTHER: "failed"},
    ("failed", True): {OTHER: "killed"},
    ("disappeared", False): {
        "pending": "failed",
        "preempting": "preempted",
        OTHER: "crashed",
    },
    ("disappeared", True): {"pending": "failed", OTHER: "killed"},
}


def change(store: Store, run_id: int, **columns: object) -> None:
    """Sets columns of a run and gives it a new version, by which the search finds the change."""
    with store.writing():
        store.update("runs", run_id, **columns, version=store.next_version(), updated_at=now())


def begin(store: Store, run: Row) -> None:
    """Sets a run to running, because a process has opened it.

    A run that is preempting stays so until its process exits: W&B's client opens the run once more
    at its end.
    """
    if run["state"] in STARTED:
        return
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


def end(store: Store, run: Row, exitcode: int | None) -> None:
    """Sets a run to the state of RUN_TRANSITIONS. `exitcode` is None if its process disappeared."""
    how = "disappeared" if exitcode is None else "failed" if exitcode else "succeeded"
    after = RUN_TRANSITIONS[how, bool(run["stopped"])]
    state = after.get(run["state"], after[OTHER])
    columns: dict[str, object] = {"state": state, "exitcode": exitcode, "missing": None}
    if state == "preempted":
        columns |= {"agent_id": None, "queued": time.time() if run["sweep_id"] else None}
    change(store, run["id"], **columns)
    settle(store, run["sweep_id"])


def give_back(store: Store, run: Row) -> None:
    """Puts a run back into its sweep's queue, because its agent disappeared before starting it."""
    change(store, run["id"], state="pending", agent_id=None, queued=time.time(), missing=None)


def queue(store: Store, sweep_id: int) -> list[Row]:
    """The runs that wait for an agent, longest wait first: pending or preempted."""
    sql = "SELECT * FROM runs WHERE sweep_id = ? AND queued IS NOT NULL ORDER BY queued"
    return store.all(sql, sweep_id)


def follow_clock(store: Store) -> None:
    """Sets times that lie in the future to the present. They occur when the clock was set back."""
    columns = {"agents": ("seen",), "runs": ("seen", "missing", "queued")}
    moment = time.time()
    for table, names in columns.items():
        for name in names:
            if store.value(f"SELECT 1 FROM {table} WHERE {name} > ? LIMIT 1", moment + 1):
                store.write(f"UPDATE {table} SET {name} = ? WHERE {name} > ?", moment, moment)


def ask_to_stop(store: Store, run_ids: Iterable[int]) -> None:
    """Asks runs to stop. They and their agents learn it from the answer to their next request."""
    with store.writing():
        for run_id in run_ids:
            change(store, run_id, stopped=1)


def set_sweep_state(store: Store, sweep_id: int, state: str, drain: bool = False) -> None:
    """Sets a sweep to RUNNING, PAUSED, FINISHED or CANCELED.

    Args:
        store: the store.
        sweep_id: the sweep's row id.
        state: FINISHED starts no new runs; CANCELED also asks the live runs to stop.
        drain: whether agents still run what is in the queue of a FINISHED sweep.
    """
    with store.writing():
        store.update("sweeps", sweep_id, state=state, updated_at=now())
        if state == "CANCELED":
            ask_to_stop(store, [run["id"] for run in store.runs(LIVE, sweep_id=sweep_id)])
        if state == "CANCELED" or (state == "FINISHED" and not drain):
            for run in queue(store, sweep_id):
                left = "killed" if run["state"] == "pending" else run["state"]
                change(store, run["id"], state=left, queued=None)


def settle(store: Store, sweep_id: int | None) -> None:
    """Sets a running sweep to FINISHED if its search is exhausted and no run is live or queued."""
    if sweep_id is None:
        return
    with store.writing():
        sweep = store.row("sweeps", sweep_id)
        if sweep["state"] != "RUNNING" or not sweep["exhausted"]:
            return
        if not store.runs(LIVE, sweep_id=sweep_id) and not queue(store, sweep_id):
            set_sweep_state(store, sweep_id, "FINISHED")


def search_again(store: Store, sweep_id: int | None) -> None:
    """Marks a sweep's search as not exhausted, because its configuration or its runs have changed.

    If the sweep was FINISHED only because the search was exhausted, it becomes RUNNING. A sweep
    that somebody has stopped keeps its state.
    """
    if sweep_id is None:
        return
    with store.writing():
        sweep = store.row("sweeps", sweep_id)
        store.update("sweeps", sweep_id, exhausted=0)
        if sweep["exhausted"] and sweep["state"] == "FINISHED":
            set_sweep_state(store, sweep_id, "RUNNING")

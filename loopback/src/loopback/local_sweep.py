"""Runs a whole sweep with one command on this machine; run again, the command resumes the sweep."""

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from loopback import progress
from loopback.client import AskError
from loopback.daemon import Server, environment, read_json, write_json
from loopback.errors import UserError
from loopback.store import DEFAULT_PROJECT
from loopback.supervise import POLL_SECONDS, Supervisor, Worker, agent_workers

QUIET_FACTOR = 5  # sleep this many times longer than a poll of the sweep took
MAX_FAILED = 5  # failed runs, with no good one, after which the sweep is given up
LEFTOVER_SECONDS = 60.0  # within which the agents of a killed command end
STAGGER = 1.0  # seconds between the starts of two agents
LAST_LINES, TRACEBACK_LINES = 10, 15  # of an agent's log in an error message
CLIENT_LINE = re.compile(r"---|wandb: |\t|\S+ \S+ - wandb\.")  # in an agent's log, not by a script
SWEEP_PATH = re.compile(r"wandb agent '?([^\s'/]+/[^/\n]+/[a-z0-9]+)")  # printed by `wandb sweep`


@dataclass
class Plan:
    """What `loopback sweep` is to do.

    Attributes:
        file: the sweep's YAML.
        config: its content.
        agents: number of agents.
        count: most runs in this command, all agents together; None for no limit.
        project: from the command line.
        new: register the sweep again, even if it is known.
        gpus: values of CUDA_VISIBLE_DEVICES for the agents.
    """

    file: Path
    config: dict[str, Any]
    agents: int
    count: int | None
    project: str | None
    new: bool
    gpus: list[str | None]


def register(server: Server, plan: Plan) -> tuple[str, bool]:
    """Finds the sweep that was registered with the same content before, or registers a new one.

    Returns:
        ENTITY/PROJECT/SWEEP, and whether the sweep is new.

    Raises:
        UserError: W&B's client refuses the file; the message quotes it.
    """
    file = server.folder / "sweeps.json"
    paths = read_json(file, str, "remove it to start each sweep as a new one")
    project = plan.project or plan.config.get("project") or DEFAULT_PROJECT
    content = json.dumps([project, plan.config], sort_keys=True, default=str)
    digest = hashlib.sha256(content.encode()).hexdigest()
    known_path = None if plan.new else paths.get(digest)
    if known_path is not None:
        known = progress.read(server.url, server.key, known_path)
        if known is not None and known.state != "CANCELED":
            return known_path, False
    command = [sys.executable, "-m", "wandb", "sweep", "--project", project, str(plan.file)]
    done = subprocess.run(command, env=environment(server), capture_output=True, text=True)
    output = done.stdout + done.stderr
    printed = SWEEP_PATH.search(output)
    if done.returncode or printed is None:
        last_line = (output.strip() or "it does not say why").splitlines()[-1]
        raise UserError(f"{plan.file} is refused by W&B's client: {last_line}")
    write_json(file, paths | {digest: printed[1]})
    return printed[1], True


def workers(server: Server, plan: Plan, path: str, locks: tuple[int, ...]) -> list[Worker]:
    """The processes of a sweep: the scheduler or controller that its file names, then the agents.

    Each inherits the locked files `locks`.
    """
    base, logs = environment(server, plan.project), _logs(server, path)
    commands = {}
    if plan.config.get("scheduler"):
        options = ["--batch-size", str(plan.agents), "--poll-interval", "2"]
        commands["scheduler"] = ["-m", "wandb", "sweep-scheduler", *options, path]
    if (plan.config.get("controller") or {}).get("type") == "local":
        entity, project, name = path.split("/")
        code = f"wandb.controller({name!r}, entity={entity!r}, project={project!r}).run()"
        commands["controller"] = ["-c", f"import wandb; {code}"]
    found = [
        Worker(name, [sys.executable, *arguments], base, logs / f"{name}.log")
        for name, arguments in commands.items()
    ]
    found += agent_workers(path, plan.agents, plan.gpus, plan.count, STAGGER, logs, base)
    for worker in found:
        worker.inherited_locks = locks
    return found


class Watch:
    """The newest known state of a sweep on the local server."""

    def __init__(self, server: Server, sweep: progress.Sweep) -> None:
        self._server, self.sweep = server, sweep
        self._ended_before = sweep.ended()

    def refresh(self) -> progress.Sweep:
        """The sweep's state now; the last known one while the server is being restarted."""
        try:
            newest = progress.read(self._server.url, self._server.key, self.sweep.path)
        except AskError:
            newest = None
        self.sweep = newest or self.sweep
        return self.sweep

    def is_over(self) -> bool:
        """Whether the sweep is over now."""
        return self.refresh().over

    @property
    def new_runs(self) -> list[progress.Run]:
        """The runs that had not ended when the watch began."""
        return [run for run in self.sweep.runs if run.name not in self._ended_before]


def run(server: Server, plan: Plan) -> progress.Sweep:
    """Runs the sweep until it is over or its agents have ended; returns its last state.

    Raises:
        KeyboardInterrupt: after the agents and their runs have been ended.
        UserError: no run succeeded: none of those that this command ran, or none at all if it ran
            no run.
    """
    path, new = register(server, plan)
    sweep = progress.read(server.url, server.key, path)
    if sweep is None:
        raise UserError(f"sweep {path} was deleted while it was read; run the command again")
    if sweep.over:
        click.echo(f"sweep {path}: it is finished; --new runs it as a new sweep", err=True)
        if not _any_succeeded(sweep.runs):
            logs = _logs(server, path)
            raise UserError(f"no run of {path} succeeded; the logs of its agents are in {logs}")
        return sweep
    click.echo(f"{'running' if new else 'resuming'} sweep {path}", err=True)
    watch = Watch(server, sweep)
    locks = _lock(server.folder, path)
    supervisor = Supervisor(workers(server, plan, path, locks), watch.is_over)
    try:
        _supervise(server, plan, supervisor, watch)
    finally:
        supervisor.shut_down()
        for descriptor in locks:
            os.close(descriptor)
    sweep = watch.refresh()
    if not _any_succeeded(watch.new_runs or sweep.runs):
        raise UserError(f"no run of {path} succeeded; {_last_output(supervisor)}")
    return sweep


def _supervise(server: Server, plan: Plan, supervisor: Supervisor, watch: Watch) -> None:
    """Keeps server and workers running and shows progress, until the sweep is over.

    Raises:
        UserError: it cannot succeed; see `_check_can_succeed`.
    """
    display = progress.Display(plan.agents, plan.count)
    try:
        while supervisor.busy:
            started = time.monotonic()
            server.ensure()
            supervisor.poll()
            sweep = watch.refresh()
            display.show(sweep)
            if sweep.over and not _any_agent_running(supervisor):
                return
            _check_can_succeed(supervisor, watch.new_runs)
            time.sleep(max(POLL_SECONDS, QUIET_FACTOR * (time.monotonic() - started)))
    finally:
        display.close()


def _lock(store: Path, path: str) -> tuple[int, int]:
    """Locks the store's `users` (keeps the server up) and the sweep (one command at a time).

    Waits for the agents of a command that was killed.

    Returns:
        Descriptors for the agents to inherit.

    Raises:
        UserError: another command runs the sweep.
    """
    users = os.open(store / "users", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_SH)
    lock = os.open(store / f"sweep-{path.rpartition('/')[2]}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline, announced = time.monotonic() + LEFTOVER_SECONDS, False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return users, lock
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                problem = f"another command runs {path}"
                raise UserError(f"{problem}; wait for it, or stop it with Ctrl-C there") from error
        if not announced:
            click.echo("waiting for the agents of another command to end", err=True)
            announced = True
        time.sleep(POLL_SECONDS)


def _any_succeeded(runs: list[progress.Run]) -> bool:
    return any(run.state in ("finished", "stopped") for run in runs)


def _logs(server: Server, path: str) -> Path:
    """The folder with the logs of a sweep's agents."""
    return server.folder / "logs" / path.rpartition("/")[2]


def _last_output(supervisor: Supervisor) -> str:
    """The path of the first agent's log, and the traceback or last output of its scripts."""
    worker = next(worker for worker in supervisor.workers if worker.name.startswith("agent"))
    start = worker.output.rfind("Traceback")
    if start >= 0:
        lines = worker.output[start:].splitlines()[:TRACEBACK_LINES]
    else:
        lines = [line for line in worker.output.splitlines() if not CLIENT_LINE.match(line)]
        lines = lines[-LAST_LINES:]
    return "\n".join([f"{worker.log} ends with:", *lines])


def _check_can_succeed(supervisor: Supervisor, runs: list[progress.Run]) -> None:
    """UserError if a worker crashes at every start, or all of `runs` fail."""
    for worker in supervisor.failed:
        problem = f"{worker.name} crashed {worker.crashes} times in a row"
        raise UserError(f"{problem}; its log is {worker.log}")
    many_failed = sum(run.state == "failed" for run in runs) >= MAX_FAILED
    # W&B's agent exits with code 0 when its first runs fail.
    agent_gave_up = any(worker.crashes and worker.exit_code == 0 for worker in supervisor.workers)
    none_logged = not any(run.rows for run in runs)
    if (many_failed or (agent_gave_up and none_logged)) and not _any_succeeded(runs):
        raise UserError(f"all of the first runs failed; {_last_output(supervisor)}")


def _any_agent_running(supervisor: Supervisor) -> bool:
    """Whether an agent runs; a scheduler without agents has nothing to do."""
    return any(
        worker.state == "running" and worker.name.startswith("agent")
        for worker in supervisor.workers
    )

"""Keeps agents running: starts them one after the other, restarts those that crash, ends them.

Each agent is a process with its own log and its own value of CUDA_VISIBLE_DEVICES.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loopback.errors import UserError

POLL_SECONDS = 1.0  # between two calls of Supervisor.poll
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds before a restart; doubled with every crash
STABLE_SECONDS = 600.0  # after running this long, a crash counts as the first in a row
MAX_CRASHES = 6  # in a row; by then the cause is the program, and a restart will not help
REPEAT_SECONDS = 2.0  # a second signal within this time is the same request to end
INTERRUPT_PAUSE = 1.0  # seconds between the first interrupt (no new runs) and the second (end runs)
SAVE_SECONDS = 90.0  # for runs to save their state, between SIGTERM and SIGKILL


@dataclass
class Worker:
    """One process that is kept running until the sweep is over: an agent, scheduler or controller.

    Attributes:
        name: as messages call it, such as "agent 0".
        log: file to which the output of all its starts is appended.
        limited: it ends by itself after its share of runs, and is then not started again.
        start_delay: seconds until its first start.
        inherited_locks: descriptors of locked files; they stay locked until the process has ended.
        crashes: in a row, each sooner than STABLE_SECONDS after its start.
        next_start: on the clock of time.monotonic().
        log_start: size of the log in bytes before the first start.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    limited: bool = False
    start_delay: float = 0.0
    inherited_locks: tuple[int, ...] = ()
    state: Literal["waiting", "running", "ended", "failed"] = "waiting"
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    crashes: int = 0
    next_start: float = 0.0
    log_start: int | None = None

    def start(self) -> None:
        """Starts the process in its own session: Ctrl-C at the terminal reaches only us."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            if self.log_start is None:
                self.log_start = log.tell()
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(self.command)}\n")
            log.flush()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "loopback.keeper", *self.command],
                env=self.environment,
                stdin=subprocess.PIPE,  # the kernel closes it when we are killed
                pass_fds=self.inherited_locks,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started, self.state = time.monotonic(), "running"

    @property
    def alive(self) -> bool:
        """Whether the process itself runs; processes that it started may outlive it."""
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of its last start; None before the first one and while it runs."""
        return self.process.poll() if self.process else None

    @property
    def output(self) -> str:
        """What the process has written to its log in all its starts."""
        if self.log_start is None:
            return ""
        return self.log.read_bytes()[self.log_start :].decode(errors="replace")

    def poll(self, is_over: Callable[[], bool]) -> None:
        """Starts the process when it is time, and decides what to do when it has ended."""
        if self.state == "waiting" and time.monotonic() >= self.next_start:
            if self.crashes and is_over():
                self.state = "ended"
            else:
                self.start()
        elif self.state == "running" and not self.alive and not self.leftovers():
            if (self.limited and self.exit_code == 0) or is_over():
                self.state = "ended"
            else:
                self.crashed()

    def crashed(self) -> None:
        """Plans the next start, or none after MAX_CRASHES crashes in a row."""
        stable = time.monotonic() - self.started > STABLE_SECONDS
        self.crashes = 1 if stable else self.crashes + 1
        pause = min(FIRST_PAUSE * 2 ** (self.crashes - 1), LONGEST_PAUSE)
        self.next_start = time.monotonic() + pause
        self.state = "failed" if self.crashes >= MAX_CRASHES else "waiting"

    def leftovers(self) -> list[int]:
        """Ids of the processes that this one has started and that still run."""
        return session_children(self.process.pid) if self.process else []

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process if it runs."""
        if self.process is not None and self.alive:
            self.process.send_signal(number)


class Supervisor:
    """The workers of one command. Call `poll` about once per second, and `shut_down` at the end."""

    def __init__(self, workers: list[Worker], is_over: Callable[[], bool]) -> None:
        """`is_over()` says whether the sweep is over: then a worker that ends is not restarted."""
        self.workers, self._is_over = workers, is_over
        for worker in workers:
            worker.next_start = time.monotonic() + worker.start_delay

    def poll(self) -> None:
        """Starts the workers whose time has come, and handles those that have ended."""
        for worker in self.workers:
            worker.poll(self._is_over)

    @property
    def busy(self) -> bool:
        """Whether a worker runs or will be started."""
        return any(worker.state in ("waiting", "running") for worker in self.workers)

    @property
    def failed(self) -> list[Worker]:
        """Workers that crashed too often and are not restarted."""
        return [worker for worker in self.workers if worker.state == "failed"]

    def run(self) -> list[Worker]:
        """Polls until no worker is left; returns those that failed.

        Raises:
            KeyboardInterrupt: after the workers and their runs have been ended.
        """
        try:
            while self.busy:
                self.poll()
                time.sleep(POLL_SECONDS)
        finally:
            self.shut_down()
        return self.failed

    def shut_down(self, timeout: float = SAVE_SECONDS) -> None:
        """Ends all workers and their runs.

        Runs get SIGTERM and up to `timeout` seconds to save their state, then SIGKILL. Another
        Ctrl-C while this waits kills them at once.
        """
        try:
            self._ask_to_end()
            deadline = time.monotonic() + timeout
            while time.monotonic() < deadline and self._any_left():
                time.sleep(0.2)
        finally:
            for worker in self.workers:
                worker.send(signal.SIGKILL)
                send(worker.leftovers(), signal.SIGKILL)

    def _any_left(self) -> bool:
        return any(worker.alive or worker.leftovers() for worker in self.workers)

    def _ask_to_end(self) -> None:
        """Interrupts each worker twice. Runs whose agent was killed get SIGTERM."""
        alive = [worker for worker in self.workers if worker.alive]
        for worker in alive:
            worker.send(signal.SIGINT)
        time.sleep(INTERRUPT_PAUSE if alive else 0)
        for worker in alive:
            worker.send(signal.SIGINT)
        for worker in self.workers:
            if worker not in alive:
                send(worker.leftovers(), signal.SIGTERM)


def agent_workers(
    path: str,
    number: int,
    gpus: list[str | None],
    count: int | None,
    stagger: float,
    logs: Path,
    environment: dict[str, str],
) -> list[Worker]:
    """The `wandb agent` processes of a sweep, not yet started.

    Args:
        path: ENTITY/PROJECT/SWEEP.
        number: how many agents; fewer if `count` is smaller.
        gpus: values of CUDA_VISIBLE_DEVICES, given to the agents in turn; None leaves it alone.
        count: runs of all agents together; None for no limit.
        stagger: seconds between the starts of two agents.
        logs: folder for one log per agent.
        environment: of every agent.
    """
    workers = []
    for place, share in enumerate(shares(count, number)):
        if share == 0:
            continue
        gpu = gpus[place % len(gpus)]
        command = [sys.executable, "-m", "wandb", "agent"]
        command += [path] if share is None else ["--count", str(share), path]
        workers.append(
            Worker(
                name=f"agent {place}",
                command=command,
                environment=environment
                if gpu is None
                else {**environment, "CUDA_VISIBLE_DEVICES": gpu},
                log=logs / f"agent-{place}.log",
                limited=share is not None,
                start_delay=place * stagger,
            )
        )
    return workers


def interruptible() -> None:
    """Makes SIGINT, SIGTERM and SIGHUP (a closed terminal) raise a KeyboardInterrupt.

    Signals within REPEAT_SECONDS of each other count once. A command under make or timeout gets
    one request to end as two signals, and the second must not cut the orderly end short.
    """
    last = -REPEAT_SECONDS

    def interrupt(*_: object) -> None:
        nonlocal last
        moment = time.monotonic()
        repeated, last = moment - last < REPEAT_SECONDS, moment
        if not repeated:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def session_children(session: int) -> list[int]:
    """Ids of all processes of a session except its first one; empty where there is no /proc."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process has just ended
        pid, zombie = int(entry.parent.name), fields[0] == "Z"
        if int(fields[3]) == session and pid != session and not zombie:
            pids.append(pid)
    return pids


def send(pids: list[int], number: signal.Signals) -> None:
    """Sends a signal to each process that still exists."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def devices(gpus: str | None) -> list[str | None]:
    """The values of CUDA_VISIBLE_DEVICES to give to the agents; [None] without --gpus.

    Args:
        gpus: indices such as `0,1,3`, or `all`: those in CUDA_VISIBLE_DEVICES, else those that
            nvidia-smi lists.

    Raises:
        UserError: an index is empty, or nvidia-smi lists no GPU.
    """
    if not gpus:
        return [None]
    if gpus != "all":
        listed = [device.strip() for device in gpus.split(",")]
        if not all(listed):
            raise UserError(f"--gpus {gpus!r} has an empty index; list them as in --gpus 0,1")
        return [*listed]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [*(visible.split(",") if visible else _gpus_of_nvidia_smi())]


def _gpus_of_nvidia_smi() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        problem = f"--gpus all needs nvidia-smi, which failed: {error}"
        raise UserError(f"{problem}; list the GPUs instead, as in --gpus 0,1") from error
    if not done.stdout.split():
        raise UserError("nvidia-smi lists no GPU; leave --gpus out")
    return done.stdout.split()


def shares(count: int | None, number: int) -> list[int | None]:
    """`count` runs divided among `number` agents as evenly as possible; None: no limit."""
    if count is None:
        return [None] * number
    return [count // number + (place < count % number) for place in range(number)]

"""Agents as processes: started one after the other, each with its device and its log, and restarted when they fall."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from loopback.daemon import with_package
from loopback.errors import UserError

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds before a restart; doubled every time
HEALTHY = 600.0  # seconds after which an agent counts as having worked, and its pause starts over
MOST_FALLS = 6  # in a row, each sooner than HEALTHY: then something is wrong with the program, not with the machine
AGAIN = 2.0  # seconds within which a second signal is the first one, passed on by make, timeout or a shell
GAP = 1.0  # seconds between the two interrupts: the first says no further runs, the second ends those that run


@dataclass
class Member:
    """One process that should live until the sweep is over."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    counted: bool = False  # it ends by itself after its share of runs
    delay: float = 0.0  # seconds until its first start
    process: subprocess.Popen | None = None
    started: float = 0.0
    falls: int = 0
    due: float = field(default=0.0)
    state: str = "waiting"  # waiting, alive, done, fallen
    log_start: int | None = None  # bytes in the log before the first start
    held: tuple[
        int, ...
    ] = ()  # locked files (descriptors) that stay locked until the process has ended

    def start(self, cwd: Path | None = None) -> None:
        """Starts the process in a session of its own, so that a Ctrl-C at the terminal reaches only us."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            if self.log_start is None:
                self.log_start = log.tell()
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(self.command)}\n")
            log.flush()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "loopback.keeper", *self.command],
                env=with_package(self.environment),
                cwd=cwd,
                stdin=subprocess.PIPE,  # closed by the kernel when we are killed
                pass_fds=self.held,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started, self.state = time.monotonic(), "alive"

    @property
    def output(self) -> str:
        """What the process wrote to its log, over all its starts."""
        return (
            self.log.read_bytes()[self.log_start :].decode(errors="replace") if self.process else ""
        )

    def fell(self) -> None:
        """Plans the next start, or none after too many falls in a row."""
        self.falls = 1 if time.monotonic() - self.started > HEALTHY else self.falls + 1
        pause = min(FIRST_PAUSE * 2 ** (self.falls - 1), LONGEST_PAUSE)
        self.due = time.monotonic() + pause
        self.state = "fallen" if self.falls >= MOST_FALLS else "waiting"


class Crew:
    """The members of one command. Call `tend` every second or so, `dismiss` at the end."""

    def __init__(self, members: list[Member], over):
        """`over()` tells whether the sweep has ended, so that an agent that ends is not started again."""
        self.members, self._over = members, over
        for member in members:
            member.due = time.monotonic() + member.delay

    def tend(self) -> None:
        """Starts what is due and looks after what has ended."""
        for member in self.members:
            if (
                member.state == "alive"
                and member.process.poll() is not None
                and not orphans(member.process.pid)
            ):
                if (member.counted and member.process.returncode == 0) or self._over():
                    member.state = "done"
                else:
                    member.fell()
            elif member.state == "waiting" and time.monotonic() >= member.due:
                if member.falls and self._over():
                    member.state = "done"
                else:
                    member.start()

    @property
    def busy(self) -> bool:
        """Whether anybody works or will be started again."""
        return any(member.state in ("waiting", "alive") for member in self.members)

    @property
    def fallen(self) -> list[Member]:
        """Those that fell too often."""
        return [member for member in self.members if member.state == "fallen"]

    def dismiss(self, patience: float = 90.0) -> None:
        """Ends all members: their runs get SIGTERM and `patience` seconds to save what they have; then SIGKILL.

        Another Ctrl-C takes the patience away.
        """
        living = [
            member.process
            for member in self.members
            if member.process and member.process.poll() is None
        ]
        sessions = [member.process.pid for member in self.members if member.process]
        try:
            self._ask_to_end(living, sessions)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline and any(orphans(s) for s in sessions) | any(
                p.poll() is None for p in living
            ):
                time.sleep(0.2)
        finally:
            for process in living:
                if process.poll() is None:
                    process.kill()
            for session in sessions:
                send(orphans(session), signal.SIGKILL)

    def _ask_to_end(self, living: list[subprocess.Popen], sessions: list[int]) -> None:
        for number in range(2):
            for process in living:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
            time.sleep(GAP if number == 0 and living else 0)
        for session in sessions:  # a run whose agent was killed is still ours to end
            if session not in [process.pid for process in living]:
                send(orphans(session), signal.SIGTERM)


def interruptible() -> None:
    """Makes SIGINT, SIGTERM and SIGHUP (a closed terminal) a KeyboardInterrupt.

    Signals that come within AGAIN seconds of each other count once.

    A command run by make or under timeout gets one wish to end as two signals; the second must not cut the orderly end short.
    """
    last = -AGAIN

    def wished(*_):
        nonlocal last
        moment = time.monotonic()
        repeated, last = moment - last < AGAIN, moment
        if not repeated:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, wished)


def orphans(session: int) -> list[int]:
    """Processes that a member has started and that outlive it; empty where there is no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[3]) == session and int(entry.parent.name) != session and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def devices(wanted: str | None) -> list[str | None]:
    """The values of CUDA_VISIBLE_DEVICES to hand out: `0,1,3`, or `all` for what nvidia-smi lists; [None] without."""
    if not wanted:
        return [None]
    if wanted != "all":
        listed = [device.strip() for device in wanted.split(",")]
        if not all(listed):
            problem = f"--gpus {wanted!r} names no GPU between two commas"
            raise UserError(f"{problem}; name them: --gpus 0,1")
        return listed
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return visible.split(",")
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.run(
            query, capture_output=True, text=True, check=True, timeout=60
        ).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"--gpus all asks nvidia-smi, which does not answer: {error}; name them: --gpus 0,1"
        ) from error
    if not listed:
        raise UserError("nvidia-smi lists no GPU; leave --gpus out")
    return listed


def shares(count: int | None, number: int) -> list[int | None]:
    """`count` runs divided among `number` agents as evenly as possible; None for each where there is no limit."""
    if count is None:
        return [None] * number
    return [count // number + (place < count % number) for place in range(number)]

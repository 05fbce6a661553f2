"""Runs one agent, and ends it when the command that started it is gone: `python -m loopback.keeper COMMAND ...`.

Standard input is a pipe that nothing is written to. It closes when its other end does, even after kill -9 of that
process. The agent then gets two interrupts (no further runs; end those that run), and after LAST_SECONDS a kill.
"""

import os
import signal
import subprocess
import sys
import threading
import time

from loopback import supervise

LAST_SECONDS = 35.0  # for runs to save what they have: `wandb agent` itself waits for 30


def end(process: subprocess.Popen, abandoned: threading.Event) -> None:
    """Waits for the pipe to close; then ends the agent and everything that it started."""
    os.read(sys.stdin.fileno(), 1)
    abandoned.set()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(supervise.GAP)
    deadline = time.monotonic() + LAST_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    for number in (signal.SIGTERM, signal.SIGKILL):
        supervise.send(supervise.orphans(os.getsid(0)), number)
        time.sleep(supervise.GAP)


def main() -> None:
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: process.send_signal(received))
    abandoned = threading.Event()
    watcher = threading.Thread(target=end, args=(process, abandoned), daemon=True)
    watcher.start()
    status = process.wait()
    if abandoned.is_set():
        watcher.join()  # the agent has ended; what it started may not have
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()

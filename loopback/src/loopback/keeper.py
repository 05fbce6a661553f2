"""Runs one agent, and ends it when the command that started it has ended.

    python -m loopback.keeper COMMAND ...

Standard input is a pipe to which nothing is written. The kernel closes it when the process at the
other end ends, even by kill -9. The agent then gets two interrupts: the first stops new runs, the
second ends running ones. After SAVE_SECONDS everything that is left is killed.
"""

import os
import signal
import subprocess
import sys
import threading
import time

from loopback import supervise

SAVE_SECONDS = 35.0  # for runs to save their state; `wandb agent` itself waits for 30


def end(process: subprocess.Popen[bytes], abandoned: threading.Event) -> None:
    """Waits until the pipe closes, then ends the agent and all processes that it started."""
    os.read(sys.stdin.fileno(), 1)
    abandoned.set()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(supervise.INTERRUPT_PAUSE)
    deadline = time.monotonic() + SAVE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    for number in (signal.SIGTERM, signal.SIGKILL):
        supervise.send(supervise.session_children(os.getsid(0)), number)
        time.sleep(supervise.INTERRUPT_PAUSE)


def main() -> None:
    """Exits with the command's status: its exit code, or 128 + the signal that ended it."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: process.send_signal(received))
    abandoned = threading.Event()
    watcher = threading.Thread(target=end, args=(process, abandoned), daemon=True)
    watcher.start()
    status = process.wait()
    if abandoned.is_set():
        watcher.join()  # the agent has ended, but its runs may not have
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()

"""Starts TensorFlow without the lines that it prints on every machine.

TensorFlow's C++ libraries write to file descriptor 2 while they are loaded, before they read
TF_CPP_MIN_LOG_LEVEL. Descriptor 2 therefore leads through a filter during that time. The filter is
a process, not a thread: it still prints the last lines of a process that crashes.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOISE = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    b"oneDNN custom operations are on.",
)
"""Parts of lines that say nothing about the machine."""

NOISE_WITHOUT_GPU = (
    b"Could not find cuda drivers on your machine, GPU will not be used.",
    b"failed call to cuInit",
)
"""Parts of lines that only confirm that there is no GPU. On a machine with one they are printed."""

GPU_DEVICES = ("nvidia[0-9]*", "dxg")  # in /dev; dxg is the GPU of Windows, as seen from WSL


@contextmanager
def filtered() -> Iterator[None]:
    """Removes the known lines of TensorFlow's start from standard error; all others are printed.

    Put around the import of TensorFlow and its first look for a GPU. Also hides messages of level
    INFO for the whole process. TF_CPP_MIN_LOG_LEVEL=0 shows everything.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1") == "0" or "tensorflow" in sys.modules:
        yield
        return
    # a separate process group: Ctrl-C must not end the filter while lines are on their way
    command = [sys.executable, "-I", "-S", __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as process:
        assert process.stdin is not None
        stderr = os.dup(2)
        os.dup2(process.stdin.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def main() -> None:
    """Copies standard input to standard error, without the noise."""
    gpu = any(path for pattern in GPU_DEVICES for path in Path("/dev").glob(pattern))
    noise = NOISE if gpu else NOISE + NOISE_WITHOUT_GPU
    for line in sys.stdin.buffer:
        if not any(part in line for part in noise):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


if __name__ == "__main__":
    main()

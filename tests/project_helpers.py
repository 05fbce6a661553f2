"""Where the project lies, and its commands as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NARROW = 4
"""The fewest filters of a U-Net: for tests of what surrounds the training, not of its numbers."""
FEW_STEPS = {
    "PYTHONPATH": os.pathsep.join(
        filter(None, [str(ROOT / "tests" / "quick_start"), os.environ.get("PYTHONPATH")])
    )
}
"""Environment in which train.py does not trace its model; see quick_start/sitecustomize.py."""


def run_module(
    module: str, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m module arguments` at the project's root. The test fails with its output."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done

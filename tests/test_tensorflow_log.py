"""The filter on TensorFlow's start removes known lines only. test_train.py tests it on train.py."""

import os
import subprocess
import sys

from project_helpers import ROOT

from segmentation.tensorflow_log import NOISE

SCRIPT = """
import os
from segmentation.tensorflow_log import filtered

with filtered():
    os.write(2, b"before\\n" + {noise!r} + b"\\nafter\\n")
    {then}
os.write(2, b"outside\\n")
"""


def stderr(then: str, **environment: str) -> list[str]:
    """Lines on standard error of a process that writes a line of noise between two others."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(noise=NOISE[0], then=then)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stderr.splitlines()


def test_only_noise_is_removed_and_the_order_stays():
    assert stderr("pass") == ["before", "after", "outside"]


def test_the_last_lines_of_a_crash_are_printed():
    assert stderr("os.abort()") == ["before", "after"]


def test_an_error_inside_is_raised_and_standard_error_restored():
    lines = stderr("raise SystemExit('end')")
    assert lines == ["before", "after", "end"]


def test_log_level_0_shows_everything():
    noise = NOISE[0].decode()
    assert stderr("pass", TF_CPP_MIN_LOG_LEVEL="0") == ["before", noise, "after", "outside"]

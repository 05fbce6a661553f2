"""reader.py with an account: behind a proxy, and one line for each reason why it fails."""

import sys
import time

import pytest
from project_helpers import ROOT

WRONG = "0" * 40


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            {},
            "could not read sweep loopback/aerial-sweeps/nosuch",
        ),  # the account is reached, through the proxy
        ({"WANDB_API_KEY": WRONG}, "wandb login"),
        ({"WANDB_API_KEY": "short"}, "wandb login"),
        ({"HTTPS_PROXY": "http://127.0.0.1:9"}, "is not reachable"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 is not reachable"),
    ],
    ids=["logged in", "wrong key", "short key", "proxy away", "server away"],
)
def test_a_sweep_that_cannot_be_read_is_an_error_of_one_line(account, tmp_path, extra, words):
    home = tmp_path / "home"
    account.login(home)
    path = "https://forge.coreweave.com/wandb/loopback/aerial-sweeps/sweeps/nosuch"
    command = [sys.executable, "-m", "analysis.best_run", path, "--out", str(tmp_path / "results")]
    started = time.monotonic()
    done = account.run(*command, home=home, PYTHONPATH=str(ROOT), **extra)
    assert time.monotonic() - started < 30  # below 10 s on a quiet machine
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr

"""The command `agents` on an account: each way to log in, and each refusal of the account."""

import sys
import time

import pytest
from account_helpers import (
    Account,
    by_environment,
    by_login,
    by_login_to_a_host,
    by_settings_file,
)

SCRIPT = "import wandb\nwith wandb.init() as run:\n    run.log({'loss': run.config.x})\n"
SWEEP = (
    "program: quick.py\nproject: {project}\nmethod: grid\nparameters: {{x: {{values: [1, 2]}}}}\n"
)


def agents(account: Account, home, path: str, **extra: str):
    return account.run(sys.executable, "-m", "loopback", "agents", path, home=home, **extra)


@pytest.mark.parametrize("log_in", [by_login, by_login_to_a_host, by_environment, by_settings_file])
def test_agents_finish_the_runs_of_the_accounts_sweep(account, tmp_path, log_in):
    home = tmp_path / "home"
    extra = log_in(account, home)
    project = f"agents-{log_in.__name__.replace('_', '-')}"
    (home / "quick.py").parent.mkdir(exist_ok=True)
    (home / "quick.py").write_text(SCRIPT)
    (home / "sweep.yaml").write_text(SWEEP.format(project=project))
    made = account.run(sys.executable, "-m", "wandb", "sweep", "sweep.yaml", home=home, **extra)
    assert made.returncode == 0, made.stderr
    path = made.stderr.rpartition("wandb agent ")[2].split()[0]
    done = agents(account, home, path, **extra)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [run["state"] for run in account.runs(project)] == ["finished", "finished"]


REFUSALS = {
    "wrong key": ({"WANDB_API_KEY": "0" * 40}, ["wandb login"]),
    "short key": ({"WANDB_API_KEY": "short"}, ["wandb login"]),
    "no key": ({}, ["wandb login", "WANDB_API_KEY"]),
    "no network": ({"WANDB_API_KEY": "0" * 40, "HTTPS_PROXY": "http://127.0.0.1:9"}, ["network"]),
    "no such server": (
        {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
        ["http://127.0.0.1:9", "network"],
    ),
    "no such sweep": (
        {"WANDB_API_KEY": "KEY"},
        ["no sweep loopback/nowhere/abcdefgh", "wandb sweep FILE"],
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_of_the_account_is_an_error_of_one_line(account, tmp_path, refusal):
    extra, words = REFUSALS[refusal]
    if extra.get("WANDB_API_KEY") == "KEY":
        extra = {"WANDB_API_KEY": account.key}
    started = time.monotonic()
    done = agents(account, tmp_path, "loopback/nowhere/abcdefgh", **extra)
    assert time.monotonic() - started < 30  # below 10 s on a quiet machine
    assert done.returncode == 1 and "Traceback" not in done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(error) == 1 and all(word in error[0] for word in words), done.stderr
    assert not (tmp_path / "agent-logs").exists()

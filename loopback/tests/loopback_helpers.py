"""A real server for tests, and ways to run the unmodified W&B client against it."""

import json
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest
from loopback.client import ask

from loopback import daemon

TESTS = Path(__file__).parent


class Served:
    """A server process on its own store; `server` has its `url` and `key`."""

    def __init__(self, folder: Path, *options: str):
        self.folder, self.options, self.process = folder, options, None
        self.home = folder / "empty-home"
        self.home.mkdir(parents=True)

    def start(self) -> "Served":
        """Starts the process, at the port used last, and waits until it answers."""
        port = str(daemon.last_port(self.folder))
        command = [
            sys.executable,
            "-m",
            "loopback",
            "serve",
            "--dir",
            self.folder,
            "--port",
            port,
            *self.options,
        ]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while daemon.find(self.folder) is None:
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.1)
        return self

    def log(self) -> str:
        """Everything that the process has printed."""
        return (self.folder / "log").read_text()

    @property
    def server(self) -> daemon.Server:
        return daemon.find(self.folder)

    def kill(self) -> None:
        """Ends the process by SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends the process by Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def health(self) -> dict:
        """The answer of /healthz to a request with the key."""
        shown = {"Authorization": f"Bearer {self.server.key}"}
        request = urllib.request.Request(f"{self.server.url}/healthz", headers=shown)  # noqa: S310  our own server
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310
            return json.load(reply)

    def ask(self, query: str, **variables) -> dict:
        """The `data` of the answer to a GraphQL query."""
        return ask(self.server.url, self.server.key, query, **variables)

    def environment(self, **more: str) -> dict[str, str]:
        """For a process whose W&B client talks to this server, with an empty home."""
        fast = {
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
            "HOME": str(self.home),
        }
        return daemon.environment(self.server) | fast | more

    def python(self, code: str, cwd: Path, *arguments: str, check: bool = True, **more: str):
        """Runs `code` as a script in `cwd`; its W&B client talks to this server."""
        (cwd / "script.py").write_text(textwrap.dedent(code))
        return self.run([sys.executable, "script.py", *arguments], cwd, check=check, **more)

    def run(self, command: list, cwd: Path, check: bool = True, timeout: float = 150, **more: str):
        """The finished process; its output is text. With `check`, it must have succeeded."""
        done = subprocess.run(
            command,
            cwd=cwd,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def sweep(self, yaml: str, cwd: Path, *options: str) -> str:
        """Registers a sweep with `wandb sweep`; returns ENTITY/PROJECT/SWEEP."""
        (cwd / "sweep.yaml").write_text(textwrap.dedent(yaml))
        printed = self.run(["wandb", "sweep", *options, "sweep.yaml"], cwd).stderr
        assert "wandb agent" in printed, printed
        return printed.rpartition("wandb agent ")[2].split()[0]

    def agent(
        self, path: str, cwd: Path, *options: str, poll: float | None = None, **more: str
    ) -> subprocess.Popen:
        """Starts `wandb agent`, which polls for commands every `poll` (5) seconds."""
        command = ["wandb", "agent", *options, path]
        if poll is not None:
            code = (
                "import sys, wandb.wandb_agent as a;"
                "a.Agent.POLL_INTERVAL = float(sys.argv.pop(1));"
                "from wandb.cli.cli import cli; cli()"
            )
            command = [sys.executable, "-c", code, str(poll), *command[1:]]
        log = (cwd / f"agent-{time.monotonic_ns()}.log").open("w")
        environment = self.environment(**{"WANDB_AGENT_DISABLE_FLAPPING": "true"} | more)
        return subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def state(self, path: str) -> dict:
        """The sweep's id, state and runs."""
        entity, project, sweep = path.split("/")
        query = """query State($e: String, $p: String, $s: String!) {
          project(name: $p, entityName: $e) { sweep(sweepName: $s) { id state runs { edges { node {
            name state stopped historyLineCount exitcode config summaryMetrics } } } } } }"""
        found = self.ask(query, e=entity, p=project, s=sweep)["project"]["sweep"]
        return found | {"runs": [edge["node"] for edge in found["runs"]["edges"]]}


def wait_for(condition, seconds: float = 150, every: float = 0.3):
    """The first true value of `condition()`; the test fails after `seconds` without one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(every)
    pytest.fail(f"the condition was not true within {seconds} s")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server for the tests of one module. At the end it must have served every request."""
    server = Served(tmp_path_factory.mktemp("store")).start()
    yield server
    health = server.health()
    server.stop()
    assert health["unknown"] == 0, health["unknown_names"]
    assert "Traceback" not in server.log(), server.log()


@pytest.fixture
def api(served, monkeypatch):
    """wandb.Api that talks to `served`."""
    for name, value in served.environment().items():
        monkeypatch.setenv(name, value)
    import wandb

    return wandb.Api(overrides={"base_url": served.server.url})

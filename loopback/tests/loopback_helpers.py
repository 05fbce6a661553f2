"""A real server for the tests of loopback, and ways to run the real W&B client against it."""

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
    """A server process on a store of its own. Use `daemon.Server`'s `url` and `key` through it."""

    def __init__(self, folder: Path, *options: str):
        self.folder, self.options, self.process = folder, options, None
        self.home = folder / "empty-home"
        self.home.mkdir(parents=True)

    def start(self) -> "Served":
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
        return (self.folder / "log").read_text()

    @property
    def server(self) -> daemon.Server:
        return daemon.find(self.folder)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def health(self) -> dict:
        """What /healthz answers to those who have the key."""
        shown = {"Authorization": f"Bearer {self.server.key}"}
        request = urllib.request.Request(f"{self.server.url}/healthz", headers=shown)  # noqa: S310  our own server
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310
            return json.load(reply)

    def ask(self, query: str, **variables) -> dict:
        return ask(self.server.url, self.server.key, query, **variables)

    def environment(self, **more: str) -> dict[str, str]:
        fast = {
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
            "HOME": str(self.home),
        }
        return daemon.environment(self.server) | fast | more

    def python(self, code: str, cwd: Path, *arguments: str, check: bool = True, **more: str):
        """Runs a script in `cwd` with W&B's client pointed to this server."""
        (cwd / "script.py").write_text(textwrap.dedent(code))
        return self.run([sys.executable, "script.py", *arguments], cwd, check=check, **more)

    def run(self, command: list, cwd: Path, check: bool = True, timeout: float = 150, **more: str):
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
        """Registers a sweep with `wandb sweep`; its ENTITY/PROJECT/SWEEP."""
        (cwd / "sweep.yaml").write_text(textwrap.dedent(yaml))
        said = self.run(["wandb", "sweep", *options, "sweep.yaml"], cwd).stderr
        assert "wandb agent" in said, said
        return said.rpartition("wandb agent ")[2].split()[0]

    def agent(
        self, path: str, cwd: Path, *options: str, poll: float | None = None, **more: str
    ) -> subprocess.Popen:
        """Starts `wandb agent`; with `poll`, it looks for commands that often instead of every 5 seconds."""
        command = ["wandb", "agent", *options, path]
        if poll is not None:
            code = "import sys, wandb.wandb_agent as a; a.Agent.POLL_INTERVAL = float(sys.argv.pop(1));"
            command = [
                sys.executable,
                "-c",
                f"{code} from wandb.cli.cli import cli; cli()",
                str(poll),
                *command[1:],
            ]
        log = (cwd / f"agent-{time.monotonic_ns()}.log").open("w")
        environment = self.environment(**{"WANDB_AGENT_DISABLE_FLAPPING": "true"} | more)
        return subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def state(self, path: str) -> dict:
        """The sweep: its state, and its runs with their state, rows and whether they were asked to stop."""
        entity, project, sweep = path.split("/")
        query = """query State($e: String, $p: String, $s: String!) { project(entityName: $e, name: $p) {
            sweep(sweepName: $s) { id state runs { edges { node {
                name state stopped historyLineCount exitcode config summaryMetrics } } } } } }"""
        found = self.ask(query, e=entity, p=project, s=sweep)["project"]["sweep"]
        return found | {"runs": [edge["node"] for edge in found["runs"]["edges"]]}


def wait_for(condition, seconds: float = 150, every: float = 0.3):
    """The first true value of `condition()`; the test fails if none comes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(every)
    pytest.fail(f"nothing came of it in {seconds} s")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server for the tests of one module; at its end it must not have been asked for anything unknown."""
    server = Served(tmp_path_factory.mktemp("store")).start()
    yield server
    health = server.health()
    server.stop()
    assert health["unknown"] == 0, health["unknown_names"]
    assert "Traceback" not in server.log(), server.log()


@pytest.fixture
def api(served, monkeypatch):
    """wandb.Api, pointed to the server."""
    for name, value in served.environment().items():
        monkeypatch.setenv(name, value)
    import wandb

    return wandb.Api(overrides={"base_url": served.server.url})

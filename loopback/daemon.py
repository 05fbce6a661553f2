"""Finding the server of a store, or starting it; it ends by itself when the last command that uses it has ended.

Who uses a store holds a shared lock on its file `users`. A server that was started for them ends as soon as it can
take that lock for itself, so nobody has to be told, and nothing is left behind when a command is killed.
"""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loopback.store import ENTITY

PATIENCE = 60.0  # seconds until a server that was started must answer


class ServerError(Exception):
    """The server of a store cannot be reached or started."""


@dataclass
class Server:
    """A server that answers at `url` for the store in `folder`."""

    folder: Path
    url: str

    @property
    def key(self) -> str:
        return (self.folder / "key").read_text().strip()

    def ensure(self) -> None:
        """Starts the server again, at the same address, if it has died; agents will not notice more than a pause."""
        if find(self.folder) is None:
            self.url = start(self.folder).url


def find(folder: Path) -> Server | None:
    """The live server of the store, or None; a record that a killed server left behind is not believed."""
    try:
        record = json.loads((folder / "server.json").read_text())
        with urllib.request.urlopen(f"{record['url']}/healthz", timeout=10) as reply:  # noqa: S310  our own record
            health = json.load(reply)
    except (OSError, ValueError, KeyError):
        return None
    return Server(folder, record["url"]) if health.get("pid") == record["pid"] else None


def listen(folder: Path, host: str, port: int | None) -> socket.socket:
    """A socket to serve on: at `port`, else where this store was served last, else at any free port.

    ServerError if `port` was asked for and is taken.
    """
    wanted = [port] if port is not None else [last_port(folder), 0]
    for number in wanted:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            return listener
        except OSError as error:
            listener.close()
            problem = error
    raise ServerError(f"cannot listen on {host}:{port}: {problem.strerror}; choose another --port")


def last_port(folder: Path) -> int:
    """Where the store was served last; 0 if it never was."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(json.loads((folder / "server.json").read_text())["port"])
    return 0


def announce(folder: Path, host: str, port: int) -> str:
    """Writes down where the store is served; the address."""
    url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104  the user's own wish
    partial = folder / "server.json.partial"
    partial.write_text(json.dumps({"pid": os.getpid(), "port": port, "url": url}))
    partial.replace(folder / "server.json")
    return url


def start(folder: Path) -> Server:
    """Starts a server in the background. ServerError, with the end of its log, if it does not come up."""
    command = [sys.executable, "-m", "loopback", "serve", "--dir", str(folder), "--while-used"]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=_environment()
        )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if server := find(folder):
            return server
        if process.poll() is not None and find(folder) is None:
            break
        time.sleep(0.1)
    end = "".join((folder / "server.log").read_text().splitlines(keepends=True)[-5:])
    raise ServerError(f"the server did not come up:\n{end}")


def _environment() -> dict[str, str]:
    """Ours, plus the way to this package: the command may run where it is not installed."""
    root = str(Path(__file__).parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


@contextlib.contextmanager
def joined(folder: Path) -> Iterator[Server]:
    """The server of the store, found or started, for as long as the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    with (folder / "users").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for a server that is just ending
        yield find(folder) or start(folder)


def unused(folder: Path):
    """The store's exclusive lock if nobody uses it, else None. Hold it until the process ends."""
    users = (folder / "users").open("a")
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        users.close()
        return None
    return users


def environment(server: Server, project: str | None = None) -> dict[str, str]:
    """The environment in which every W&B client talks to `server` and to nobody else, and leaves the home alone."""
    foreign = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_RESUME", "WANDB_RUN_GROUP", "WANDB_DISABLED", "WANDB_SERVICE")
    ours = {key: value for key, value in os.environ.items() if key not in foreign}
    local = ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get("NO_PROXY")]))
    ours |= {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": server.key,
        "WANDB_ENTITY": ENTITY,
        "WANDB_MODE": "online",
        "WANDB_DIR": str(server.folder),  # so `push` finds the runs, and the working directory stays clean
        "WANDB_CONFIG_DIR": str(server.folder / "client" / "config"),
        "WANDB_CACHE_DIR": str(server.folder / "client" / "cache"),
        "WANDB_DATA_DIR": str(server.folder / "client" / "data"),
        "WANDB_ERROR_REPORTING": "false",  # it would go out to the network
        "NO_PROXY": local,
        "no_proxy": local,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    ours.setdefault("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "2")  # seconds; nobody limits our rate
    return ours | ({"WANDB_PROJECT": project} if project else {})

"""Finds the server of a store, or starts it.

Every command that uses a store holds a shared lock on the store's file `users`. A server that was
started by a command ends as soon as it can take that lock exclusively. So it ends after the last
command, and nothing is left behind when a command is killed.
"""

import contextlib
import fcntl
import hmac
import http.client
import ipaddress
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from loopback.errors import UserError
from loopback.links import proof
from loopback.store import ENTITY

logger = logging.getLogger("loopback")
Entry = TypeVar("Entry")

START_SECONDS = 60.0  # within which a server that was started must answer
FORMAT = 1  # of the JSON files that commands keep in the store; files without a number are read too
LARGEST_HEALTH = 100_000  # bytes of an answer of /healthz that are read
NOT_INHERITED = (  # variables that would tie a new run to another run, or switch the client off
    "WANDB_RUN_ID",
    "WANDB_SWEEP_ID",
    "WANDB_RESUME",
    "WANDB_RUN_GROUP",
    "WANDB_DISABLED",
    "WANDB_SERVICE",
)


@dataclass
class Server:
    """A server that answers at `url` for the store in `folder`."""

    folder: Path
    url: str

    @property
    def key(self) -> str:
        """The key that every request must carry."""
        return (self.folder / "key").read_text().strip()

    def ensure(self) -> None:
        """Restarts the server if it has died, at the same address. Agents only see a pause."""
        if find(self.folder) is None:
            self.url = start(self.folder).url


def find(folder: Path) -> Server | None:
    """The live server of the store, or None. It must prove that it knows the store's key.

    After a server was killed, any other program may listen at its port.
    """
    nonce, url = secrets.token_hex(16), _last_server(folder).get("url")
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        server = Server(folder, str(url))
        expected = proof(server.key, nonce)
        with without_proxy.open(f"{url}/healthz?nonce={nonce}", timeout=10) as reply:
            health = json.loads(reply.read(LARGEST_HEALTH))
    except (OSError, ValueError, RecursionError, http.client.HTTPException):
        return None
    shown = health.get("proof") if isinstance(health, dict) else None
    if not isinstance(shown, str) or not hmac.compare_digest(
        shown.encode(errors="replace"), expected.encode()
    ):
        return None
    return server


def _last_server(folder: Path) -> dict[str, Any]:
    """What `announce` wrote for the store's last server; empty if that cannot be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads((folder / "server.json").read_text())
        return content if isinstance(content, dict) else {}
    return {}


def listen(folder: Path, host: str, port: int | None) -> socket.socket:
    """A socket to serve on, at `port`. None: the port used last, or any free one if that is taken.

    Raises:
        UserError: `host` is empty or unknown, or the port is taken.
    """
    if not host:
        problem = "--host is empty, which would mean every address of this machine"
        raise UserError(f"{problem}; give one, such as --host 127.0.0.1")
    for number in [port] if port is not None else [last_port(folder), 0]:
        # asyncio sets TCP_NODELAY only where it sees this protocol. Without it each answer waits
        # 40 ms for an ACK.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            return listener
        except (OSError, OverflowError) as error:
            listener.close()
            problem = getattr(error, "strerror", None) or str(error)
    raise UserError(f"cannot listen on {host}:{port}: {problem}; choose another --port or --host")


def last_port(folder: Path) -> int:
    """The port at which the store was served last; 0 if it never was."""
    port = _last_server(folder).get("port")
    return port if type(port) is int and 0 < port < 2**16 else 0


def announce(folder: Path, host: str, port: int) -> str:
    """Writes server.json, by which commands find the server; warns if other machines can reach it.

    Returns:
        The server's address for this machine.
    """
    address = ipaddress.ip_address(socket.gethostbyname(host))
    if not address.is_loopback:
        reachable = socket.gethostname() if address.is_unspecified else host
        logger.warning(
            "other machines can reach this server at http://%s:%d; "
            "the key and all data travel unencrypted",
            reachable,
            port,
        )
    url = f"http://{'127.0.0.1' if address.is_unspecified else host}:{port}"
    write_json(folder / "server.json", {"pid": os.getpid(), "port": port, "url": url})
    return url


def start(folder: Path) -> Server:
    """Starts a server for the store and waits until it answers.

    Raises:
        UserError: it ends, or does not answer within START_SECONDS.
    """
    log_file = folder / "server.log"
    with log_file.open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "loopback", "serve", "--while-used", "--dir", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server := find(folder):
            return server
        if process.poll() is not None and find(folder) is None:
            break
        time.sleep(0.1)
    lines = log_file.read_text(errors="replace").splitlines() or ["(nothing)"]
    reason = lines[-1].removeprefix("Error: ")
    raise UserError(f"the server did not start; the last line of {log_file} is:\n{reason}")


@contextlib.contextmanager
def joined(folder: Path) -> Iterator[Server]:
    """The server of the store, found or started. It runs at least as long as the block.

    Raises:
        UserError: the folder cannot be made or written, or the server does not start.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()
        users = (folder / "users").open("a")
    except OSError as error:
        problem = f"cannot keep a store in {folder}: {error.strerror} ({error.filename})"
        raise UserError(f"{problem}; choose another --dir") from error
    with users:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for a server that is just ending
        yield find(folder) or start(folder)


def unused(folder: Path) -> TextIO | None:
    """The exclusive lock on `users` if no command uses the store, else None.

    The caller holds it until its process ends. None also if the folder was deleted; the server
    notices that separately.
    """
    try:
        users = (folder / "users").open("a")
    except OSError:
        return None
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        users.close()
        return None
    return users


def read_json(file: Path, kind: type[Entry], remedy: str) -> dict[str, Entry]:
    """The entries of a JSON file that `write_json` wrote; empty if there is no file.

    Raises:
        UserError: it is damaged, a value is not of type `kind`, or it has another format. The
            message ends with `remedy`.
    """
    try:
        entries = json.loads(file.read_text()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); {remedy}") from error
    if not isinstance(entries, dict):
        raise UserError(f"{file} is damaged (unexpected content); {remedy}")
    found = entries.pop("format", FORMAT)
    if found != FORMAT:
        raise UserError(f"{file} has format {found}, this version reads {FORMAT}; {remedy}")
    if not all(isinstance(value, kind) for value in entries.values()):
        raise UserError(f"{file} is damaged (unexpected content); {remedy}")
    return entries


def write_json(file: Path, entries: dict[str, Any]) -> None:
    """Writes a JSON object to `file` atomically, with the number of its format."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps({"format": FORMAT, **entries}, indent=1))
    partial.replace(file)


def environment(server: Server, project: str | None = None) -> dict[str, str]:
    """The environment for processes whose W&B client must talk to `server` only.

    The client then reads and writes nothing in the home directory.

    Args:
        server: its address and key are set.
        project: the default project of runs, if given.
    """
    inherited = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    no_proxy = ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get("NO_PROXY")]))
    scripts = str(Path(sys.executable).parent)
    client = server.folder / "client"
    ours = {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": server.key,
        "WANDB_ENTITY": ENTITY,
        "WANDB_MODE": "online",
        "WANDB_DIR": str(server.folder),  # where `push` looks for run folders
        "WANDB_CONFIG_DIR": str(client / "config"),
        "WANDB_CACHE_DIR": str(client / "cache"),
        "WANDB_DATA_DIR": str(client / "data"),
        "WANDB_ERROR_REPORTING": "false",  # error reports would go to the network
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
    }
    if project:
        ours["WANDB_PROJECT"] = project
    # The client sends rows every 15 s to respect the service's rate limit; this server has none.
    return {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "2", **inherited, **ours}

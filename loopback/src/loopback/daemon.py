"""Finding the server of a store, or starting it; it ends by itself when the last command that uses it has ended.

Who uses a store holds a shared lock on its file `users`. A server that was started for them ends as soon as it can
take that lock for itself, so nobody has to be told, and nothing is left behind when a command is killed.
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loopback.errors import UserError
from loopback.links import proof
from loopback.store import ENTITY

logger = logging.getLogger("loopback")

PATIENCE = 60.0  # seconds until a server that was started must answer


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
    """The live server of the store, or None. It must prove that it knows the store's key.

    After a server was killed, any other program may listen at its port.
    """
    nonce, url = secrets.token_hex(16), _recorded(folder).get("url")
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        server = Server(folder, url)
        expected = proof(server.key, nonce)
        with without_proxy.open(f"{url}/healthz?nonce={nonce}", timeout=10) as reply:
            health = json.loads(reply.read(100_000))
        shown = health.get("proof") if isinstance(health, dict) else None
    except (OSError, ValueError, RecursionError, http.client.HTTPException):
        return None
    return (
        server
        if isinstance(shown, str) and hmac.compare_digest(shown.encode(), expected.encode())
        else None
    )


def _recorded(folder: Path) -> dict:
    """What the last server of the store wrote down; empty if that cannot be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads((folder / "server.json").read_text())
        return found if isinstance(found, dict) else {}
    return {}


def listen(folder: Path, host: str, port: int | None) -> socket.socket:
    """A socket to serve on: at `port`, else where this store was served last, else at any free port.

    UserError if `port` was asked for and is taken, or if `host` is empty.
    """
    if not host:
        raise UserError(
            "--host is empty, which would mean every address of this machine; give one, such as 127.0.0.1"
        )
    wanted = [port] if port is not None else [last_port(folder), 0]
    for number in wanted:
        # asyncio sets TCP_NODELAY only where it sees this protocol. Without it each answer waits 40 ms for an ACK.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            return listener
        except (OSError, OverflowError) as error:
            listener.close()
            problem = getattr(error, "strerror", None) or error
    raise UserError(f"cannot listen on {host}:{port}: {problem}; choose another --port or --host")


def last_port(folder: Path) -> int:
    """Where the store was served last; 0 if it never was."""
    port = _recorded(folder).get("port")
    return port if type(port) is int and 0 < port < 2**16 else 0


def announce(folder: Path, host: str, port: int) -> str:
    """Writes down where the store is served, and warns if other machines can reach it; the address for this machine."""
    bound = ipaddress.ip_address(socket.gethostbyname(host))
    if not bound.is_loopback:
        reach = f"http://{socket.gethostname() if bound.is_unspecified else host}:{port}"
        logger.warning(
            "other machines can reach this server at %s; the key and all data travel unencrypted",
            reach,
        )
    url = f"http://{'127.0.0.1' if bound.is_unspecified else host}:{port}"
    partial = folder / "server.json.partial"
    partial.write_text(json.dumps({"pid": os.getpid(), "port": port, "url": url}))
    partial.replace(folder / "server.json")
    return url


def start(folder: Path) -> Server:
    """Starts a server in the background. UserError, with the last line of its log, if it does not come up."""
    command = [sys.executable, "-m", "loopback", "serve", "--dir", str(folder), "--while-used"]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=with_package(os.environ),
        )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if server := find(folder):
            return server
        if process.poll() is not None and find(folder) is None:
            break
        time.sleep(0.1)
    file = folder / "server.log"
    last_line = next(iter(file.read_text(errors="replace").splitlines()[-1:]), "(nothing)")
    reason = last_line.removeprefix("Error: ")
    raise UserError(f"the server did not start; the last line of {file} is:\n{reason}")


def with_package(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, in which this package can be imported even where it is not installed."""
    root = str(Path(__file__).parent.parent)
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")])),
    }


@contextlib.contextmanager
def joined(folder: Path) -> Iterator[Server]:
    """The server of the store, found or started, for as long as the block lasts."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()
        users = (folder / "users").open("a")
    except OSError as error:
        message = f"cannot keep a store in {folder}: {error.strerror} ({error.filename}); choose another --dir"
        raise UserError(message) from error
    with users:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for a server that is just ending
        yield find(folder) or start(folder)


def read_record(file: Path, kind: type, remedy: str) -> dict:
    """The JSON object that a command wrote to `file`; empty if there is no file.

    UserError, which ends with `remedy`, for anything but an object of `kind`s.
    """
    try:
        found = json.loads(file.read_text()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); {remedy}") from error
    if not isinstance(found, dict) or not all(isinstance(value, kind) for value in found.values()):
        raise UserError(f"{file} is damaged (unexpected content); {remedy}")
    return found


def write_record(file: Path, content: dict) -> None:
    """Writes a JSON object to `file`, all of it or nothing."""
    part = file.with_name(f"part-{file.name}")
    part.write_text(json.dumps(content, indent=1))
    part.replace(file)


def unused(folder: Path):
    """The store's exclusive lock if nobody uses it, else None. Hold it until the process ends.

    None as well if the folder was deleted, which the server notices by itself.
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


def environment(server: Server, project: str | None = None) -> dict[str, str]:
    """The environment in which every W&B client talks to `server` and to nobody else, and leaves the home alone."""
    foreign = (
        "WANDB_RUN_ID",
        "WANDB_SWEEP_ID",
        "WANDB_RESUME",
        "WANDB_RUN_GROUP",
        "WANDB_DISABLED",
        "WANDB_SERVICE",
    )
    ours = {key: value for key, value in os.environ.items() if key not in foreign}
    local = ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get("NO_PROXY")]))
    ours |= {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": server.key,
        "WANDB_ENTITY": ENTITY,
        "WANDB_MODE": "online",
        "WANDB_DIR": str(
            server.folder
        ),  # so `push` finds the runs, and the working directory stays clean
        "WANDB_CONFIG_DIR": str(server.folder / "client" / "config"),
        "WANDB_CACHE_DIR": str(server.folder / "client" / "cache"),
        "WANDB_DATA_DIR": str(server.folder / "client" / "data"),
        "WANDB_ERROR_REPORTING": "false",  # it would go out to the network
        "NO_PROXY": local,
        "no_proxy": local,
        "PATH": os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        ),
    }
    ours.setdefault("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "2")  # seconds; nobody limits our rate
    return ours | ({"WANDB_PROJECT": project} if project else {})

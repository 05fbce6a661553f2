"""A W&B account for tests: loopback behind TLS, at the client's own default address.

A proxy leads every host name to our server, so no request can leave the machine. Child processes
get an empty HOME and no WANDB_* variable, so that all settings come from the client's defaults and
from `wandb login`.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
import wandb
from loopback.server import app
from loopback.store import ENTITY, Store

SETTINGS = ".config/wandb/settings"


def run_openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_certificates(folder: Path, host: str) -> tuple[Path, Path, Path]:
    """(authority, certificate, key) for `host`, valid for two days; the authority is made here."""
    files = ("ca.pem", "ca.key", "key.pem", "csr", "cert.pem")
    ca, ca_key, key, request, certificate = (folder / name for name in files)
    names = folder / "names"
    names.write_text(f"subjectAltName=DNS:{host},DNS:localhost,IP:127.0.0.1\n")
    new_key = ("-newkey", "rsa:2048", "-nodes")
    run_openssl(
        "req",
        "-x509",
        *new_key,
        "-days",
        "2",
        "-subj",
        "/CN=test authority",
        "-keyout",
        ca_key,
        "-out",
        ca,
    )
    run_openssl("req", *new_key, "-subj", f"/CN={host}", "-keyout", key, "-out", request)
    signing = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", names)
    run_openssl("x509", "-req", "-in", request, *signing, "-out", certificate)
    return ca, certificate, key


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copies bytes until the source is closed."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def connect_proxy(port: int) -> tuple[socket.socket, list[str]]:
    """Starts an HTTP CONNECT proxy that leads every host name to 127.0.0.1:`port`.

    Returns:
        Its socket, and the list to which it adds the names that clients ask for.
    """
    listener, asked = socket.create_server(("127.0.0.1", 0)), []

    def serve(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(4096)
            if not data:
                return
            head += data
        asked.append(head.split()[1].decode())
        server = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=pump, args=(server, client), daemon=True).start()
        pump(client, server)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener, asked


@dataclass
class Account:
    """A W&B account for child processes, and the store of its server to compare with."""

    store: Store
    proxy_port: int
    plain_url: str
    authority: Path
    asked: list[str]

    @property
    def key(self) -> str:
        return self.store.key

    def environment(self, home: Path, **extra: str) -> dict[str, str]:
        """Variables of a new machine behind the proxy: an empty home, WANDB_* only from `extra`."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if "WANDB" not in name and "proxy" not in name.lower()
        }
        proxy = {
            "HTTPS_PROXY": f"http://127.0.0.1:{self.proxy_port}",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        trust = {"SSL_CERT_FILE": str(self.authority), "REQUESTS_CA_BUNDLE": str(self.authority)}
        home.mkdir(parents=True, exist_ok=True)
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        made = kept | {"HOME": str(home), "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"} | proxy | trust
        assert not [name for name in made if name.startswith("WANDB_")]
        return made | extra

    def run(
        self, *command: str | Path, home: Path, cwd: Path | None = None, **extra: str
    ) -> subprocess.CompletedProcess:
        """The finished process; its output is text."""
        return subprocess.run(
            [*map(str, command)],
            env=self.environment(home, **extra),
            cwd=cwd or home,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def login(self, home: Path) -> None:
        done = self.run(sys.executable, "-m", "wandb", "login", self.key, home=home)
        assert done.returncode == 0, done.stderr

    def runs(self, project: str) -> list[dict]:
        """The rows of the project's runs in the server's store."""
        sql = """SELECT r.* FROM runs r JOIN projects p ON p.id = r.project_id
                 WHERE p.name = ? AND p.entity = ? ORDER BY r.id"""
        return self.store.all(sql, project, ENTITY)


@pytest.fixture(scope="session")
def account(tmp_path_factory) -> Account:
    folder = tmp_path_factory.mktemp("account")
    host = wandb.Settings().base_url.removeprefix("https://")
    ca, certificate, key = make_certificates(folder, host)
    store = Store(folder / "store")
    application, servers = app(store), []
    for tls in ({"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}, {}):
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application, log_level="error", **tls))
        threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
        servers.append((server, listener.getsockname()[1]))
    proxy, asked = connect_proxy(servers[0][1])
    deadline = time.monotonic() + 60
    while not all(server.started for server, _ in servers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield Account(store, proxy.getsockname()[1], f"http://127.0.0.1:{servers[1][1]}", ca, asked)
    proxy.close()
    for server, _ in servers:
        server.should_exit = True


def write_settings(home: Path, **values: str) -> None:
    file = home / SETTINGS
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        "[default]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
    )


# Ways to log in: each prepares `home`, and returns further variables for the environment.


def by_login(account: Account, home: Path) -> dict:
    account.login(home)
    return {}


def by_login_to_a_host(account: Account, home: Path) -> dict:
    done = account.run(
        sys.executable, "-m", "wandb", "login", "--host", account.plain_url, account.key, home=home
    )
    assert done.returncode == 0, done.stderr
    return {}


def by_environment(account: Account, home: Path) -> dict:
    return {"WANDB_API_KEY": account.key}


def by_settings_file(account: Account, home: Path) -> dict:
    write_settings(home, api_key=account.key, project="from-the-settings", entity="loopback")
    return {}

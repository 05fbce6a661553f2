"""Measures the speed of the loopback server, and how it changes with the number of runs.

    python -m benchmarks.server

It prints, in this order:

- the latency of one request on a connection that stays open;
- requests per second and their latency, with 16 runs logging at the same time;
- the seconds that `wandb.Api` takes to read a sweep of 60 runs;
- the seconds for the next suggestion (Bayes with Hyperband) and for a page of 50 runs, per number
  of runs in the sweep;
- the server's memory, before and after the rows of one hour.
"""

import base64
import contextlib
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import yaml
from loopback.client import ask
from loopback.store import Store, dumps, now

from loopback import daemon, lifecycle, runs

EPOCHS = 27  # rows per run
LOGGING = 16  # runs that log at the same time
CLIENT_INTERVAL = 15.0  # seconds between two requests of a run: the client's default
READ = 60  # runs of the sweep that wandb.Api reads
WARM_UP_ROWS, HOUR_ROWS = 300, 3600  # per run; one row per second
ROWS_PER_REQUEST = 15  # of the memory test, as many as a run logs per second and interval
READING = """
import sys, time, wandb
api = wandb.Api()
started = time.perf_counter()
rows = sum(len(list(run.scan_history())) for run in api.sweep(sys.argv[1]).runs)
print(rows, time.perf_counter() - started)
"""
SWEEP = {
    "program": "train.py",
    "method": "bayes",
    "metric": {"name": "loss", "goal": "minimize", "impute": "latest"},
    "early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 3},
    "parameters": {
        "rate": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.1},
        "batch": {"min": 1, "max": 32},
        "activation": {"values": ["relu", "tanh", "swish", None]},
    },
}
HEARTBEAT = """mutation H($i: ID!, $r: JSONString) {
  agentHeartbeat(input: {id: $i, runState: $r}) { commands } }"""
AGENT = """mutation A($s: String!) {
  createAgent(input: {host: "h", projectName: "bench", sweep: $s}) { agent { id } } }"""
NEW_RUN = """mutation B($n: String) {
  upsertBucket(input: {modelName: "bench", name: $n}) { inserted } }"""
PAGE = """query P($f: JSONString) { project(name: "bench") { runCount(filters: $f)
  runs(filters: $f, order: "+summary_metrics.loss", first: 50) { edges { node {
    id name displayName state config summaryMetrics systemMetrics historyLineCount historyKeys tags
    createdAt sweepName
  } cursor } pageInfo { endCursor hasNextPage } } } }"""


def quantile(values: list[float], part: float) -> float:
    """The value below which a fraction `part` of all values lies."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def seed(folder: Path, sizes: list[int]) -> None:
    """Fills a store with one sweep per size, named `sweep10` and so on, of finished runs."""
    store, chance = Store(folder), random.Random(0)  # noqa: S311  made-up runs
    project = store.ensure_project(None, "bench")
    for size in sizes:
        with store.writing():
            text = {"config": yaml.safe_dump(SWEEP), "state": "RUNNING", "created_at": now()}
            sweep = store.insert("sweeps", project_id=project["id"], name=f"sweep{size}", **text)
            for number in range(size):
                _seed_run(store, chance, project["id"], sweep, f"s{size}r{number}")


def _seed_run(store: Store, chance: random.Random, project: int, sweep: int, name: str) -> None:
    """Adds one finished run of EPOCHS rows with random hyperparameters."""
    rate = 10 ** chance.uniform(-4, -1)
    config = {
        "rate": rate,
        "batch": chance.randint(1, 32),
        "activation": chance.choice(["relu", "tanh", "swish", None]),
    }
    losses = [abs(rate - 0.003) + 1 / (epoch + 1) + chance.random() / 9 for epoch in range(EPOCHS)]
    wrapped = dumps({key: {"value": value} for key, value in config.items()})
    run = runs.create(store, project, name, sweep_id=sweep, state="finished", config=wrapped)
    rows = [
        (run, line, line + 1, dumps({"_step": line + 1, "loss": loss, "val_loss": loss}))
        for line, loss in enumerate(losses)
    ]
    store.many("INSERT INTO history (run_id, line, step, row) VALUES (?, ?, ?, ?)", rows)
    lifecycle.change(
        store,
        run,
        history_lines=EPOCHS,
        history_keys=dumps({"keys": {}, "lastStep": EPOCHS}),  # scan_history reads up to this step
        summary=dumps({"loss": min(losses)}),
    )


class Client:
    """One connection that stays open, as the one of W&B's client."""

    def __init__(self, server: daemon.Server) -> None:
        address = urlsplit(server.url)
        self.connection = HTTPConnection(str(address.hostname), address.port, timeout=60)
        token = base64.b64encode(f"api:{server.key}".encode()).decode()
        self.headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}

    def post(self, path: str, body: dict[str, Any]) -> float:
        """Sends a request; seconds until the whole answer has arrived."""
        raw, started = json.dumps(body).encode(), time.perf_counter()
        self.connection.request("POST", path, raw, self.headers)
        reply = self.connection.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {text[:200]!r}")
        return time.perf_counter() - started


def stream(
    server: daemon.Server, run: str, rows: int, until: float = float("inf"), most: int | None = None
) -> list[float]:
    """Logs to one run; returns the seconds that each request took.

    Args:
        server: to send to.
        run: name of the run.
        rows: rows per request.
        until: moment of time.perf_counter() after which no request is sent.
        most: number of rows after which no request is sent.
    """
    client, line, spent = Client(server), 0, []
    while time.perf_counter() < until and (most is None or line < most):
        history = [_row(step) for step in range(line, line + rows)]
        summary = [json.dumps({"loss": 1 / (line + 1)})]
        files = {
            "wandb-history.jsonl": {"offset": line, "content": history},
            "wandb-summary.json": {"offset": 0, "content": summary},
        }
        spent.append(client.post(f"/files/loopback/bench/{run}/file_stream", {"files": files}))
        line += rows
    return spent


def _row(step: int) -> str:
    row = {"_step": step, "loss": 1 / (step + 1), "val_loss": 0.5, "lr": 0.001, "_timestamp": 1.0}
    return json.dumps(row)


def open_runs(server: daemon.Server, prefix: str) -> list[str]:
    """Creates LOGGING runs; returns their names."""
    names = [f"{prefix}{number}" for number in range(LOGGING)]
    for name in names:
        ask(server.url, server.key, NEW_RUN, n=name)
    return names


def latency(server: daemon.Server, requests: int = 200) -> None:
    """Prints how long one small request takes on a connection that stays open."""
    client = Client(server)
    spent = [client.post("/graphql", {"query": "{ viewer { id } }"}) for _ in range(requests)]
    print(f"one request on an open connection: {_milliseconds(spent)}")


def _milliseconds(seconds: list[float]) -> str:
    p50, p95 = statistics.median(seconds), quantile(seconds, 0.95)
    return f"median {p50 * 1e3:.1f} ms, p95 {p95 * 1e3:.1f} ms"


def reading(server: daemon.Server, sweep: str) -> None:
    """Prints how long wandb.Api takes to read all rows of a sweep of READ runs."""
    command = [sys.executable, "-c", READING, f"loopback/bench/{sweep}"]
    done = subprocess.run(
        command, env=daemon.environment(server), check=True, capture_output=True, text=True
    )
    rows, seconds = done.stdout.split()
    print(f"wandb.Api reads {READ} runs, {rows} rows: {float(seconds):.2f} s")


def throughput(server: daemon.Server, seconds: float) -> None:
    """Prints requests per second while LOGGING runs log one row per request."""
    names, until = open_runs(server, "load"), time.perf_counter() + seconds
    with ThreadPoolExecutor(LOGGING) as pool:
        parts = list(pool.map(lambda name: stream(server, name, 1, until), names))
    spent = [second for part in parts for second in part]
    rate, needed = len(spent) / seconds, LOGGING / CLIENT_INTERVAL
    print(f"{LOGGING} runs logging at once: {rate:.0f} requests/s, {_milliseconds(spent)}")
    print(
        f"  W&B's client sends one request per run every {CLIENT_INTERVAL:.0f} s: "
        f"ratio to what {LOGGING} runs need {rate / needed:.0f}"
    )


def growth(server: daemon.Server, sizes: list[int], repeats: int) -> None:
    """Prints the seconds for a suggestion and for a page of runs, per size of the sweep."""
    print(
        f"{'runs':>6} {'first suggestion':>17} {'suggestion p50':>15} {'p95':>8} "
        f"{'page p50':>9} {'p95':>8}   (seconds)"
    )
    medians: dict[int, dict[str, float]] = {}
    for size in sizes:
        reply = ask(server.url, server.key, AGENT, s=f"sweep{size}")
        agent = reply["createAgent"]["agent"]["id"]
        first, *suggestions = [suggestion(server, agent) for _ in range(repeats + 1)]
        pages = [page(server, f"sweep{size}") for _ in range(repeats)]
        medians[size] = {
            "suggestion": statistics.median(suggestions),
            "page": statistics.median(pages),
        }
        print(
            f"{size:6} {first:17.3f} {medians[size]['suggestion']:15.3f} "
            f"{quantile(suggestions, 0.95):8.3f} {medians[size]['page']:9.3f} "
            f"{quantile(pages, 0.95):8.3f}"
        )
    if len(medians) < 2:
        return
    low, high = sorted(medians)[-2:]
    for what in ("suggestion", "page"):
        ratio = medians[high][what] / medians[low][what]
        print(
            f"  {what}: {high} runs take {ratio:.2f} x the time of {low} (linear: {high / low:.2f})"
        )


def page(server: daemon.Server, sweep: str) -> float:
    """Seconds for a page of 50 runs."""
    started = time.perf_counter()
    ask(server.url, server.key, PAGE, f=json.dumps({"sweep": sweep}))
    return time.perf_counter() - started


def suggestion(server: daemon.Server, agent: str) -> float:
    """Seconds for the next suggestion. The suggested run logs one row and finishes at once."""
    started = time.perf_counter()
    reply = ask(server.url, server.key, HEARTBEAT, i=agent, r="{}")
    spent = time.perf_counter() - started
    (command,) = json.loads(reply["agentHeartbeat"]["commands"])
    row = json.dumps({"_step": 1, "loss": random.random()})  # noqa: S311  any number will do
    files = {"wandb-history.jsonl": {"offset": 0, "content": [row]}}
    body = {"files": files, "complete": True, "exitcode": 0}
    Client(server).post(f"/files/loopback/bench/{command['run_id']}/file_stream", body)
    return spent


def memory(server: daemon.Server, process: int) -> None:
    """Prints the server's memory before and after LOGGING runs log one hour of rows."""

    def resident_mebibytes() -> float:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def log(prefix: str, rows: int) -> None:
        names = open_runs(server, prefix)
        with ThreadPoolExecutor(LOGGING) as pool:
            list(pool.map(lambda name: stream(server, name, ROWS_PER_REQUEST, most=rows), names))

    log("warm", WARM_UP_ROWS)
    before = resident_mebibytes()
    log("hour", HOUR_ROWS)
    after = resident_mebibytes()
    rows, ratio = LOGGING * HOUR_ROWS, after / before
    print(f"memory: {before:.0f} MiB, after {rows} more rows {after:.0f} MiB, ratio {ratio:.2f}")


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[daemon.Server, int]]:
    """A server process on the store in `folder`, and its process id."""
    command = [sys.executable, "-m", "loopback", "serve", "--dir", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while (server := daemon.find(folder)) is None:
            if process.poll() is not None:
                raise RuntimeError(f"the server did not start: exit code {process.returncode}")
            time.sleep(0.1)
        yield server, process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


@click.command()
@click.option(
    "--sizes",
    type=click.IntRange(1),
    multiple=True,
    default=(10, 100, 1000, 5000),
    show_default=True,
    help="Runs in a sweep; may be given several times.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Suggestions and pages per size.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Duration of the measurement of requests per second.",
)
def main(sizes: tuple[int, ...], repeats: int, seconds: float) -> None:
    """Measure the speed of the loopback server on a new store."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # In another process: a store is locked until the process that opened it ends.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(seed, folder, sorted({READ, *sizes})).result()
        with served(folder) as (server, process):
            latency(server)
            throughput(server, seconds)
            reading(server, f"sweep{READ}")
            growth(server, list(sizes), repeats)
            memory(server, process)


if __name__ == "__main__":
    main()

"""How fast the loopback server is, and how that grows: python benchmarks/loopback.py

Prints: the latency on one connection that is kept open; requests per second and their latency with 16 runs logging at
once; how long `wandb.Api` takes to read a sweep; the time of the next suggestion (Bayes with Hyperband) and of a page of
50 runs with more and more runs in the sweep; the server's memory over an hour's rows.
"""

import argparse
import base64
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from loopback.client import ask
from loopback.store import Store, dumps, now

from loopback import daemon, lifecycle, runs

EPOCHS = 27  # rows of a run
LOGGING = 16  # runs that log at once
READ = 60  # runs of the sweep that wandb.Api reads
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
BEAT = "mutation H($i: ID!, $r: JSONString) { agentHeartbeat(input: {id: $i, runState: $r}) { commands } }"
AGENT = 'mutation A($s: String!) { createAgent(input: {host: "h", projectName: "bench", sweep: $s}) { agent { id } } }'
PAGE = """query P($f: JSONString) { project(name: "bench") { runCount(filters: $f)
  runs(filters: $f, order: "+summary_metrics.loss", first: 50) { edges { node {
    id name displayName state config summaryMetrics systemMetrics historyLineCount historyKeys tags createdAt sweepName
  } cursor } pageInfo { endCursor hasNextPage } } } }"""


def quantile(values: list[float], part: float) -> float:
    """The value below which `part` of all lie."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def seed(folder: Path, sizes: list[int]) -> dict[int, str]:
    """Fills a store with a sweep of each size, its runs ended after EPOCHS rows; the sweeps' names."""
    store, chance, names = Store(folder), random.Random(0), {}  # noqa: S311  made-up runs
    project = store.ensure_project(None, "bench")["id"]
    for size in sizes:
        with store.writing():
            text = {"config": yaml.safe_dump(SWEEP), "state": "RUNNING", "created_at": now()}
            sweep = store.insert("sweeps", project_id=project, name=f"sweep{size}", **text)
            for number in range(size):
                config = {"rate": 10 ** chance.uniform(-4, -1), "batch": chance.randint(1, 32)}
                config |= {"activation": chance.choice(["relu", "tanh", "swish", None])}
                wrapped = dumps({name: {"value": value} for name, value in config.items()})
                losses = [
                    abs(config["rate"] - 0.003) + 1 / (epoch + 1) + chance.random() / 9
                    for epoch in range(EPOCHS)
                ]
                run = runs.create(
                    store,
                    project,
                    f"s{size}r{number}",
                    sweep_id=sweep,
                    state="finished",
                    config=wrapped,
                )
                rows = [
                    dumps({"_step": n + 1, "loss": loss, "val_loss": loss})
                    for n, loss in enumerate(losses)
                ]
                sql = "INSERT INTO history (run_id, line, step, row) VALUES (?, ?, ?, ?)"
                store.many(sql, [(run, n, n + 1, row) for n, row in enumerate(rows)])
                keys = dumps({"keys": {}, "lastStep": EPOCHS})  # scan_history reads up to this step
                summary = dumps({"loss": min(losses)})
                lifecycle.change(
                    store, run, history_lines=EPOCHS, history_keys=keys, summary=summary
                )
        names[size] = f"sweep{size}"
    return names


class Client:
    """One connection that stays open, as W&B's client keeps it."""

    def __init__(self, server: daemon.Server):
        address = urlsplit(server.url)
        self.connection = HTTPConnection(address.hostname, address.port, timeout=60)
        token = base64.b64encode(f"api:{server.key}".encode()).decode()
        self.headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}

    def post(self, path: str, body: dict) -> float:
        """Seconds until the whole answer is here."""
        raw, started = json.dumps(body).encode(), time.perf_counter()
        self.connection.request("POST", path, raw, self.headers)
        reply = self.connection.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {text[:200]!r}")
        return time.perf_counter() - started


def stream(
    server: daemon.Server, run: str, until: float, rows: int, most: int | None = None
) -> list[float]:
    """Logs `rows` rows a request to one run until a moment, or until `most` rows are sent; the requests' seconds."""
    client, line, spent = Client(server), 0, []
    while time.perf_counter() < until and (most is None or line < most):
        content = [
            json.dumps(
                {
                    "_step": line + n,
                    "loss": 1 / (line + n + 1),
                    "val_loss": 0.5,
                    "lr": 0.001,
                    "_timestamp": 1.0,
                }
            )
            for n in range(rows)
        ]
        files = {"wandb-history.jsonl": {"offset": line, "content": content}}
        files["wandb-summary.json"] = {
            "offset": 0,
            "content": [json.dumps({"loss": 1 / (line + 1)})],
        }
        spent.append(client.post(f"/files/loopback/bench/{run}/file_stream", {"files": files}))
        line += rows
    return spent


def open_runs(server: daemon.Server, prefix: str) -> list[str]:
    """LOGGING runs that may be logged to."""
    names = [f"{prefix}{number}" for number in range(LOGGING)]
    for name in names:
        query = 'mutation B($n: String) { upsertBucket(input: {modelName: "bench", name: $n}) { inserted } }'
        ask(server.url, server.key, query, n=name)
    return names


def latency(server: daemon.Server, requests: int = 200) -> None:
    """Prints how long one small request takes on a connection that is kept open."""
    client = Client(server)
    spent = [client.post("/graphql", {"query": "{ viewer { id } }"}) for _ in range(requests)]
    p50, p95 = statistics.median(spent), quantile(spent, 0.95)
    print(
        f"one request on a kept-alive connection: median {p50 * 1e3:.1f} ms, p95 {p95 * 1e3:.1f} ms"
    )


def reading(server: daemon.Server, sweep: str) -> None:
    """Prints how long wandb.Api takes to read every row of a sweep of READ runs."""
    command = [sys.executable, "-c", READING, f"loopback/bench/{sweep}"]
    done = subprocess.run(
        command, env=daemon.environment(server), check=True, capture_output=True, text=True
    )
    rows, seconds = done.stdout.split()
    print(f"wandb.Api reads {READ} runs, {rows} rows: {float(seconds):.2f} s")


def throughput(server: daemon.Server, seconds: float) -> None:
    """Prints requests per second with LOGGING runs at once."""
    names, until = open_runs(server, "load"), time.perf_counter() + seconds
    with ThreadPoolExecutor(LOGGING) as pool:
        spent = [
            second
            for part in pool.map(lambda name: stream(server, name, until, 1), names)
            for second in part
        ]
    rate, p50, p95 = len(spent) / seconds, statistics.median(spent), quantile(spent, 0.95)
    print(
        f"{LOGGING} runs logging at once: {rate:.0f} requests/s, median {p50 * 1e3:.1f} ms, p95 {p95 * 1e3:.1f} ms"
    )
    print(
        f"  W&B's client sends one request a run every 15 s: ratio to what {LOGGING} runs need {rate / (LOGGING / 15):.0f}"
    )


def growth(server: daemon.Server, names: dict[int, str], repeats: int) -> None:
    """Prints the time of a suggestion and of a page of runs for each size of the sweep."""
    print(
        f"{'runs':>6} {'first suggestion':>17} {'suggestion p50':>15} {'p95':>8} {'page p50':>9} {'p95':>8}   (seconds)"
    )
    seen = {}
    for size, name in names.items():
        agent = ask(server.url, server.key, AGENT, s=name)["createAgent"]["agent"]["id"]
        first, *spent = [suggestion(server, agent) for _ in range(repeats + 1)]
        pages = []
        for _ in range(repeats):
            started = time.perf_counter()
            ask(server.url, server.key, PAGE, f=json.dumps({"sweep": name}))
            pages.append(time.perf_counter() - started)
        seen[size] = (statistics.median(spent), statistics.median(pages))
        print(
            f"{size:6} {first:17.3f} {seen[size][0]:15.3f} {quantile(spent, 0.95):8.3f}"
            f" {seen[size][1]:9.3f} {quantile(pages, 0.95):8.3f}"
        )
    low, high = sorted(seen)[-2:]
    for place, what in enumerate(("suggestion", "page")):
        ratio = seen[high][place] / seen[low][place]
        print(
            f"  {what}: {high} runs take {ratio:.2f} x the time of {low} (linear: {high / low:.2f})"
        )


def suggestion(server: daemon.Server, agent: str) -> float:
    """Seconds for the next suggestion; the run it gives is ended at once with a row of its own."""
    started = time.perf_counter()
    reply = ask(server.url, server.key, BEAT, i=agent, r="{}")
    spent = time.perf_counter() - started
    (command,) = json.loads(reply["agentHeartbeat"]["commands"])
    row = json.dumps({"_step": 1, "loss": random.random()})  # noqa: S311  any number will do
    body = {
        "files": {"wandb-history.jsonl": {"offset": 0, "content": [row]}},
        "complete": True,
        "exitcode": 0,
    }
    Client(server).post(f"/files/loopback/bench/{command['run_id']}/file_stream", body)
    return spent


def memory(server: daemon.Server, process: int) -> None:
    """Prints the server's memory before and after LOGGING runs log a row a second for an hour."""

    def resident() -> float:
        return (
            int(Path(f"/proc/{process}/statm").read_text().split()[1])
            * os.sysconf("SC_PAGE_SIZE")
            / 2**20
        )

    def hour(prefix: str, rows: int) -> None:
        names = open_runs(server, prefix)
        with ThreadPoolExecutor(LOGGING) as pool:
            list(pool.map(lambda name: stream(server, name, float("inf"), 15, rows), names))

    hour("warm", 300)
    before = resident()
    hour("hour", 3600)
    after = resident()
    print(
        f"memory: {before:.0f} MiB, after {LOGGING * 3600} further rows {after:.0f} MiB, ratio {after / before:.2f}"
    )


def main() -> None:
    """Runs everything on a fresh store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000, 5000])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = {READ, *options.sizes}
        command = [
            sys.executable,
            "-c",
            _SEED,
            scratch,
            *map(str, sizes),
        ]  # releases the store's lock
        names = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
        names = {int(size): name for size, name in names.items()}
        serve = [sys.executable, "-m", "loopback", "serve", "--dir", scratch, "--port", "0"]
        root = str(Path(__file__).parent.parent)
        process = subprocess.Popen(
            serve, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while (server := daemon.find(folder)) is None and process.poll() is None:
                threading.Event().wait(0.1)
            latency(server)
            throughput(server, options.seconds)
            reading(server, names[READ])
            growth(server, {size: names[size] for size in options.sizes}, options.repeats)
            memory(server, process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


_SEED = f"""
import json, runpy, sys
from pathlib import Path
bench = runpy.run_path({str(Path(__file__))!r}, run_name="seeding")
print(json.dumps(bench["seed"](Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])))
"""


if __name__ == "__main__":
    main()

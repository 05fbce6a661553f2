"""Faults of disk and clock, other programs at the port, and requests that could block a server."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from loopback.errors import UserError
from loopback.links import proof
from loopback.store import Store, read_or_make_key
from loopback_helpers import TESTS, Served, wait_for
from test_loopback_security import graphql, send

from loopback import daemon, graph, lifecycle, runs

MAKE = (
    'mutation B($n: String) { upsertBucket(input: {modelName: "p", name: $n}) { bucket { id } } }'
)
SAMPLE = """query Q($s: [JSONString!]!) {
    project(name: "p") { run(name: "wide") { sampledHistory(specs: $s) } } }"""


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A server with one run of 3,000 rows of 2,000 values. No test may end it."""
    folder = tmp_path_factory.mktemp("robust")
    command = [
        sys.executable,
        "-c",
        "import sys; from test_loopback_robust import fill; fill(sys.argv[1])",
        folder,
    ]
    paths = filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
    server = Served(folder).start()
    yield server
    server.stop()
    assert "Traceback" not in server.log(), server.log()


@pytest.fixture
def own(tmp_path):
    """A server for one test, which may end it."""
    server = Served(tmp_path / "store").start()
    yield server
    server.kill()


def fill(folder):
    from pathlib import Path

    store = Store(Path(folder))
    project = store.ensure_project(None, "p")["id"]
    run = runs.create(
        store, project, "wide", sweep_id=None, state="finished", display_name="a" * 30 + "!"
    )
    row = json.dumps({f"key{n}": n for n in range(2000)})
    sql = "INSERT INTO history (run_id, line, step, row) VALUES (?, ?, ?, ?)"
    store.many(sql, [(run, n, n, row[:-1] + f', "_step": {n}}}') for n in range(3000)])
    keys = json.dumps({"keys": {}, "lastStep": 2999})
    lifecycle.change(store, run, history_lines=3000, history_keys=keys)


# The key and the store's files


def test_a_key_is_written_completely_or_not_at_all(tmp_path):
    code = """
import os, resource, sys
from pathlib import Path
from loopback import store
os.write = lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    store.read_or_make_key(Path(sys.argv[1]))
except store.UserError as error:
    print(error.message)
"""
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=TESTS, capture_output=True, text=True
    )
    assert "free disk space" in said.stdout, said.stderr
    assert not (tmp_path / "key").exists()
    assert len(read_or_make_key(tmp_path)) == 40


@pytest.mark.parametrize("place", ["os.open", "os.fsync", "Path.replace"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_while_the_key_is_written_leaves_no_short_key(tmp_path, place, moment):
    code = f"""
import os, sys
from pathlib import Path
from loopback import store
real = {place}
def ends(*arguments, **options):
    if {moment == "after"}:
        real(*arguments, **options)
    os._exit(9)
{place} = ends
store.read_or_make_key(Path(sys.argv[1]))
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path], cwd=TESTS).returncode == 9
    assert not (tmp_path / "key").exists() or len((tmp_path / "key").read_text()) == 40
    assert len(read_or_make_key(tmp_path)) == 40


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("", 0o600, "delete the file"),
        ("short", 0o600, "delete the file"),
        ("k" * 40, 0o644, "chmod 600"),
    ],
)
def test_an_unsafe_key_is_refused(tmp_path, content, mode, message):
    (tmp_path / "key").write_text(content)
    (tmp_path / "key").chmod(mode)
    with pytest.raises(UserError, match=message):
        Store(tmp_path)


def test_others_cannot_read_the_store(target):
    assert stat.S_IMODE(target.folder.stat().st_mode) == 0o700
    for name in ("key", "lock", "loopback.sqlite", "server.json"):
        assert stat.S_IMODE((target.folder / name).stat().st_mode) == 0o600, name


def test_a_store_of_another_version_is_refused_and_an_old_one_is_read(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "loopback.sqlite")) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(UserError, match="version 7, and this program reads version 1"):
        Store(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "loopback.sqlite")) as database:
        database.execute("PRAGMA user_version = 0")
    assert Store(tmp_path).value("PRAGMA user_version") == 1


def test_incomplete_uploads_are_removed_at_the_start(tmp_path):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "part").write_bytes(b"half")
    Store(tmp_path)
    assert not (tmp_path / "uploads").exists()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_file_is_complete_or_absent_after_a_kill_during_its_upload(tmp_path, moment):
    """The next start removes the incomplete upload."""
    code = f"""
import os, sys
from pathlib import Path
real = Path.replace
def ends(self, other):
    if self.parent.name == "uploads":
        if {moment == "after"}:
            real(self, other)
        os._exit(9)
    return real(self, other)
Path.replace = ends
from loopback.__main__ import main
main(["serve", "--dir", sys.argv[1], "--port", "0"])
"""
    folder = tmp_path / "store"
    process = subprocess.Popen(
        [sys.executable, "-c", code, folder], cwd=TESTS, stdout=subprocess.PIPE
    )
    server = Served(folder)
    wait_for(lambda: daemon.find(folder), 60)
    with contextlib.suppress(OSError):
        send(server, "PUT", "/storage/runs/1/big", b"x" * 100_000, server.server.key)
    assert process.wait(30) == 9
    process.stdout.close()
    server.start()
    assert not (folder / "uploads").exists()
    kept = folder / "runs" / "1" / "big"
    assert (kept.read_bytes() == b"x" * 100_000) if moment == "after" else not kept.exists()
    server.stop()


def test_a_full_disk_is_named_and_the_request_can_be_repeated(own):
    server = own
    key, limit = server.server.key, (2**17, 2**17)
    import resource

    usual = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    assert graphql(server, {"query": MAKE, "variables": {"n": "r"}})[0] == 200
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (limit[0], usual[1]))
    row = json.dumps({"_step": 0, "text": "x" * 10**6})
    body = json.dumps({"files": {"wandb-history.jsonl": {"offset": 0, "content": [row]}}}).encode()
    status, text = send(server, "POST", "/files/loopback/p/r/file_stream", body, key)
    assert (status, "free space" in text) == (507, True), text
    query = """mutation S($s: JSONString) {
        upsertBucket(input: {modelName: "p", name: "r", summaryMetrics: $s}) { inserted } }"""
    large = {"s": json.dumps({"text": "x" * 10**6})}
    assert graphql(server, {"query": query, "variables": large})[0] == 507
    assert send(server, "PUT", "/storage/runs/1/file", b"x" * 2**18, key)[0] == 507
    assert not list((server.folder / "uploads").iterdir())
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, usual)
    assert send(server, "POST", "/files/loopback/p/r/file_stream", body, key)[0] == 200
    assert graphql(server, {"query": query, "variables": large})[0] == 200
    assert send(server, "PUT", "/storage/runs/1/file", b"x" * 2**18, key)[0] == 200
    server.stop()
    assert "Traceback" not in server.log()


# The end of a store, and the clock


def test_a_server_ends_when_its_store_is_deleted(own, tmp_path):
    server = own
    found = server.server
    key, process = found.key, server.process
    moved = tmp_path / "moved"
    server.folder.rename(moved)
    server.folder.mkdir()
    with contextlib.suppress(OSError):  # it may have ended already
        server_like = type("Like", (), {"server": found})
        assert (
            send(server_like, "POST", "/graphql", json.dumps({"query": MAKE}).encode(), key)[0]
            == 503
        )
    assert process.wait(30) == 0
    assert "was deleted or replaced" in (moved / "log").read_text()
    assert list(server.folder.iterdir()) == []


def test_times_in_the_future_are_set_to_the_present(tmp_path, monkeypatch):
    store, future = Store(tmp_path), time.time() + 7200
    project = store.ensure_project(None, "p")["id"]
    run = runs.create(store, project, "r", sweep_id=None, state="running")
    store.update("runs", run, seen=future)
    lifecycle.follow_clock(store)
    assert store.value("SELECT seen FROM runs WHERE id = ?", run) <= time.time()


def test_a_lost_run_is_crashed_although_the_clock_was_set_back(tmp_path):
    code = """
import sys, threading, time
real, back = time.time, 0.0
time.time = lambda: real() - back
def set_back():
    global back
    time.sleep(4)
    back = 7200.0
threading.Thread(target=set_back, daemon=True).start()
from loopback.__main__ import main
main(["serve", "--dir", sys.argv[1], "--port", "0", "--lost-after", "8"])
"""
    folder = tmp_path / "store"
    process = subprocess.Popen(
        [sys.executable, "-c", code, folder], cwd=TESTS, stdout=subprocess.PIPE
    )
    try:
        server = Served(folder)
        wait_for(lambda: daemon.find(folder), 60)
        assert graphql(server, {"query": MAKE, "variables": {"n": "silent"}})[0] == 200
        state = '{ project(name: "p") { run(name: "silent") { state } } }'
        wait_for(lambda: server.ask(state)["project"]["run"]["state"] == "crashed", 60)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stdout.close()


# Other programs at the recorded port


def neighbour(answer: bytes):
    """A listening socket that answers every connection with `answer`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(2**16)
                    connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return listener


def reply(body: bytes, length: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (length or len(body), body)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        reply(b"[1]"),
        reply(b"5"),
        reply(b'{"proof": 7}'),
        reply(b'{"proof": "\xc3\xa4"}'),
        reply(b"{", 100),
        reply(b"\xff"),
        reply(b"[" * 50_000),
    ],
)
def test_another_program_at_the_recorded_port_is_not_taken_for_the_server(tmp_path, answer):
    key = read_or_make_key(tmp_path)
    listener = neighbour(answer)
    port = listener.getsockname()[1]
    record = {"pid": os.getpid(), "port": port, "url": f"http://127.0.0.1:{port}"}
    (tmp_path / "server.json").write_text(json.dumps(record))
    assert daemon.find(tmp_path) is None
    assert key == read_or_make_key(tmp_path)
    listener.close()


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        '"text"',
        "{}",
        '{"url": null, "port": null}',
        '{"url": 5, "port": 99999}',
        '{"url": "x", "port": "8"}',
        "[" * 99_999,
    ],
)
def test_a_damaged_server_json_is_ignored(tmp_path, record):
    read_or_make_key(tmp_path)
    (tmp_path / "server.json").write_text(record)
    assert daemon.find(tmp_path) is None
    assert daemon.last_port(tmp_path) == 0
    daemon.listen(tmp_path, "127.0.0.1", None).close()


def test_the_server_proves_that_it_knows_the_key(target):
    status, text = send(target, "GET", "/healthz?nonce=abc")
    assert status == 200
    assert json.loads(text)["proof"] == proof(target.server.key, "abc")
    (stolen := target.folder.parent / "stolen").mkdir(exist_ok=True)
    (stolen / "server.json").write_bytes((target.folder / "server.json").read_bytes())
    read_or_make_key(stolen)
    assert daemon.find(stolen) is None  # another key


def test_unsupported_requests_are_shortened_and_shown_only_with_the_key(target):
    graphql(target, {"query": "query Q { %s }" % ("x" * 5000)})
    assert "unknown_names" not in json.loads(send(target, "GET", "/healthz")[1])
    names = target.health()["unknown_names"]
    assert names
    assert max(map(len, names)) <= 200


def test_an_empty_host_is_refused_and_a_public_host_causes_a_warning(tmp_path, caplog):
    with pytest.raises(UserError, match="--host is empty"):
        daemon.listen(tmp_path, "", 0)
    assert daemon.announce(tmp_path, "127.0.0.1", 8888) == "http://127.0.0.1:8888"
    assert not caplog.records
    assert daemon.announce(tmp_path, "0.0.0.0", 8888) == "http://127.0.0.1:8888"  # noqa: S104  nothing listens
    assert "other machines can reach this server" in caplog.text


# Requests that could block the server


def test_the_listener_names_tcp_so_that_asyncio_sends_without_delay(tmp_path):
    with daemon.listen(tmp_path, "127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)*$", "(.*)(.*)(.*)(.*)(.*)x"])
def test_a_regex_takes_linear_time(target, pattern):
    query = 'query Q($f: JSONString) { project(name: "p") { runCount(filters: $f) } }'
    filters = json.dumps({"display_name": {"$regex": pattern}})
    _status, text = graphql(target, {"query": query, "variables": {"f": filters}})
    assert json.loads(text)["data"]["project"]["runCount"] == 0


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "(a{1000}){1000}", 5, None])
def test_a_refused_regex_says_so(target, pattern):
    query = 'query Q($f: JSONString) { project(name: "p") { runCount(filters: $f) } }'
    filters = json.dumps({"display_name": {"$regex": pattern}})
    assert "is refused" in graphql(target, {"query": query, "variables": {"f": filters}})[1]


def test_150_keys_of_a_history_are_sampled_in_one_request(target):
    keys = [f"key{n}" for n in range(150)]
    query = SAMPLE
    spec = json.dumps({"keys": ["_step", *keys], "samples": 10})
    _status, text = graphql(target, {"query": query, "variables": {"s": [spec]}})
    (rows,) = json.loads(text)["data"]["project"]["run"]["sampledHistory"]
    assert [row["_step"] for row in rows] == [round(n * 2999 / 9) for n in range(10)]
    assert rows[0] == {"_step": 0} | {key: n for n, key in enumerate(keys)}


def test_a_history_that_is_too_large_for_one_answer_is_refused(target):
    query = '{ project(name: "p") { run(name: "wide") { history(minStep: 0, maxStep: %d) } } }'
    reply = json.loads(graphql(target, {"query": query % 3000})[1])
    assert "page_size" in reply["errors"][0]["message"]
    page = json.loads(graphql(target, {"query": query % 1000})[1])
    assert len(page["data"]["project"]["run"]["history"]) == 1000


def test_long_queries_are_not_cached(target):
    before = graph._cached.cache_info().currsize
    graph._document("{ viewer { id } } #" + "x" * graph.MAX_CACHED_QUERY)
    assert graph._cached.cache_info().currsize == before


def test_health_is_answered_while_the_slowest_requests_run(target):
    regex = {"f": json.dumps({"display_name": {"$regex": "^(a+)+$"}})}
    keys = json.dumps({"keys": [f"key{n}" for n in range(150)], "samples": 3000})
    run = '{ project(name: "p") { run(name: "wide") { history(minStep: 0, maxStep: 3000) } } }'
    worst = [
        {
            "query": 'query Q($f: JSONString) { project(name: "p") { runCount(filters: $f) } }',
            "variables": regex,
        },
        {"query": run},
        {"query": SAMPLE, "variables": {"s": [keys]}},
        {"query": "{ viewer { id } } #" + "x" * 40_000_000},
    ]
    with ThreadPoolExecutor(len(worst)) as pool:
        jobs = [pool.submit(graphql, target, body) for body in worst]
        while not all(job.done() for job in jobs):
            assert target.health()["status"] == "ok"  # health() raises after 10 s
            time.sleep(0.1)
    assert [job.result()[0] for job in jobs] == [200] * 4


def test_half_sent_requests_are_closed(tmp_path):
    code = """
import sys
from loopback import server
server.MAX_WAIT = 1.0
from loopback.__main__ import main
main(["serve", "--dir", sys.argv[1], "--port", "0"])
"""
    folder = tmp_path / "store"
    process = subprocess.Popen(
        [sys.executable, "-c", code, folder], cwd=TESTS, stdout=subprocess.PIPE
    )
    try:
        found = wait_for(lambda: daemon.find(folder), 60)
        port = int(found.url.rpartition(":")[2])
        head = "POST /graphql HTTP/1.1\r\nHost: x\r\n"
        head += f"Authorization: Bearer {found.key}\r\nContent-Length: 100\r\n"
        whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        for sent, last in [
            (b"", b""),
            (b"POST /gra", b""),
            (head.encode() + b"\r\n{", b"408"),
            (whole + b"GET /hea", b"200"),
        ]:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(sent)
                got = b""
                while piece := connection.recv(2**16):
                    got += piece
                assert last in got, sent
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stdout.close()

"""Requests that must be refused: wrong keys, names that lead out of the store, endless bodies.

The server must still answer after all of them.
"""

import base64
import http.client
import json
import stat
import subprocess
import sys
import urllib.parse

import pytest
from loopback.links import signature
from loopback.store import LockedError, Store
from loopback_helpers import TESTS, Served


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A server that may receive unsupported requests. It must answer after all tests."""
    server = Served(tmp_path_factory.mktemp("target")).start()
    yield server
    assert server.health()["status"] == "ok"
    server.stop()
    assert "Traceback" not in server.log()


def send(target, method, path, body=b"", key=None, headers=()):
    """(status, text) of one request, whose path is sent exactly as it is."""
    address = urllib.parse.urlsplit(target.server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    token = base64.b64encode(f"api:{key}".encode()).decode()
    fields = ({"Authorization": f"Basic {token}"} if key is not None else {}) | dict(headers)
    connection.request(method, path, body, fields)
    reply = connection.getresponse()
    return reply.status, reply.read().decode()


def graphql(target, body, key=None):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return send(target, "POST", "/graphql", raw, key or target.server.key)


@pytest.mark.parametrize(
    "key", [None, "", "0" * 40, "\udcff".encode("utf8", "surrogateescape").decode("latin1")]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/graphql"),
        ("POST", "/files/loopback/p/r/file_stream"),
        ("PUT", "/storage/runs/1/x"),
        ("GET", "/storage/runs/1/x"),
        ("GET", "/storage/../key"),
        ("GET", "/anything"),
    ],
)
def test_a_request_without_the_key_is_refused(target, method, path, key):
    status, text = send(target, method, path, b"{}", key)
    assert status in (401, 404)
    assert target.server.key not in text


def test_health_needs_no_key_and_shows_none(target):
    status, text = send(target, "GET", "/healthz")
    assert status == 200
    assert target.server.key not in text
    assert target.server.key not in target.log()


def test_only_the_owner_can_read_the_key(target):
    assert stat.S_IMODE((target.folder / "key").stat().st_mode) == 0o600
    assert len(target.server.key) >= 40


def test_a_link_is_valid_for_one_path_and_one_method(target):
    path = "/storage/runs/1/hello.txt"
    put = f"?signature={signature(target.server.key, 'PUT', path)}"
    get = f"?signature={signature(target.server.key, 'GET', path)}"
    assert send(target, "PUT", path + put, b"hello") == (200, "")
    assert send(target, "GET", path + get) == (200, "hello")
    assert send(target, "GET", path + put)[0] == 401
    assert send(target, "GET", path.replace("hello", "other") + get)[0] == 401
    assert send(target, "PUT", path + get, b"changed")[0] == 401
    assert send(target, "GET", path + get) == (200, "hello")


@pytest.mark.parametrize(
    "name",
    [
        "../../key",
        "..%2f..%2fkey",
        "a/../../../key",
        "%2e%2e/%2e%2e/key",
        "/etc/passwd",
        "..\\..\\key",
        "a%00b",
        "1//x",
        ".",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_path_that_leads_out_of_the_store_is_refused(target, method, name):
    before = (target.folder / "key").read_text()
    status, text = send(target, method, f"/storage/runs/{name}", b"stolen", target.server.key)
    assert status in (400, 404)
    assert before not in text
    assert (target.folder / "key").read_text() == before


@pytest.mark.parametrize(
    "name", ["../../key", "/etc/passwd", "a/../../b", "", ".", "a\0b", "a\\..\\b"]
)
def test_a_run_file_that_leads_out_of_its_folder_is_refused(target, name):
    make = 'mutation { upsertBucket(input: {modelName: "p", name: "r"}) { bucket { id } } }'
    assert graphql(target, {"query": make})[0] == 200
    query = """mutation F($f: [String!]!) {
        createRunFiles(input: {projectName: "p", runName: "r", files: $f}) {
        files { uploadUrl } } }"""
    status, text = graphql(target, {"query": query, "variables": {"f": [name]}})
    assert status == 200
    assert "errors" in json.loads(text)


def test_an_artifact_file_that_leads_out_of_the_artifact_is_refused(target):
    made = """mutation { createArtifact(input: {
        entityName: "loopback", projectName: "p", artifactTypeName: "t",
        artifactCollectionNames: ["c"], digest: "d"}) { artifact { id } } }"""
    reply = json.loads(graphql(target, {"query": made})[1])
    artifact = reply["data"]["createArtifact"]["artifact"]["id"]
    query = """mutation F($a: ID!, $n: String!, $d: String!) {
        createArtifactFiles(input: {artifactFiles: [{artifactID: $a, name: $n, md5: $d}]}) {
        files { edges { node { uploadUrl } } } } }"""
    good = base64.b64encode(bytes(16)).decode()
    for name, digest in [
        ("../x", good),
        ("/x", good),
        ("a/../../x", good),
        ("x", "../../key"),
        ("x", ""),
        ("x", "AAAA"),
    ]:
        variables = {"a": artifact, "n": name, "d": digest}
        reply = json.loads(graphql(target, {"query": query, "variables": variables})[1])
        assert "errors" in reply, (name, digest)
    create = """mutation M($a: ID!) { createArtifactManifest(input: {
        artifactID: $a, name: "m", digest: "d",
        entityName: "loopback", projectName: "p", runName: "r"}) {
        artifactManifest { file { uploadUrl } } } }"""
    reply = json.loads(graphql(target, {"query": create, "variables": {"a": artifact}})[1])
    url = urllib.parse.urlsplit(
        reply["data"]["createArtifactManifest"]["artifactManifest"]["file"]["uploadUrl"]
    )
    evil = {"version": 1, "contents": {"../../key": {"digest": good, "size": 1}}}
    assert send(target, "PUT", f"{url.path}?{url.query}", json.dumps(evil).encode())[0] == 200
    commit = "mutation C($a: ID!) { commitArtifact(input: {artifactID: $a}) { artifact { id } } }"
    assert "lead out" in graphql(target, {"query": commit, "variables": {"a": artifact}})[1]


def test_bytes_with_another_checksum_than_announced_are_refused(target):
    path = f"/storage/objects/00/{'0' * 32}"
    assert send(target, "PUT", path, b"something else", target.server.key)[0] == 400
    assert not (target.folder / "objects" / "00" / ("0" * 32)).exists()
    assert list((target.folder / "objects" / "00").iterdir()) == []


def test_a_body_above_the_limit_is_refused(target):
    huge = {"Content-Length": str(10**12)}
    assert send(target, "POST", "/graphql", b"", target.server.key, huge.items())[0] == 413
    assert (
        send(target, "POST", "/files/a/b/c/file_stream", b"", target.server.key, huge.items())[0]
        == 413
    )

    def endless():
        for _ in range(80):
            yield b" " * 2**20

    address = urllib.parse.urlsplit(target.server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    token = base64.b64encode(f"api:{target.server.key}".encode()).decode()
    try:
        connection.request(
            "POST", "/graphql", endless(), {"Authorization": f"Basic {token}"}, encode_chunked=True
        )
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        assert target.health()["status"] == "ok"  # it closed the connection, which is right too


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        ({"query": 5}, 400),
        ({"query": "{"}, 400),
        ({"query": "{ viewer { id }", "variables": {}}, 400),
        ({"query": "{ viewer { id } }", "variables": []}, 200),
        ({"query": "{" * 30_000}, 400),
        ({"query": "query Q($x: ID!) { view(id: $x) { id } }"}, 200),
        ({"query": '{ view(id: "View:77") { id } }'}, 404),
    ],
)
def test_a_malformed_request_gets_an_error_and_a_message(target, body, status):
    found, text = graphql(target, body)
    assert found == status
    assert status == 200 or json.loads(text)["errors"][0]["message"]


def test_an_unsupported_field_is_logged_once_and_counted_each_time(target):
    before = target.health()["unknown"]
    for _ in range(3):
        status, text = graphql(target, {"query": "query Odd { viewer { shoeSize } }"})
        assert status == 200
        assert "shoeSize" in json.loads(text)["errors"][0]["message"]
    health = target.health()
    assert health["unknown"] == before + 3
    assert any("Odd" in name and "shoeSize" in name for name in health["unknown_names"])
    assert target.log().count("shoeSize") == 1


def test_a_file_stream_request_of_another_shape_is_refused(target):
    make = 'mutation { upsertBucket(input: {modelName: "p", name: "s"}) { bucket { id } } }'
    assert graphql(target, {"query": make})[0] == 200
    path, key = "/files/loopback/p/s/file_stream", target.server.key
    bad = [
        {"offset": -1, "content": ["{}"]},
        {"offset": 0, "content": [5]},
        {"offset": 0, "content": ["{"]},
        {"content": ["[]"]},
        7,
    ]
    for chunk in bad:
        body = json.dumps({"files": {"wandb-history.jsonl": chunk}}).encode()
        assert send(target, "POST", path, body, key)[0] == 400
    assert send(target, "POST", "/files/loopback/p/nobody/file_stream", b"{}", key)[0] == 404
    assert send(target, "POST", path, b"{}", key)[0] == 200


def test_a_store_with_a_server_refuses_a_second_one(target, tmp_path):
    command = [
        sys.executable,
        "-m",
        "loopback",
        "serve",
        "--dir",
        str(target.folder),
        "--port",
        "0",
    ]
    second = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=60)
    assert second.returncode != 0
    assert "another server" in second.stderr
    first = Store(tmp_path / "s")
    with pytest.raises(LockedError, match="another server"):
        Store(first.folder)

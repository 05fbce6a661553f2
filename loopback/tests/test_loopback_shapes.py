"""Requests of any shape, made by hypothesis.

None may cause a status of 500. A refused request changes nothing. The sweep's next heartbeat is
answered.
"""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loopback_helpers import Served
from test_loopback_security import graphql, send

SWEEP = """
method: bayes
metric: {name: loss, goal: minimize}
early_terminate: {type: hyperband, min_iter: 1, eta: 2}
parameters: {x: {min: 0.0, max: 1.0}}
"""
BEAT = """mutation H($i: ID!, $r: JSONString) {
    agentHeartbeat(input: {id: $i, runState: $r}) { commands } }"""
FILES = ("wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json", "output.log")
KEYS = st.sampled_from(["loss", "x", "_step", "_wandb", "value", "_type", ""]) | st.text(max_size=5)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["NaN", "", "\ud800", "\0", 2**63, 2**62])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=3)
LINES = st.lists(
    OBJECTS.map(json.dumps) | VALUES.map(json.dumps) | st.text(max_size=5) | VALUES, max_size=3
)
CHUNKS = VALUES | st.fixed_dictionaries(
    {}, optional={"offset": st.integers(0, 3) | VALUES, "content": LINES | VALUES}
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "files": VALUES
        | st.dictionaries(st.sampled_from(FILES) | st.text(max_size=5), CHUNKS, max_size=3),
        "uploaded": VALUES,
        "preempting": st.booleans() | VALUES,
        "complete": st.booleans() | VALUES,
        "exitcode": st.integers(-1, 1) | VALUES,
    },
)
TEXTS = OBJECTS.map(json.dumps) | VALUES.map(json.dumps) | st.text(max_size=5)
FUZZ = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Sweep:
    """A sweep with one run, and an agent that asks for another one."""

    def __init__(self, server: Served):
        self.server = server
        query = """mutation S($c: String) {
            upsertSweep(input: {projectName: "p", config: $c}) { sweep { id name } } }"""
        made = self.ask(query, c=SWEEP)
        self.id, name = made["upsertSweep"]["sweep"]["id"], made["upsertSweep"]["sweep"]["name"]
        query = """mutation A($s: String!) {
            createAgent(input: {host: "h", projectName: "p", sweep: $s}) { agent { id } } }"""
        made = self.ask(query, s=name)
        self.agent = made["createAgent"]["agent"]["id"]
        (command,) = json.loads(self.ask(BEAT, i=self.agent, r="{}")["agentHeartbeat"]["commands"])
        self.run, self.name = command["run_id"], name
        assert self.stream({"files": {}})[0] == 200

    def ask(self, query: str, **variables) -> dict:
        status, text = graphql(self.server, {"query": query, "variables": variables})
        reply = json.loads(text)
        assert (status, reply.get("errors")) == (200, None), text
        return reply["data"]

    def stream(self, body) -> tuple[int, str]:
        path = f"/files/loopback/p/{self.run}/file_stream"
        return send(self.server, "POST", path, json.dumps(body).encode(), self.server.server.key)

    def content(self) -> dict:
        """Everything of the run that a request can change, without the times of its requests."""
        query = """query R($r: String!) { project(name: "p") { run(name: $r) {
            state config summaryMetrics historyLineCount eventsLineCount logLineCount
            historyKeys history events exitcode tags displayName } } }"""
        return self.ask(query, r=self.run)["project"]["run"]

    def beat(self) -> None:
        """Sends a heartbeat. The server reads the sweep's runs for it and proposes another one."""
        self.ask(BEAT, i=self.agent, r="{}")

    def check_request(self, send_it) -> None:
        """Sends a request and checks what this file's docstring says."""
        before = self.content()
        status, text = send_it()
        refused = status != 200 or "errors" in json.loads(text)
        assert status in (200, 400, 404), text
        after = self.content()
        assert not refused or after == before, text
        self.beat()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    server = Served(tmp_path_factory.mktemp("shapes")).start()
    yield Sweep(server)
    with contextlib.suppress(AssertionError):
        server.stop()
    assert "Traceback" not in server.log(), server.log()[-3000:]


def chunk(*lines: str, file: str = FILES[0], **more) -> dict:
    return {"files": {file: {"content": list(lines)} | more}}


@FUZZ
@example(body=chunk("5", file=FILES[2]))
@example(body=chunk('{"_step": null}'))
@example(body=chunk('{"_step": {}}'))
@example(body=chunk('{"_step": Infinity}'))
@example(body=chunk("{}", offset=10**6))
@example(body=chunk(offset=2**62))
@example(body=chunk(offset=2**63))
@example(body=chunk("line", file=FILES[3], offset=2**62))
@example(body={"files": []})
@example(body={"files": "text"})
@example(body={"uploaded": 5})
@example(body={"complete": True, "exitcode": {}})
@given(body=BODIES)
def test_any_body_of_the_file_stream_is_stored_or_refused(sweep, body):
    sweep.check_request(lambda: sweep.stream(body))


@FUZZ
@example(name="summaryMetrics", text="5")
@example(name="config", text='{"x": 5}')
@example(name="config", text='{"_wandb": {"value": 5}}')
@given(name=st.sampled_from(["config", "summaryMetrics"]), text=TEXTS)
def test_any_config_or_summary_of_a_run_is_stored_or_refused(sweep, name, text):
    query = """mutation U($r: String, $t: JSONString) {
        upsertBucket(input: {modelName: "p", name: $r, %s: $t}) { inserted } }"""
    sweep.check_request(
        lambda: graphql(
            sweep.server, {"query": query % name, "variables": {"r": sweep.run, "t": text}}
        )
    )


READS = [
    """query Q($t: JSONString) { project(name: "p") {
        runCount(filters: $t) runs(filters: $t) { edges { node { id } } } } }""",
    """query Q($t: JSONString!, $r: String!) {
        project(name: "p") { run(name: $r) { sampledHistory(specs: [$t]) } } }""",
]


@FUZZ
@given(query=st.sampled_from(READS), text=TEXTS)
def test_any_filter_or_sample_of_a_query_is_answered_or_refused(sweep, query, text):
    sweep.check_request(
        lambda: graphql(sweep.server, {"query": query, "variables": {"r": sweep.run, "t": text}})
    )


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "y" * 300, "ä" * 130])
def test_a_file_name_above_255_bytes_is_refused(sweep, name):
    from urllib.parse import quote

    path, key = f"/storage/runs/1/{quote(name)}", sweep.server.server.key
    assert send(sweep.server, "PUT", path, b"x", key)[0] == 400


def test_a_file_in_place_of_a_folder_is_refused_and_the_reverse(sweep):
    key = sweep.server.server.key
    assert send(sweep.server, "PUT", "/storage/runs/1/a/b", b"x", key)[0] == 200
    assert send(sweep.server, "PUT", "/storage/runs/1/a", b"x", key)[0] == 400
    assert send(sweep.server, "PUT", "/storage/runs/1/a/b/c", b"x", key)[0] == 400
    assert send(sweep.server, "PUT", "/storage/runs/1", b"x", key)[0] == 400
    assert send(sweep.server, "PUT", "/storage/runs/x/y", b"x", key)[0] == 400

"""The server's decisions, tested without processes: searches, queues, lost agents, restarts."""

import base64
import json
import math
import time

import pytest
import sweeps
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback.common import Context
from loopback.graph import UnsupportedRequests, answer
from loopback.links import Links
from loopback.search import Search, SearchedRun
from loopback.store import Store
from loopback.stream import receive

from loopback import agents, lifecycle

LOSSES = st.lists(
    st.floats(-1e6, 1e6) | st.just("NaN") | st.just(math.nan) | st.none(), max_size=12
)
STATES = st.sampled_from(
    ["pending", "running", "finished", "failed", "killed", "crashed", "preempted"]
)


class Lab:
    """A store with GraphQL and the file stream, without HTTP."""

    def __init__(self, folder):
        self.store = Store(folder)
        self.search, self.unsupported = Search(self.store), UnsupportedRequests()

    def do(self, query, **variables):
        context = Context(self.store, self.search, Links("http://test", "k" * 40))
        status, reply = answer(context, self.unsupported, {"query": query, "variables": variables})
        assert status == 200, reply
        assert "errors" not in reply, reply
        return reply["data"]

    def sweep(self, **config):
        config = {"program": "t.py", "metric": {"name": "loss", "goal": "minimize"}} | config
        query = """mutation S($c: String) {
            upsertSweep(input: {config: $c, projectName: "p"}) { sweep { name } } }"""
        return self.do(query, c=yaml.safe_dump(config))["upsertSweep"]["sweep"]["name"]

    def agent(self, sweep):
        query = """mutation A($s: String!) {
            createAgent(input: {host: "h", projectName: "p", sweep: $s}) { agent { id } } }"""
        return self.do(query, s=sweep)["createAgent"]["agent"]["id"]

    def beat(self, agent, *alive):
        query = """mutation H($i: ID!, $r: JSONString) {
            agentHeartbeat(input: {id: $i, runState: $r}) { commands } }"""
        beat = self.do(query, i=agent, r=json.dumps(dict.fromkeys(alive, True)))
        return json.loads(beat["agentHeartbeat"]["commands"])

    def begin(self, run):
        query = """mutation B($n: String) {
            upsertBucket(input: {modelName: "p", name: $n}) { inserted } }"""
        self.do(query, n=run)

    def log(self, run, losses, offset=0, **more):
        rows = [
            json.dumps({"_step": offset + n + 1, "loss": loss}) for n, loss in enumerate(losses)
        ]
        body = {"files": {"wandb-history.jsonl": {"offset": offset, "content": rows}}} | more
        if losses:
            body["files"]["wandb-summary.json"] = {
                "offset": 0,
                "content": [json.dumps({"loss": losses[-1]})],
            }
        return receive(self.store, self.search, "loopback", "p", run, body)

    def run_of(self, sweep, name):
        return self.store.one("SELECT * FROM runs WHERE name = ?", name)

    def state(self, sweep):
        return self.store.value("SELECT state FROM sweeps WHERE name = ?", sweep)


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def start(lab, agent):
    (command,) = lab.beat(agent)
    lab.begin(command["run_id"])
    return command["run_id"]


@given(
    st.lists(st.tuples(STATES, LOSSES, st.none() | st.floats(-1e6, 1e6)), max_size=8), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_runs_in_memory_give_the_same_decisions_as_complete_runs(runs, maximize):
    """Early termination and the Gaussian process must not depend on how a run keeps its history."""
    goal = "maximize" if maximize else "minimize"
    config = {
        "method": "bayes",
        "metric": {"name": "loss", "goal": goal, "impute": "latest"},
        "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2},
        "parameters": {"x": {"min": 0.0, "max": 1.0}},
    }
    whole, watched = [], []
    for number, (state, losses, summary) in enumerate(runs):
        common = {"name": str(number), "state": state, "config": {"x": {"value": number / 10}}}
        common["summary_metrics"] = {} if summary is None else {"loss": summary}
        whole.append(sweeps.SweepRun(**common, history=[{"loss": loss} for loss in losses]))
        watched.append(SearchedRun(**common))
        watched[-1].add(losses)
    stopped = [[run.name for run in sweeps.stop_runs(config, some)] for some in (whole, watched)]
    assert stopped[0] == stopped[1]
    from sweeps.bayes_search import _construct_gp_data

    expected, found = (_construct_gp_data(some, config)[1:4] for some in (whole, watched))
    for one, other in zip(expected, found, strict=True):
        assert list(map(str, one)) == list(map(str, other))


def test_each_point_of_a_grid_is_assigned_once(lab):
    sweep = lab.sweep(
        method="grid", parameters={"x": {"values": [1, 2]}, "y": {"values": ["a", None]}}
    )
    agent, seen = lab.agent(sweep), []
    for _ in range(4):
        (command,) = lab.beat(agent)
        seen.append((command["args"]["x"]["value"], command["args"]["y"]["value"]))
        lab.begin(command["run_id"])
        lab.log(command["run_id"], [1.0], complete=True, exitcode=0)
    assert len(set(seen)) == 4
    assert lab.beat(agent) == [{"type": "exit"}]
    assert lab.state(sweep) == "FINISHED"


def test_a_sweep_at_its_run_cap_finishes_with_its_last_run(lab):
    sweep = lab.sweep(method="random", run_cap=2, parameters={"x": {"min": 0.0, "max": 1.0}})
    one, two, three = (lab.agent(sweep) for _ in range(3))
    first, second = start(lab, one), start(lab, two)
    assert lab.beat(three) == []
    lab.log(first, [1], complete=True, exitcode=0)
    assert lab.beat(one) == []
    lab.log(second, [1], complete=True, exitcode=0)
    assert lab.beat(one) == lab.beat(three) == [{"type": "exit"}]
    assert lab.state(sweep) == "FINISHED"


def test_hyperband_stops_the_worse_run(lab):
    early = {"type": "hyperband", "min_iter": 3, "eta": 3}
    sweep = lab.sweep(
        method="random", early_terminate=early, parameters={"x": {"min": 0.0, "max": 1.0}}
    )
    good, bad = lab.agent(sweep), lab.agent(sweep)
    ahead, behind = start(lab, good), start(lab, bad)
    assert not lab.log(ahead, [1, 1, 1])["stopped"]
    assert not lab.log(behind, [5, 5])["stopped"]
    assert lab.log(behind, [5], offset=2)["stopped"]
    assert lab.beat(bad, behind) == [{"type": "stop", "run_id": behind}]
    assert lab.beat(good, ahead) == []
    lab.log(behind, [], exitcode=1, complete=True)
    assert lab.run_of(sweep, behind)["state"] == "killed"


def test_a_target_ends_the_search_but_not_the_runs(lab):
    metric = {"name": "loss", "goal": "minimize", "target": 0.5}
    sweep = lab.sweep(method="random", metric=metric, parameters={"x": {"min": 0.0, "max": 1.0}})
    one, two = lab.agent(sweep), lab.agent(sweep)
    first, second = start(lab, one), start(lab, two)
    lab.log(first, [0.4], complete=True, exitcode=0)
    assert lab.beat(one) == [{"type": "exit"}]
    assert lab.state(sweep) == "FINISHED"
    assert lab.beat(two, second) == []


def test_a_line_that_is_sent_twice_is_stored_once(lab):
    sweep = lab.sweep(method="random", parameters={"x": {"min": 0.0, "max": 1.0}})
    run = start(lab, lab.agent(sweep))
    lab.log(run, [5, 4, 3])
    lab.log(run, [4, 3, 2], offset=1)  # the answer was lost: two lines are sent again, one is new
    rows = lab.store.all("SELECT row FROM history ORDER BY line")
    assert [json.loads(row["row"])["loss"] for row in rows] == [5, 4, 3, 2]
    keys = json.loads(lab.run_of(sweep, run)["history_keys"])
    assert keys["keys"]["loss"]["typeCounts"] == [{"type": "number", "count": 4}]


def test_a_preempted_run_waits_for_the_next_agent(lab):
    sweep = lab.sweep(method="grid", parameters={"x": {"values": [1]}})
    one, two = lab.agent(sweep), lab.agent(sweep)
    run = start(lab, one)
    lab.log(run, [1], preempting=True)
    lab.begin(run)  # the upsert at the end of a run changes nothing
    lab.log(run, [], complete=True, exitcode=1)
    assert lab.run_of(sweep, run)["state"] == "preempted"
    (command,) = lab.beat(two)
    assert (command["type"], command["run_id"], command["args"]) == (
        "resume",
        run,
        {"x": {"value": 1}},
    )
    lab.begin(run)
    lab.log(run, [0.5], offset=1, complete=True, exitcode=0)
    assert lab.run_of(sweep, run)["state"] == "finished"
    assert lab.beat(two) == [{"type": "exit"}]


def test_a_run_that_its_agent_no_longer_reports_is_ended(lab, monkeypatch):
    monkeypatch.setattr(agents, "SECONDS_TO_FINISH", 0.0)
    sweep = lab.sweep(method="random", parameters={"x": {"min": 0.0, "max": 1.0}})
    agent = lab.agent(sweep)
    begun = start(lab, agent)
    (second,) = lab.beat(agent)  # it reports no run: the first one is missing
    lab.beat(agent, second["run_id"])
    assert lab.run_of(sweep, begun)["state"] == "crashed"
    lab.beat(agent)
    lab.beat(agent)
    assert lab.run_of(sweep, second["run_id"])["state"] == "failed"  # it ended before it began


def test_a_run_that_a_lost_agent_did_not_start_is_assigned_to_another_agent(lab):
    sweep = lab.sweep(method="grid", parameters={"x": {"values": [1, 2, 3]}})
    lost, other = lab.agent(sweep), lab.agent(sweep)
    begun = start(lab, other)
    (command,) = lab.beat(lost)
    agents.reap(lab.store, lost_after=0.0, since=time.time() - 60)
    assert lab.run_of(sweep, begun)["state"] == "crashed"
    assert lab.run_of(sweep, command["run_id"])["queued"] is not None
    (again,) = lab.beat(other)
    assert (again["run_id"], again["args"]) == (command["run_id"], command["args"])
    lab.log(begun, [1])  # it was only slow
    assert lab.run_of(sweep, begun)["state"] == "running"


def test_a_server_that_has_just_started_marks_nothing_as_lost(lab):
    sweep = lab.sweep(method="grid", parameters={"x": {"values": [1]}})
    run = start(lab, lab.agent(sweep))
    lab.store.write("UPDATE runs SET seen = 0")
    lab.store.write("UPDATE agents SET seen = 0")
    agents.reap(lab.store, lost_after=60.0, since=time.time())
    assert lab.run_of(sweep, run)["state"] == "running"


def test_a_command_of_an_earlier_server_process_is_sent_again(lab, monkeypatch):
    sweep = lab.sweep(method="grid", parameters={"x": {"values": [1, 2]}})
    agent = lab.agent(sweep)
    (command,) = lab.beat(agent)  # killed before the answer arrived
    monkeypatch.setattr(agents, "SERVER_INSTANCE", "next")
    (again,) = lab.beat(agent)
    assert again == command
    assert lab.store.value("SELECT COUNT(*) FROM runs") == 1
    assert lab.beat(agent, command["run_id"]) == []


def test_a_new_search_reads_the_same_runs_from_the_store(tmp_path):
    first = Lab(tmp_path)
    sweep = first.sweep(method="bayes", parameters={"x": {"min": 0.0, "max": 1.0}})
    agent = first.agent(sweep)
    for loss in (3, 2, 1):
        first.log(start(first, agent), [loss, loss / 2], complete=True, exitcode=0)
    row = first.store.one("SELECT * FROM sweeps")
    kept = first.search.refresh(row).runs
    fresh = Search(first.store).refresh(row).runs
    assert [one.metric_history("loss") for one in fresh.values()] == [[3, 1.5], [2, 1.0], [1, 0.5]]
    assert {key: one.model_dump() for key, one in kept.items()} == {
        key: t.model_dump() for key, t in fresh.items()
    }


def test_an_id_of_another_table_is_refused(lab):
    sweep = lab.sweep(method="grid", parameters={"x": {"values": [1]}})
    run = start(lab, lab.agent(sweep))
    number = lab.run_of(sweep, run)["id"]
    context = Context(lab.store, lab.search, Links("http://test", "k" * 40))
    query = "mutation D($i: ID!) { deleteRun(input: {id: $i}) { clientMutationId } }"
    for other in (
        f"Sweep:{number}",
        f"Agent:{number}",
        base64.b64encode(f"Sweep:{number}".encode()).decode(),
    ):
        status, reply, *_ = answer(
            context, lab.unsupported, {"query": query, "variables": {"i": other}}
        )
        assert (status, reply["errors"][0]["message"]) == (404, f"{other} is not the id of a run")
    assert lab.run_of(sweep, run) is not None


def test_the_grid_point_of_a_deleted_run_is_assigned_again(lab):
    sweep = lab.sweep(method="grid", parameters={"x": {"values": [1]}})
    agent = lab.agent(sweep)
    run = start(lab, agent)
    lab.log(run, [1], complete=True, exitcode=0)
    number = lab.run_of(sweep, run)["id"]
    lab.do(
        "mutation D($i: ID!) { deleteRun(input: {id: $i}) { clientMutationId } }", i=f"Run:{number}"
    )
    (command,) = lab.beat(agent)
    assert (command["run_id"] != run, command["args"]) == (True, {"x": {"value": 1}})


def test_every_field_of_runs_and_sweeps_has_a_value_or_a_resolver(lab):
    sweep = lab.sweep(method="grid", parameters={"x": {"values": [1]}})
    run = start(lab, lab.agent(sweep))
    lab.log(run, [1.0])
    fields = {
        "run": "id name displayName projectId state config wandbConfig summaryMetrics "
        "systemMetrics tags notes description group jobType commit host program readOnly createdAt "
        "updatedAt heartbeatAt exitcode stopped shouldStop failed running sweepName "
        "historyLineCount eventsLineCount logLineCount historyTail eventsTail historyKeys "
        "fileCount",
        "sweep": "id name displayName method state description config createdAt updatedAt "
        "heartbeatAt bestLoss runCount runCountExpected controller scheduler controllerRunName "
        "earlyStopJobRunning",
    }
    query = f"""query Q($r: String!, $s: String!) {{ project(name: "p") {{
        run(name: $r) {{ {fields["run"]} }} sweep(sweepName: $s) {{ {fields["sweep"]} }} }} }}"""
    found = lab.do(query, r=run, s=sweep)["project"]
    assert found["run"]["sweepName"] == sweep
    assert found["sweep"]["bestLoss"] == 1.0
    assert lab.unsupported.total() == 0


NESTED = {"deep": {"parameters": {"z": {"values": [5, 6]}}}, "y": {"values": [3, 4]}}


@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
def test_nested_parameters_are_proposed(lab, method):
    sweep = lab.sweep(
        method=method, parameters={"x": {"values": [1, 2]}, "nest": {"parameters": NESTED}}
    )
    agent, seen = lab.agent(sweep), []
    for _ in range(8):
        (command,) = lab.beat(agent)
        nest = command["args"]["nest"]["value"]
        seen.append((command["args"]["x"]["value"], nest["y"], nest["deep"]["z"]))
        lab.begin(command["run_id"])
        lab.log(command["run_id"], [1.0], complete=True, exitcode=0)
    assert {value[1] for value in seen} <= {3, 4} and {value[2] for value in seen} <= {5, 6}
    if method == "grid":
        assert len(set(seen)) == 8
        assert lab.beat(agent) == [{"type": "exit"}]


def change_cap(lab, sweep, cap):
    """Changes a sweep's run_cap as `wandb sweep --update` does."""
    row = lab.store.one("SELECT * FROM sweeps WHERE name = ?", sweep)
    config = yaml.safe_dump(yaml.safe_load(row["config"]) | {"run_cap": cap})
    query = """mutation U($i: ID, $c: String) {
        upsertSweep(input: {id: $i, config: $c}) { sweep { state } } }"""
    lab.do(query, i=f"Sweep:{row['id']}", c=config)


@pytest.mark.parametrize("ended", [True, False], ids=["finished", "last run still running"])
def test_a_higher_cap_allows_further_runs(lab, ended):
    sweep = lab.sweep(method="random", run_cap=1, parameters={"x": {"min": 0.0, "max": 1.0}})
    one, two = lab.agent(sweep), lab.agent(sweep)
    run = start(lab, one)
    assert lab.beat(two) == []
    if ended:
        lab.log(run, [1], complete=True, exitcode=0)
        assert lab.beat(two) == [{"type": "exit"}]
        assert lab.state(sweep) == "FINISHED"
    change_cap(lab, sweep, 2)
    assert lab.state(sweep) == "RUNNING"
    assert start(lab, two) != run
    assert lab.beat(lab.agent(sweep)) == []


def test_deleting_a_run_resumes_a_finished_grid(lab):
    sweep = lab.sweep(method="grid", parameters={"x": {"values": [1]}})
    agent = lab.agent(sweep)
    run = start(lab, agent)
    lab.log(run, [1], complete=True, exitcode=0)
    assert lab.beat(agent) == [{"type": "exit"}]
    delete = "mutation D($i: ID!) { deleteRun(input: {id: $i}) { clientMutationId } }"
    lab.do(delete, i=f"Run:{lab.run_of(sweep, run)['id']}")
    assert lab.state(sweep) == "RUNNING"
    assert lab.beat(lab.agent(sweep))[0]["args"] == {"x": {"value": 1}}


def test_a_stopped_sweep_stays_stopped_when_a_run_is_deleted(lab):
    sweep = lab.sweep(method="random", parameters={"x": {"min": 0.0, "max": 1.0}})
    run = start(lab, lab.agent(sweep))
    number = lab.store.value("SELECT id FROM sweeps WHERE name = ?", sweep)
    stop = (
        'mutation U($i: ID) { upsertSweep(input: {id: $i, state: "FINISHED"}) { sweep { state } } }'
    )
    lab.do(stop, i=f"Sweep:{number}")
    delete = "mutation D($i: ID!) { deleteRun(input: {id: $i}) { clientMutationId } }"
    lab.do(delete, i=f"Run:{lab.run_of(sweep, run)['id']}")
    assert lab.state(sweep) == "FINISHED"


ODD = [None, True, 5, -1e300, "abc", [1], {"a": 1}, 2**70]


@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
def test_runs_with_unexpected_values_break_no_heartbeat(lab, method):
    """An earlier version may have accepted them, or somebody may have edited them."""
    parameters = {"x": {"values": [1, 2, 3]}, "nest": {"parameters": NESTED}}
    if method != "grid":
        parameters |= {"float": {"min": 0.0, "max": 1.0}}
    early = {"type": "hyperband", "min_iter": 1, "eta": 2}
    sweep = lab.sweep(method=method, parameters=parameters, early_terminate=early)
    agent = lab.agent(sweep)
    good = {
        name: {"value": value}
        for name, value in {"x": 1, "nest": {"y": 3, "deep": {"z": 5}}, "float": 0.5}.items()
    }
    rows = [{"summary": json.dumps(value)} for value in ODD] + [
        {"config": json.dumps(value)} for value in ODD
    ]
    for value in ODD:
        nests = [value, {"y": value}, {"deep": value}]
        rows += [
            {"summary": json.dumps({"loss": value})},
            {"config": json.dumps(good | {"x": value})},
        ]
        rows += [{"config": json.dumps(good | {name: {"value": value}})} for name in ("x", "float")]
        rows += [{"config": json.dumps(good | {"nest": {"value": nest}})} for nest in nests]
    runs = []
    for row in rows:
        name = f"odd-{len(runs)}"
        lab.begin(name)
        runs.append(lab.run_of(sweep, name)["id"])
        columns = {"config": json.dumps(good)} | row
        lifecycle.change(lab.store, runs[-1], sweep_id=1, state="finished", **columns)
    (command,) = lab.beat(agent)
    assert command["type"] == "run"
    assert command["args"].keys() == parameters.keys()

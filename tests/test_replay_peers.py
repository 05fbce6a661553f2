"""Searches of other packages: the protocol, their environments, and each that is installed."""

import json
import math
import re
import subprocess
import sys
import textwrap

import pytest
from click.testing import CliRunner

from benchmarks.replay import __main__ as table
from benchmarks.replay import peers
from benchmarks.replay.clock import replay
from benchmarks.replay.engines import ENGINES, PEERS, ProcessEngine
from benchmarks.replay.measure import measure
from benchmarks.replay.peers import __main__ as installer
from benchmarks.replay.peers.protocol import AtEnd, Dimension, parse, serve
from benchmarks.replay.tasks import ACTIVATIONS, FULL, SPACE, WORST, Synthetic


class Toy(AtEnd):
    """Proposes one configuration and records what it gets."""

    def __init__(self, space, seed, full):
        super().__init__(space, full)
        self.received = []

    def propose(self):
        return (
            f"handle {self.asked}",
            {"batch_size": 7.6, "learning_rate": 0.2, "activation": "null"},
            3.0,
        )

    def tell(self, handle, loss, status):
        self.received.append((handle, loss, status))


def test_every_message_gets_its_answer():
    made, answers = [], []

    def make(space, seed, full):
        made.append(Toy(space, seed, full))
        return made[0]

    messages = [
        {"space": SPACE, "seed": 5, "full": 9},
        {"ask": True},
        {"report": "0", "epoch": 1, "value": 0.5},
        {"report": "0", "epoch": 2, "value": 0.4},
        {"ended": "0", "status": "finished"},
        {"ask": True},
    ]
    serve(make, map(json.dumps, messages), lambda line: answers.append(json.loads(line)))
    run = {
        "params": {"batch_size": 8, "learning_rate": 0.1, "activation": None},
        "epochs": 3,
    }  # within the bounds
    stop = {"stop": False}
    assert answers == [{}, {"key": "0"} | run, stop, stop, {}, {"key": "1"} | run]
    assert made[0].received == [("handle 0", 0.4, "finished")] and made[0].full == 9


def test_a_space_is_parsed_and_an_unsupported_parameter_is_an_error():
    space = SPACE | {
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 0.5}
    }
    dimensions = parse(space)
    assert dimensions["learning_rate"] == Dimension(1e-5, 0.5) and dimensions[
        "batch_size"
    ] == Dimension(1, 32, whole=True)
    assert [
        dimensions["activation"].value(label) for label in dimensions["activation"].labels
    ] == list(ACTIVATIONS)
    assert "epochs" not in dimensions
    with pytest.raises(ValueError, match="momentum"):
        parse({"momentum": {"distribution": "normal", "mu": 0, "sigma": 1}})


def script(tmp_path, body):
    """Command of a peer made from a script."""
    path = tmp_path / "peer.py"
    path.write_text(
        f"import sys\nsys.path.insert(0, {str(peers.HERE)!r})\nfrom protocol import main\n"
        + textwrap.dedent(body)
    )
    return [sys.executable, str(path)]


def test_what_a_package_prints_is_not_taken_for_an_answer(tmp_path):
    command = script(
        tmp_path,
        """
        class Chatty:
            def ask(self):
                print("hello")
                return "a", {}, 1
        main(lambda space, seed, full: print("made") or Chatty())
        """,
    )
    engine = ProcessEngine(command, seed=0)
    assert engine.ask() == ("a", {}, 1)
    engine.close()
    assert engine.process.returncode == 0


def test_a_failing_peer_is_named_in_the_error_and_leaves_no_process(tmp_path, monkeypatch):
    command = script(
        tmp_path,
        "main(lambda space, seed, full: type('Broken', (), {'ask': lambda self: 1 / 0})())",
    )
    made = []

    def engine(seed):
        made.append(ProcessEngine(command, seed))
        return made[0]

    monkeypatch.setitem(ENGINES, "broken", engine)
    with pytest.raises(RuntimeError, match=re.escape(f"{command[1]} ended with 1")):
        measure("synthetic", 0, "broken", 4, 10)
    assert made[0].process.poll() == 1
    with pytest.raises(RuntimeError, match="ended with 3"):
        ProcessEngine([sys.executable, "-c", "raise SystemExit(3)"], seed=0)


def test_a_missing_environment_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"python -m benchmarks\.replay\.peers hyperopt_tpe"
    ):
        ENGINES["hyperopt tpe"](0)
    result = CliRunner().invoke(table.main, ["--only", "hyperopt tpe"])
    assert (
        result.exit_code == 1 and "python -m benchmarks.replay.peers hyperopt_tpe" in result.output
    )


def test_every_peer_has_a_script_and_exact_versions():
    assert {name for name, *_ in PEERS.values()} == set(peers.NAMES)
    for name in peers.NAMES:
        assert (peers.HERE / f"{name}.py").exists()
        assert all(
            re.fullmatch(r"[\w.-]+==[\w.]+", line)
            for line in peers.requirements_of(name).splitlines()
        )


def test_the_installer_skips_ready_peers_and_continues_after_a_failure(tmp_path, monkeypatch):
    first, second, third = peers.NAMES[:3]
    ran = []

    def run(command, **_):
        name = next(name for name in peers.NAMES if any(name in part for part in command))
        ran.append(name)
        if name == second:
            raise subprocess.CalledProcessError(1, command)
        (tmp_path / name).mkdir(exist_ok=True)

    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(installer, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    (tmp_path / first).mkdir()
    (tmp_path / first / "ready").write_text(peers.requirements_of(first))
    result = CliRunner().invoke(installer.main, [first, second, third])
    assert result.exit_code == 1 and ran == [second, third, third]
    assert (
        f"not installed: {second}; again with: python -m benchmarks.replay.peers {second}"
        in result.output
    )
    assert peers.is_ready(first) and peers.is_ready(third) and not peers.is_ready(second)


@pytest.mark.parametrize("name", PEERS)
def test_an_installed_peer_searches_within_the_space_and_the_budgets(name):
    peer = PEERS[name][0]
    if not peers.is_ready(peer):
        pytest.skip(f"not installed: {peers.INSTALL} {peer}")
    engine, budgets = ENGINES[name](3), []
    ask = engine.ask

    def noted():
        answer = ask()
        budgets.append(answer[2])
        return answer

    engine.ask = noted
    try:
        trace = replay(engine, Synthetic(3), agents=4, budget=120)
    finally:
        engine.close()
    assert math.isfinite(trace.best[-1]) and trace.best[-1] < WORST
    assert all(isinstance(budget, int) and 1 <= budget <= FULL for budget in budgets)
    for run in trace.runs:
        batch, rate = run["params"]["batch_size"], run["params"]["learning_rate"]
        assert isinstance(batch, int) and 1 <= batch <= 32 and 1e-4 <= rate <= 0.1
        assert run["params"]["activation"] in ACTIVATIONS
    assert len({json.dumps(run["params"]) for run in trace.runs}) > 4

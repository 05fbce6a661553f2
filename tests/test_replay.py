"""The replay benchmark: nothing is known before its time, agents share the clock, and it repeats exactly."""

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from benchmarks.replay.clock import replay
from benchmarks.replay.engines import ENGINES, PEERS, ProcessEngine
from benchmarks.replay.tasks import FULL, WORST, Synthetic


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices this small are slower on many threads, much slower where other programs run."""
    with threadpool_limits(1):
        yield


class Scripted:
    """An engine that asks for given runs and writes down what it hears."""

    def __init__(self, runs, stop_at=None):
        self.runs, self.stop_at, self.heard = iter(runs), stop_at, []

    def ask(self):
        params, epochs = next(self.runs)
        key = f"run {sum(what[0] == 'ask' for what in self.heard)}"
        self.heard.append(("ask", key))
        return key, params, epochs

    def report(self, key, epoch, value):
        self.heard.append((key, epoch, value))
        return epoch == self.stop_at

    def ended(self, key, status):
        self.heard.append(("ended", key, status))


GOOD = {"batch_size": 8, "learning_rate": 0.001, "activation": "relu"}
SLOW = GOOD | {"batch_size": 1}


def test_curves_have_the_shapes_of_real_ones():
    for seed in range(5):
        task = Synthetic(seed)
        final = np.array([truth[-1] for _, truth in task.grid])
        assert 0.03 < np.mean(final == WORST) < 0.6  # some diverge
        assert 0.005 < np.mean(final < 1.05 * task.optimum) < 0.1  # few are good
        assert 1 < task.oracle(0.05) <= task.oracle(0.02) <= FULL
        first = np.array([truth[0] for _, truth in task.grid])
        assert 0.3 < np.corrcoef(first[final < WORST], final[final < WORST])[0, 1] < 0.999  # the first epoch tells something


def test_two_repeats_differ_by_noise_alone():
    task = Synthetic(0)
    (one, dead), (two, _) = task.run(GOOD, 0), task.run(GOOD, 1)
    assert not dead and not np.array_equal(one, two)
    np.testing.assert_allclose(one, task.truth(GOOD), rtol=0.1)
    np.testing.assert_array_equal(one, task.run(GOOD, 0)[0])


def test_no_look_ahead():
    """What an engine hears until a moment does not depend on what would have come later."""

    class Cut(Synthetic):
        def run(self, params, repeat):
            values, dead = super().run(params, repeat)
            return np.concatenate([values[:4], 9.0 + values[4:]]), dead

    heard = []
    for task in (Synthetic(1), Cut(1)):
        engine = Scripted([(GOOD, 27)] * 4)
        replay(engine, task, agents=4, budget=4 * 4)
        heard.append(engine.heard)
    assert heard[0] == heard[1]


def test_the_clock_lets_fast_runs_report_first_and_honours_budgets_and_stops():
    task = Synthetic(1)
    engine = Scripted([(SLOW, 27), (GOOD, 3), (GOOD, 27), (GOOD, 27)])
    trace = replay(engine, task, agents=2, budget=6)
    assert [h[0] for h in engine.heard[2:6]] == ["run 1", "run 1", "run 1", "ended"]  # 1.5 s an epoch against 5 s
    assert trace.seconds == sorted(trace.seconds) and trace.epochs == list(range(1, 7))
    assert trace.best == sorted(trace.best, reverse=True)
    engine = Scripted([(GOOD, 27)] * 9, stop_at=2)
    replay(engine, task, agents=1, budget=4)
    assert [h for h in engine.heard if h[0] == "ended"] == [("ended", f"run {i}", "stopped") for i in range(2)]


def test_a_run_that_diverges_ends_and_is_no_success():
    task = Synthetic(1)
    engine = Scripted([(GOOD | {"learning_rate": 0.1, "activation": a}, 27) for a in ("relu", "tanh", "swish", None)] * 9)
    trace = replay(engine, task, agents=1, budget=8)
    ended = [h for h in engine.heard if h[0] == "ended"]
    assert ended and all(status == "diverged" for *_, status in ended)
    assert min(trace.best) >= WORST
    assert trace.until(1.0) is None and trace.until(WORST) is not None


@pytest.mark.parametrize("name", [name for name in ENGINES if name not in PEERS])
def test_every_engine_repeats_exactly(name):
    first, again = (replay(ENGINES[name](3), Synthetic(2), budget=60) for _ in range(2))
    assert first.best == again.best and [run["params"] for run in first.runs] == [run["params"] for run in again.runs]


def test_an_engine_may_live_in_another_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parent.parent))
    script = tmp_path / "peer.py"
    script.write_text(
        textwrap.dedent("""
        from benchmarks.replay.engines import ENGINES
        from benchmarks.replay.peers.protocol import main
        main(lambda space, seed, full: ENGINES["ours tpe_halving"](seed))
        """)
    )
    engine = ProcessEngine([sys.executable, "-W", "ignore", str(script)], seed=3)
    there, here = replay(engine, Synthetic(2), budget=60), replay(ENGINES["ours tpe_halving"](3), Synthetic(2), budget=60)
    engine.close()
    assert there.best == here.best

"""The replay benchmark: no look-ahead, one clock for all agents, exact repetition, the report."""

import csv
import json
import math
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks.replay import __main__ as command
from benchmarks.replay import lines, report
from benchmarks.replay.clock import replay
from benchmarks.replay.curves import COLUMNS
from benchmarks.replay.engines import ENGINES, PEERS, ProcessEngine
from benchmarks.replay.lines import KEY, Key
from benchmarks.replay.measure import workers
from benchmarks.replay.tasks import FULL, WORST, Curves, Synthetic


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices this small are slower on many threads, much slower where other programs run."""
    with threadpool_limits(1):
        yield


class Scripted:
    """An engine that asks for given runs and records all calls."""

    def __init__(self, runs, stop_at=None):
        self.runs, self.stop_at, self.calls = iter(runs), stop_at, []

    def ask(self):
        params, epochs = next(self.runs)
        key = f"run {sum(what[0] == 'ask' for what in self.calls)}"
        self.calls.append(("ask", key))
        return key, params, epochs

    def report(self, key, epoch, value):
        self.calls.append((key, epoch, value))
        return epoch == self.stop_at

    def ended(self, key, status):
        self.calls.append(("ended", key, status))


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
        assert (
            0.3 < np.corrcoef(first[final < WORST], final[final < WORST])[0, 1] < 0.999
        )  # the first epoch is informative


def test_two_repeats_differ_by_noise_alone():
    task = Synthetic(0)
    (one, dead), (two, _) = task.run(GOOD, 0), task.run(GOOD, 1)
    assert not dead and not np.array_equal(one, two)
    np.testing.assert_allclose(one, task.truth(GOOD), rtol=0.1)
    np.testing.assert_array_equal(one, task.run(GOOD, 0)[0])


def test_an_engine_sees_nothing_that_happens_later():
    """What it gets up to a moment does not depend on values after it."""

    class Cut(Synthetic):
        def run(self, params, repeat):
            values, dead = super().run(params, repeat)
            return np.concatenate([values[:4], 9.0 + values[4:]]), dead

    seen = []
    for task in (Synthetic(1), Cut(1)):
        engine = Scripted([(GOOD, 27)] * 4)
        replay(engine, task, agents=4, budget=4 * 4)
        seen.append(engine.calls)
    assert seen[0] == seen[1]


def test_fast_runs_report_first_and_runs_end_at_their_budget_or_when_stopped():
    task = Synthetic(1)
    engine = Scripted([(SLOW, 27), (GOOD, 3), (GOOD, 27), (GOOD, 27)])
    trace = replay(engine, task, agents=2, budget=6)
    assert [h[0] for h in engine.calls[2:6]] == [
        "run 1",
        "run 1",
        "run 1",
        "ended",
    ]  # 1.5 s an epoch against 5 s
    assert trace.seconds == sorted(trace.seconds) and trace.epochs == list(range(1, 7))
    assert trace.best == sorted(trace.best, reverse=True)
    engine = Scripted([(GOOD, 27)] * 9, stop_at=2)
    replay(engine, task, agents=1, budget=4)
    assert [h for h in engine.calls if h[0] == "ended"] == [
        ("ended", f"run {i}", "stopped") for i in range(2)
    ]


def test_a_run_that_diverges_ends_and_does_not_count_as_good():
    task = Synthetic(1)
    engine = Scripted(
        [
            (GOOD | {"learning_rate": 0.1, "activation": a}, 27)
            for a in ("relu", "tanh", "swish", None)
        ]
        * 9
    )
    trace = replay(engine, task, agents=1, budget=8)
    ended = [h for h in engine.calls if h[0] == "ended"]
    assert ended and all(status == "diverged" for *_, status in ended)
    assert min(trace.best) >= WORST
    assert trace.until(1.0) is None and trace.until(WORST) is not None


@pytest.mark.parametrize("name", [name for name in ENGINES if name not in PEERS])
def test_every_engine_repeats_exactly(name):
    first, again = (replay(ENGINES[name](3), Synthetic(2), budget=60) for _ in range(2))
    assert first.best == again.best and [run["params"] for run in first.runs] == [
        run["params"] for run in again.runs
    ]


def test_an_engine_in_another_process_gives_the_same_replay(tmp_path, monkeypatch):
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
    there, here = (
        replay(engine, Synthetic(2), budget=60),
        replay(ENGINES["ours tpe_halving"](3), Synthetic(2), budget=60),
    )
    engine.close()
    assert there.best == here.best


ROWS = [  # (batch size, learning rate, activation, repeat, status, seconds, val_loss)
    (2, 0.001, "relu", 0, "finished", 2.0, [1.0, 0.7, 0.8, *[0.9] * 24]),
    (2, 0.001, "relu", 1, "finished", 4.0, [0.9, 0.8, *[0.5] * 25]),
    (32, 0.01, "relu", 0, "finished", 1.0, [1.2 - 0.02 * epoch for epoch in range(27)]),
    (8, 0.1, "relu", 0, "diverged", "", []),
    (8, 0.001, "linear", 0, "diverged", 3.0, [0.8, 0.9, 0.7]),
    (8, 0.0001, "linear", 0, "finished", 3.0, [0.75] * 27),
    (4, 0.001, "tanh", 0, "finished", 1.0, [0.95] * 27),
    (4, 0.001, "swish", 0, "diverged", 1.0, [0.5] * 5),
    (4, 0.001, "swish", 1, "finished", 1.0, [0.9] * 27),
]


def saved(path, rows=ROWS):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([*row[:-1], *row[-1], *[""] * (27 - len(row[-1]))] for row in rows)
    return path


@pytest.fixture
def table(tmp_path):
    return saved(tmp_path / "curves.csv")


def test_a_proposal_gets_the_curve_of_the_nearest_configuration_with_its_activation(table):
    task, draw = Curves(table), np.random.default_rng(0)
    for _ in range(300):
        params = {
            "batch_size": int(draw.integers(1, 33)),
            "learning_rate": 10 ** draw.uniform(-4, -1),
        }
        params |= {"activation": [None, "linear", "relu", "tanh", "swish"][draw.integers(5)]}

        def distance(row, params=params):
            octaves = math.log2(row[0]) - math.log2(params["batch_size"])
            decades = math.log10(row[1]) - math.log10(params["learning_rate"])
            return math.hypot(octaves / 5, decades / 3)

        rows = [row for row in ROWS if row[2] == (params["activation"] or "linear")]
        assert task.nearest(params) == min(rows, key=distance)[:3]


def test_real_curves_report_running_minima_and_truths_are_means_over_repeats(table):
    task = Curves(table)
    params = {"batch_size": 2, "learning_rate": 0.0012, "activation": "relu"}
    first, second = [1.0, *[0.7] * 26], [0.9, 0.8, *[0.5] * 25]
    for seed, turns in ((0, [first, second, first]), (1, [second, first, second])):
        one = Curves(table, seed)
        for again in range(2):  # a second replay starts with the first curve
            assert [one.run(params, repeat)[0].tolist() for repeat in range(3)] == turns, again
    assert (
        task.truth(params) == pytest.approx(np.mean([first, second], axis=0))
        and task.seconds(params) == 3.0
    )
    values, diverged = task.run(params | {"activation": None}, 0)
    assert values.tolist() == [0.8, 0.8, 0.7, WORST] and diverged
    assert task.truth(params | {"activation": None}).tolist() == [WORST] * FULL
    dead = {"batch_size": 8, "learning_rate": 0.1, "activation": "relu"}
    assert task.run(dead, 0)[0].tolist() == [WORST] and task.seconds(dead) == pytest.approx(
        np.mean([2, 4, 1, 3, 3, 1, 1, 1])
    )
    assert task.truth(params | {"activation": "swish"})[-1] == pytest.approx((WORST + 0.9) / 2)
    assert task.optimum == pytest.approx(0.6) and (task.oracle(0.05), task.oracle(0.3)) == (3, 1)


def test_a_missing_incomplete_or_wrong_table_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.replay\.curves"):
        Curves(tmp_path / "none.csv").truth(GOOD)
    with pytest.raises(ValueError, match="no curve with activation swish, tanh yet"):
        Curves(saved(tmp_path / "few.csv", ROWS[:6])).truth(GOOD)
    with pytest.raises(ValueError, match="oom after 3 epochs"):
        Curves(saved(tmp_path / "bad.csv", [(8, 0.1, "relu", 0, "oom", 1.0, [1.0] * 3)])).truth(
            GOOD
        )


def test_each_value_is_reported_when_the_clock_reaches_it(table):
    """And only values of runs that the engine asked for, on either kind of task."""
    for make in (lambda: Synthetic(1), lambda: Curves(table)):
        engine = Scripted(
            [(SLOW, 27), (GOOD, 3), (GOOD | {"activation": "tanh"}, 27), (GOOD, 9)] * 9
        )
        task, trace = make(), replay(engine, make(), agents=3, budget=60)
        values = [task.run(run["params"], repeat)[0] for repeat, run in enumerate(trace.runs)]
        reports = [what for what in engine.calls if what[0] not in ("ask", "ended")]
        assert len(reports) == 60
        for now, (key, epoch, value) in zip(trace.seconds, reports, strict=True):
            number = int(key.split()[1])
            run = trace.runs[number]
            assert (
                now == pytest.approx(run["start"] + epoch * task.seconds(run["params"]))
                and value == values[number][epoch - 1]
            )


def line(
    engine="a", seed=0, near=100, nearer=None, regret=0.1, milliseconds=2.0, version="optuna 5"
):
    """A line of a replay of 500 epochs and 1000 s, two seconds an epoch."""
    made = dict(zip(KEY, ("synthetic", seed, engine, 4, 500), strict=True)) | {
        "version": version,
        "optimum": 0.5,
        "oracle": 10,
    }
    for within, epochs in (("0.05", near), ("0.02", nearer)):
        made |= {f"epochs {within}": epochs, f"seconds {within}": epochs and 2.0 * epochs}
    made |= {"runs": 50, "seconds": 1000.0, "regret 486": regret, "regret 1944": None}
    made |= {"milliseconds 10": milliseconds, "milliseconds 100": None, "milliseconds 1000": None}
    return made | {"curve": {"epochs": [1, 10, 500], "regret": [1.0, 0.5, 0.0]}}


def test_the_page_agrees_with_numbers_computed_by_hand(tmp_path):
    made = [line("b", seed, near, near, version=None) for seed, near in enumerate((200, 300))]
    made += [
        line("a", 0, 40, 80, 0.03),
        line("a", 1, 90, None, 0.01, 4.0),
        line("a", 2, None, None, 0.02, None),
    ]
    written = report.write(made, tmp_path)
    text = written[0].read_text()
    rows = [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["a", "b"]  # 121.6 epochs before 244.9
    a, b = (dict(zip(rows[0], row, strict=True)) for row in rows[2:])
    expected = {
        "epochs to 5 %": "122",  # (40 * 90 * 500) ** (1 / 3)
        "median (quartiles)": "90 (65 to 295)",
        "reached 5 %": "67 %",
        "epochs to 2 %": "271",  # (80 * 500 * 500) ** (1 / 3)
        "reached 2 %": "33 %",
        "regret at 486": "2.00 %",
        "regret at 1,944": "-",
        "seconds to 5 %": "243",  # (80 * 180 * 1000) ** (1 / 3)
        "ms at 10 runs": "3.0",
        "ms at 100 runs": "-",
        "ms at 1,000 runs": "-",
        "x oracle": "12.2",
        "seeds": "3",
    }
    assert (
        a == {"engine": "a"} | expected
        and b["epochs to 5 %"] == "245"
        and b["reached 2 %"] == "100 %"
    )
    assert "--seeds 0:3 --task synthetic --agents 4 --budget 500` with optuna 5." in text
    with written[1].open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["engine"], row["seed"]) for row in found] == [
        ("a", "0"),
        ("a", "1"),
        ("a", "2"),
        ("b", "0"),
        ("b", "1"),
    ]
    assert "curve" not in found[0] and found[2]["epochs 0.05"] == ""
    assert written[2].read_bytes().startswith(b"\x89PNG")


def test_labels_keep_their_order_and_a_distance():
    assert report.spaced([0.0, 3.0, 0.1, -1.0], 0.5) == [0.0, 3.0, 0.5, -1.0]


def test_an_engine_has_the_same_look_in_all_panels():
    """Also where engines differ between panels; the chosen ones come first."""
    one, other = (("synthetic", 4, 500), ("synthetic", 4, 900))
    names = {one: ["b", "ours multifidelity"], other: ["syne-tune asha", "c", "ours multifidelity"]}
    groups = {report.Setting(*key): {name: [] for name in of} for key, of in names.items()}
    looks = report.looks(groups)
    assert list(looks) == ["ours multifidelity", "syne-tune asha", "b", "c"]
    assert len({look["color"] for look in looks.values()}) == 4
    every = {report.Setting(*one): {name: [] for name in report.LOOKS}}
    alone = {report.Setting(*one): {"syne-tune asha": []}}
    for found in (looks, report.looks(alone)):  # whatever else was measured
        assert found["syne-tune asha"] == report.looks(every)["syne-tune asha"]


def test_only_a_line_truncated_by_a_kill_is_made_again(tmp_path):
    file, keys, made = (
        tmp_path / "replays.jsonl",
        [Key("t", seed, "a", 4, 9) for seed in range(4)],
        [],
    )

    def measure(*key):
        made.append(key)
        return dict(zip(KEY, key, strict=True))

    def go():
        missing = [key for key in keys if key not in lines.read(file)]
        assert not [
            error for _, error in lines.make(missing, file, ThreadPoolExecutor(1), measure) if error
        ]

    go()
    whole = file.read_text()
    file.write_text(whole[:-10])
    go()
    assert made == [*keys, keys[-1]] and set(lines.read(file)) == set(keys)
    go()
    assert len(made) == 5 and len(file.read_text().splitlines()) == 5  # the truncated line stays


def test_the_command_continues_after_a_failure_reports_it_and_repeats_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(command, "workers", ThreadPoolExecutor)
    options = [
        "--seeds",
        "0:2",
        "--task",
        "synthetic",
        "--budget",
        "30",
        "--out",
        str(tmp_path),
        "--only",
        "wandb random",
    ]
    with monkeypatch.context() as patched:

        def lacking(seed):
            raise FileNotFoundError("no environment peers/x; make it with: make peers")

        patched.setitem(ENGINES, "ours tpe", lacking)
        result = CliRunner().invoke(command.main, [*options, "--only", "ours tpe"])
    assert (
        result.exit_code == 1
        and "ours tpe failed on synthetic, seed 0 (and 1 more seeds)" in result.stderr
    )
    assert "make it with: make peers" in result.stderr and "--seeds 0:1" in result.stderr
    first = (tmp_path / "replays.jsonl").read_text()
    assert (
        len(first.splitlines()) == 2 and "| wandb random |" in (tmp_path / "README.md").read_text()
    )
    result = CliRunner().invoke(command.main, [*options, "--only", "ours tpe"])
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "replays.jsonl").read_text()
    assert text.startswith(first) and len(text.splitlines()) == 4
    one = json.loads(text.splitlines()[0])
    assert (
        one["curve"]["epochs"][-1] == 30
        and one["regret 486"] is None
        and one["version"].startswith("sweeps ")
    )
    assert one["curve"]["regret"][-1] == pytest.approx(replayed_regret(one), rel=1e-4)


def replayed_regret(one):
    trace = replay(
        ENGINES[one["engine"]](one["seed"]), Synthetic(one["seed"]), budget=one["budget"]
    )
    return trace.best[one["budget"] - 1] / one["optimum"] - 1


@pytest.mark.parametrize("seeds", ["3", "4:4", "a:b"])
def test_an_invalid_range_of_seeds_is_refused(seeds, tmp_path):
    result = CliRunner().invoke(command.main, ["--seeds", seeds, "--out", str(tmp_path / "out")])
    assert (
        result.exit_code == 2 and "not FROM:TO" in result.stderr and not (tmp_path / "out").exists()
    )


def test_a_worker_uses_one_thread():
    with workers(1) as pool:
        found = pool.submit(threadpool_info).result()
    assert found and all(library["num_threads"] == 1 for library in found)

"""The line of progress: the numbers of runs, the ranking and the time left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback.time_left import RunClock, time_left

from loopback import progress

SECONDS = st.floats(0, 1e5)
SITUATIONS = {
    "durations": st.lists(SECONDS, min_size=1, max_size=5),
    "ages": st.lists(SECONDS, max_size=6),
    "not_started": st.integers(0, 50),
    "agents": st.integers(1, 5),
}


def by_simulation(durations, ages, not_started, agents):
    """The time left, by giving one run after the other to the agent that is free first."""
    mean = sum(durations) / len(durations)
    oldest = sorted(ages, reverse=True)[:agents]
    free_at = [max(0.0, mean - age) for age in oldest] + [0.0] * (agents - len(oldest))
    for _ in range(not_started + len(ages) - len(oldest)):
        first = free_at.index(min(free_at))
        free_at[first] += mean
    return max(free_at)


@given(**SITUATIONS)
def test_the_time_left_is_that_of_a_simulated_queue(durations, ages, not_started, agents):
    expected = by_simulation(durations, ages, not_started, agents)
    assert time_left(durations, ages, not_started, agents) == pytest.approx(expected, abs=1e-6)


@given(**SITUATIONS, passed=SECONDS)
def test_the_time_left_never_rises_while_no_run_starts_or_ends(
    durations, ages, not_started, agents, passed
):
    before = time_left(durations, ages, not_started, agents)
    after = time_left(durations, [age + passed for age in ages], not_started, agents)
    assert before - passed - 1e-6 <= after <= before + 1e-6


def test_the_time_left_of_two_agents():
    assert time_left([], [5.0], 3, 2) is None
    assert time_left([10.0], [], 0, 2) == 0
    assert time_left([10.0, 20.0], [5.0, 0.0], 0, 2) == 15
    assert time_left([10.0, 20.0], [5.0, 0.0], 1, 2) == 25
    assert time_left([10.0, 20.0], [5.0, 0.0], 4, 2) == 45
    assert time_left([10.0], [600.0, 600.0], 4, 2) == 20  # both running runs are overdue


def test_the_clock_counts_down_by_seconds_and_ignores_what_ended_before():
    clock = RunClock()
    clock.update(100.0, ["a", "b"], ["earlier"])
    assert (clock.ended, clock.time_left(["a", "b"], 2, agents=2)) == (0, None)
    clock.update(130.0, ["b", "c"], ["earlier", "a"])
    assert clock.ended == 1
    shown = []
    for moment in (131.0, 132.0, 133.0):
        clock.update(moment, ["b", "c"], ["earlier", "a"])
        shown.append(clock.time_left(["b", "c"], 1, agents=2))
    assert shown == [30, 30, 30]  # b is overdue, and the next run will follow it
    clock.update(135.0, ["c", "d"], ["earlier", "a", "b"])  # 30 s and 35 s
    assert clock.time_left(["c", "d"], 0, agents=2) == 32.5
    clock.update(145.0, ["c", "d"], ["earlier", "a", "b"])
    assert clock.time_left(["c", "d"], 0, agents=2) == 22.5


def test_a_run_that_was_preempted_counts_once_it_has_ended():
    clock = RunClock()
    clock.update(0.0, ["a"], [])
    clock.update(10.0, [], ["a"])
    clock.update(20.0, ["a"], [])
    assert clock.ended == 0
    clock.update(40.0, [], ["a", "between two calls"])
    assert clock.ended == 2
    assert clock.time_left([], 1, agents=1) == pytest.approx((40 + 20) / 2)


def run(name, state="finished", objective=None):
    return progress.Run(name, f"run-{name}", state, objective, {"x": 1}, 3)


def test_runs_are_ranked_by_the_goal_of_the_sweep():
    runs = [run("a"), run("b", objective=1.0), run("c", objective=3.0), run("d", objective=1.0)]
    for maximize, order in ((True, "cbda"), (False, "bdca")):
        sweep = progress.Sweep("e/p/s", "RUNNING", "accuracy", maximize, 5, runs)
        assert "".join(run.name for run in sweep.ranked()) == order


def test_the_line_of_progress():
    runs = [run("a", objective=0.5), run("b", "stopped", 0.25), run("c", "running")]
    sweep = progress.Sweep("e/p/s", "RUNNING", "loss", False, 5, runs)
    counted = "1 finished of 5 | 1 stopped | 0 failed | 1 running | best loss 0.25"
    assert progress.line(sweep, None) == counted
    assert progress.line(sweep, 75.2) == f"{counted} | about 1 min 15 s left"
    sweep.expected = None
    assert progress.line(sweep, None).startswith("1 finished | 1 stopped")


def test_durations_are_rounded_to_seconds():
    texts = {0.4: "0 s", 59.6: "1 min 00 s", 75: "1 min 15 s", 3723: "1 h 02 min", -5: "0 s"}
    assert {seconds: progress.duration(seconds) for seconds in texts} == texts

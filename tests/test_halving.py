"""search/halving.py against the papers and a brute-force reading."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_helpers import SPACE, curve

from search.halving import brackets, next_budget, outside_top, rungs
from search.history import BUDGET, RunHistory
from search.policies import Hyperband


def test_brackets_are_those_of_the_paper():
    """Li et al. 2018, table 1, for R = 81 and eta = 3; and those of this project's 27 epochs."""
    assert brackets(81) == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]
    assert sum(stage.size for stages in brackets(27) for stage in stages) == 69
    equal = brackets(27, equal_parts=True)
    assert equal[1] == [(9, 3), (3, 9), (1, 27)]
    assert equal[:1] + equal[2:] == brackets(27)[:1] + brackets(27)[2:]


@pytest.mark.parametrize("first", [1, 2, 3, 4, 5, 40])
def test_no_budget_of_a_bracket_is_below_the_first(first):
    budgets = [[stage.epochs for stage in stages] for stages in brackets(40, first)]
    assert min(map(min, budgets)) >= first
    assert all(stages[-1] == 40 for stages in budgets)


def test_rungs_grow_by_eta_and_end_at_the_full_budget():
    assert rungs(1, 27) == [1, 3, 9, 27] and rungs(3, 27) == [3, 9, 27] and rungs(3, 2) == [2]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 27)), min_size=1, max_size=12))
def test_outside_top_agrees_with_a_brute_force_reading(runs):
    """ASHA, Li et al. 2020, Algorithm 2: the top len / eta of a rung stay; here at least one."""
    histories = [
        RunHistory(i, {}, 27, {e: float(loss) for e in range(1, epochs + 1)})
        for i, (loss, epochs) in enumerate(runs)
    ]
    for run in histories:
        level = max((rung for rung in (1, 3, 9) if rung <= run.epoch), default=None)
        rung = [other for other in histories if level and other.epoch >= level]
        better = (
            [o for o in rung if (o.curve[1], o.number) < (run.curve[1], run.number)]
            if level
            else []
        )
        expected = level is not None and len(better) >= max(1, len(rung) // 3)
        assert outside_top(run, histories, [1, 3, 9, 27]) == expected


@pytest.mark.parametrize("size", range(1, 61))
def test_the_top_third_is_the_integer_third_for_every_size(size):
    histories = [RunHistory(i, {}, 27, {1: float(i)}) for i in range(size)]
    kept = [run for run in histories if not outside_top(run, histories, [1, 27])]
    assert len(kept) == max(1, size // 3)


@pytest.mark.parametrize(("agents", "total"), [(1, 69), (4, 80)])
def test_each_stage_of_hyperband_gets_its_runs_and_the_best_of_the_stage_before(agents, total):
    """Runs end in any order. While a bracket waits, agents get runs of the next one."""
    random, histories = np.random.default_rng(agents), []
    policy = Hyperband(SPACE, 0)
    while len(histories) < total or any(run.running for run in histories):
        running = [i for i, run in enumerate(histories) if run.running]
        if len(running) < agents and len(histories) < total:
            params = policy.propose(len(histories), histories)
            epochs = params.pop(BUDGET)
            histories.append(RunHistory(len(histories), params, epochs, {}, running=True))
        else:
            i = int(random.choice(running))
            params, budget = histories[i].params, histories[i].budget
            histories[i] = RunHistory(i, params, budget, curve(params, budget))
    counts = {epochs: sum(run.budget == epochs for run in histories) for epochs in (1, 3, 9, 27)}
    plan = {1: 27, 3: 9 + 12, 9: 3 + 4 + 6, 27: 1 + 1 + 2 + 4}
    if agents == 1:
        assert counts == plan
    else:
        assert all(counts[epochs] >= plan[epochs] for epochs in plan)
    first = [run for run in histories if run.budget == 1][:27]
    best = {SPACE.key(run.params) for run in sorted(first, key=lambda run: run.value(1))[:9]}
    assert best <= {SPACE.key(run.params) for run in histories if run.budget == 3}


def test_crashed_and_infeasible_runs_are_never_promoted():
    params = [SPACE.decode(point) for point in SPACE.draw(np.random.default_rng(0), 27)]
    histories = [
        RunHistory(i, p, 1, {} if i % 2 else {1: 1.0 + i}, infeasible=i % 4 == 1)
        for i, p in enumerate(params)
    ]
    for _ in range(9):
        epochs, promoted = next_budget(histories, SPACE, brackets(27))
        assert epochs == 3
        assert SPACE.key(promoted) in {SPACE.key(p) for p in params[::2]}
        histories.append(RunHistory(len(histories), promoted, 3, running=True))
    # The first bracket waits for its runs, so the next one starts.
    assert next_budget(histories, SPACE, brackets(27)) == (3, None)

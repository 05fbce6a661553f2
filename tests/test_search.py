"""The searches' parts against the papers and known libraries, and what every search holds to."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial
from scipy import optimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern
from threadpoolctl import threadpool_limits

from segmentation import gaussian, search
from segmentation.config import WORST
from segmentation.gaussian import Inputs, Parameters, Process, expected_improvement
from segmentation.halving import brackets, falls_behind, next_budget, rungs
from segmentation.multifidelity import Forecast
from segmentation.trials import EPOCHS, Belief, Record, Space, record

DISTRIBUTIONS = {
    "batch_size": IntDistribution(1, 32, log=True),
    "learning_rate": FloatDistribution(1e-4, 0.1, log=True),
    "activation": CategoricalDistribution(["relu", "tanh", "swish", None]),
    "epochs": CategoricalDistribution([27]),
}
SPACE = Space(DISTRIBUTIONS)
POLICIES = {
    "tpe": search.Tpe,
    "tpe_halving": lambda space, seed: search.Tpe(space, seed, first_rung=3),
    "hyperband": search.Hyperband,
    "bohb": search.Bohb,
    "multifidelity": search.Multifidelity,
}


def curve(params: dict, epochs: int) -> dict[int, float]:
    """A smooth objective with its optimum at learning rate 0.003."""
    final = 0.3 + 0.1 * (math.log10(params["learning_rate"]) + 2.5) ** 2 + 0.002 * params["batch_size"]
    return {epoch: final + 0.7 / epoch for epoch in range(1, epochs + 1)}


def some_records(count: int, seed: int = 0) -> list[Record]:
    """Runs at all stages: stopped at a rung, done, under way, diverged."""
    random = np.random.default_rng(seed)
    found = []
    for number, point in enumerate(SPACE.points(random, count)):
        params, epochs = SPACE.decode(point), int(random.choice([0, 1, 1, 3, 9, 27]))
        dead = params["learning_rate"] > 0.05
        values = {} if dead else curve(params, epochs)
        found.append(Record(number, params, 27, values, running=not dead and not epochs, infeasible=dead))
    return found


class TestSpace:
    @given(st.integers(0, 10_000))
    def test_decode_gives_what_encode_takes(self, seed):
        params = SPACE.decode(SPACE.points(np.random.default_rng(seed), 1)[0])
        assert SPACE.key(SPACE.decode(SPACE.encode(params))) == pytest.approx(SPACE.key(params))
        for name, value in params.items():
            assert DISTRIBUTIONS[name]._contains(DISTRIBUTIONS[name].to_internal_repr(value))

    def test_each_integer_gets_its_due(self):
        """On a log scale k owns [k - 1/2, k + 1/2], so 1 is drawn log(3) / log(65) of the time."""
        drawn = [SPACE.decode(point)["batch_size"] for point in SPACE.points(np.random.default_rng(0), 4000)]
        assert np.mean(np.equal(drawn, 1)) == pytest.approx(math.log(3) / math.log(65), abs=0.03)

    def test_beliefs_are_mixed_with_the_uniform_share(self):
        space = Space(DISTRIBUTIONS, {"learning_rate": Belief(0.002, 2)}, uniform=0.25)
        rates = np.array([space.decode(p)["learning_rate"] for p in space.points(np.random.default_rng(0), 4000)])
        near = np.mean((rates > 0.0005) & (rates < 0.008))  # two sigmas
        assert near == pytest.approx(0.75 * 0.954 + 0.25 * math.log10(16) / 3, abs=0.03)
        with pytest.raises(ValueError, match="momentum"):
            Space(DISTRIBUTIONS, {"momentum": Belief(0.9, 0.1)})

    def test_a_small_space_is_used_up_before_it_repeats(self):
        space = Space({"x": IntDistribution(1, 5), "epochs": CategoricalDistribution([3])})
        records = []
        for number in range(5):
            params = space.fresh({"x": 1}, records, np.random.default_rng(number))
            records.append(Record(number, params, 3))
        assert {record.params["x"] for record in records} == {1, 2, 3, 4, 5}
        assert space.fresh({"x": 1}, records, np.random.default_rng(9))["x"] in range(1, 6)


class _Mixed(Kernel):
    """scikit-learn's Matern over the numbers times a Hamming kernel over the last column."""

    def __init__(self, lengths, hamming):
        self.lengths, self.hamming = lengths, hamming

    def __call__(self, X, Y=None, eval_gradient=False):  # noqa: N803
        Y = X if Y is None else Y  # noqa: N806
        numbers = Matern(self.lengths, nu=2.5)(X[:, :-1], Y[:, :-1])
        return numbers * np.exp(-1.0 * (X[:, None, -1] != Y[None, :, -1]) / self.hamming)

    def diag(self, X):  # noqa: N803
        return np.ones(len(X))

    def is_stationary(self):
        return False


class TestGaussianProcess:
    def data(self, count):
        random = np.random.default_rng(3)
        return Inputs(random.random((count, 2)), random.integers(0, 4, (count, 1)).astype(float)), random.normal(size=count)

    def test_posterior_agrees_with_sklearn(self):
        inputs, values = self.data(30)
        at, _ = self.data(50)
        p = Parameters(np.array([0.3, 0.7]), 1.3, 0.8, 0.2)
        mean, variance = Process(inputs, values, p).predict(at)
        kernel = ConstantKernel(p.amplitude**2) * _Mixed(p.lengths, p.hamming) + ConstantKernel(gaussian.OFFSET**2)
        witness = GaussianProcessRegressor(kernel, alpha=p.noise**2 + gaussian.JITTER, optimizer=None)
        witness.fit(np.hstack([inputs.numbers, inputs.categories]), values)
        expected, deviation = witness.predict(np.hstack([at.numbers, at.categories]), return_std=True)
        np.testing.assert_allclose(mean, expected, atol=1e-6)
        np.testing.assert_allclose(np.sqrt(variance), deviation, atol=1e-6)

    @pytest.mark.parametrize("below", [False, True])
    def test_the_gradient_of_the_fit_is_right(self, below, monkeypatch):
        inputs, values = self.data(20)
        if below:
            inputs = Inputs(inputs.numbers, inputs.categories, values + np.linspace(-1, 1, 20))
        caught = {}
        monkeypatch.setattr(gaussian.optimize, "minimize", lambda f, x, **_: caught.update(f=f) or optimize.OptimizeResult(x=x))
        gaussian.fit(inputs, values, 1.0)
        at = np.array([-0.5, -1.0, 0.3, 0.1, -1.5])
        numeric = optimize.approx_fprime(at, lambda x: caught["f"](x)[0], 1e-6)
        np.testing.assert_allclose(caught["f"](at)[1], numeric, rtol=1e-4, atol=1e-4)

    def test_expected_improvement_agrees_with_monte_carlo(self):
        draws = np.random.default_rng(0).normal(size=400_000)
        for mean, deviation in itertools.product([-1.0, 0.0, 1.5], [0.1, 1.0]):
            measured = np.maximum(0.2 - (mean + deviation * draws), 0).mean()
            assert expected_improvement(np.array(mean), np.array(deviation), 0.2) == pytest.approx(measured, abs=4e-3)

    def test_a_lower_fidelity_that_tells_all_is_believed(self):
        """Values at rung two are twice those at rung one and a constant: the slope is found and new points foreseen."""
        records = []
        for number, point in enumerate(SPACE.points(np.random.default_rng(1), 20)):
            params = SPACE.decode(point)
            low = 0.5 + 0.2 * (math.log10(params["learning_rate"]) + 2.5) ** 2
            records.append(Record(number, params, 3, {1: low, 3: 0.5 * low**1.5}))  # twice, on the scale of logarithms
        forecast = Forecast(SPACE, records, [1, 3])
        assert forecast.processes[1].slope == pytest.approx(1.5, abs=0.1)

    def test_diverged_runs_are_avoided_and_bend_nothing(self):
        alive = [record for record in some_records(60) if not record.infeasible and not record.running]
        dead = [Record(100 + i, {"batch_size": 4, "learning_rate": 0.05 + 0.004 * i, "activation": "relu"}, 27, {}, False, True)
                for i in range(10)]  # fmt: skip
        without, with_dead = Forecast(SPACE, alive, rungs(1, 27)), Forecast(SPACE, alive + dead, rungs(1, 27))
        good, bad = ({"batch_size": 4, "learning_rate": rate, "activation": "relu"} for rate in (0.003, 0.08))
        points = np.array([SPACE.encode(good), SPACE.encode(bad)])
        np.testing.assert_allclose(without.new(points), with_dead.new(points))
        assert with_dead.feasible(points)[0] > 0.9 > 0.3 > with_dead.feasible(points)[1]
        assert list(without.feasible(points)) == [1, 1]


class TestHalving:
    def test_brackets_are_those_of_the_paper(self):
        """Li et al. 2018, table 1, for R = 81 and eta = 3, and what this project's 27 epochs come to."""
        assert brackets(81) == [
            [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
            [(34, 3), (11, 9), (3, 27), (1, 81)],
            [(15, 9), (5, 27), (1, 81)],
            [(8, 27), (2, 81)],
            [(5, 81)],
        ]
        assert sum(count for stages in brackets(27) for count, _ in stages) == 69
        assert rungs(1, 27) == [1, 3, 9, 27] and rungs(3, 27) == [3, 9, 27] and rungs(3, 2) == [2]

    @settings(max_examples=50)
    @given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 27)), min_size=1, max_size=12))
    def test_falls_behind_agrees_with_a_brute_force_reading(self, runs):
        """ASHA, Li et al. 2020, Algorithm 2: promotable are the top len / eta of a rung; here at least one."""
        records = [Record(i, {}, 27, {e: float(loss) for e in range(1, epochs + 1)}) for i, (loss, epochs) in enumerate(runs)]
        for run in records:
            level = max((rung for rung in (1, 3, 9) if rung <= run.epoch), default=None)
            rung = [other for other in records if level and other.epoch >= level]
            better = [o for o in rung if (o.curve[1], o.number) < (run.curve[1], run.number)] if level else []
            expected = level is not None and len(better) >= max(1, len(rung) // 3)
            assert falls_behind(run, records, [1, 3, 9, 27]) == expected

    @pytest.mark.parametrize(("agents", "total"), [(1, 69), (4, 80)])
    def test_hyperband_runs_each_bracket_as_the_paper_says(self, agents, total):
        """Agents end in any order: every stage gets its runs, with the best of the one before; the next round fills the waits."""
        random, records = np.random.default_rng(agents), []
        policy = search.Hyperband(SPACE, 0)
        while len(records) < total or any(record.running for record in records):
            running = [i for i, record in enumerate(records) if record.running]
            if len(running) < agents and len(records) < total:
                params = policy.propose(len(records), records)
                epochs = params.pop(EPOCHS)
                records.append(Record(len(records), params, epochs, {}, running=True))
            else:
                i = int(random.choice(running))
                records[i] = Record(i, records[i].params, records[i].budget, curve(records[i].params, records[i].budget))
        counts = {epochs: sum(record.budget == epochs for record in records) for epochs in (1, 3, 9, 27)}
        plan = {1: 27, 3: 9 + 12, 9: 3 + 4 + 6, 27: 1 + 1 + 2 + 4}
        assert counts == plan if agents == 1 else all(counts[epochs] >= plan[epochs] for epochs in plan)
        first = [record for record in records if record.budget == 1][:27]
        best = {SPACE.key(r.params) for r in sorted(first, key=lambda r: r.value(1))[:9]}
        assert best <= {SPACE.key(record.params) for record in records if record.budget == 3}

    def test_lost_and_diverged_runs_are_never_promoted(self):
        params = [SPACE.decode(point) for point in SPACE.points(np.random.default_rng(0), 27)]
        records = [Record(i, p, 1, {} if i % 2 else {1: 1.0 + i}, infeasible=i % 4 == 1) for i, p in enumerate(params)]
        for _ in range(9):
            epochs, promoted = next_budget(records, SPACE, 27)
            assert epochs == 3
            assert SPACE.key(promoted) in {SPACE.key(p) for p in params[::2]}
            records.append(Record(len(records), promoted, 3, running=True))
        assert next_budget(records, SPACE, 27) == (3, None)  # the next bracket begins while this one waits


@pytest.mark.parametrize("name", POLICIES)
class TestEverySearch:
    def test_it_repeats_and_the_order_of_reports_does_not_matter(self, name):
        records = some_records(40)
        first = POLICIES[name](SPACE, 7).propose(40, records)
        assert first == POLICIES[name](SPACE, 7).propose(40, list(records))
        seeds = [POLICIES[name](SPACE, seed).propose(3, records[:3]) for seed in range(5)]
        assert len({SPACE.key(params) for params in seeds}) > 1

    def test_a_whole_search_goes_on_after_a_restart_and_does_not_repeat_itself(self, name):
        def go(restart_at):
            policy, records = POLICIES[name](SPACE, 1), []
            for number in range(14):
                if number == restart_at:
                    policy = POLICIES[name](SPACE, 1)
                params = policy.propose(number, records)
                epochs = params.pop(EPOCHS)
                records.append(Record(number, params, epochs, curve(params, epochs)))
            return [(record.params, record.budget) for record in records]

        whole = go(None)
        assert whole == go(9)
        assert len({(SPACE.key(params), epochs) for params, epochs in whole}) == 14

    def test_diverged_runs_do_not_stop_it(self, name):
        dead = [
            Record(i, SPACE.decode(p), 27, {}, infeasible=True) for i, p in enumerate(SPACE.points(np.random.default_rng(0), 12))
        ]
        policy = POLICIES[name](SPACE, 0)
        assert policy.propose(12, dead).keys() == {"batch_size", "learning_rate", "activation", EPOCHS}
        assert not policy.hopeless(Record(12, SPACE.decode(np.zeros(3)), 27, {}, running=True), dead)

    @pytest.mark.parametrize(("count", "limit"), [(100, 0.2), (1000, 2.0)])
    def test_a_proposal_is_quick(self, name, count, limit):
        """The limits are for a quiet core; processor time leaves out what other programs took."""
        records = some_records(count)
        policy = POLICIES[name](SPACE, 0)
        policy.propose(count, records)
        policy = POLICIES[name](SPACE, 0)
        with threadpool_limits(1):
            begun = time.process_time()
            policy.propose(count, records)
        assert time.process_time() - begun < 2 * limit


def test_a_trial_with_the_worst_loss_is_infeasible():
    params = {"batch_size": 4, "learning_rate": 0.01, "activation": None, "epochs": 27}
    distributions = DISTRIBUTIONS | {"epochs": IntDistribution(1, 27)}
    for values, infeasible in (({1: 0.9, 2: WORST["dice_focal"] + 1e-7}, True), ({1: 0.9, 2: 0.8}, False), ({1: math.nan}, True)):
        trial = create_trial(params=params, distributions=distributions, value=0.5, intermediate_values=values)
        assert record(trial, 27, WORST["dice_focal"]).infeasible == infeasible
        assert record(trial, 27, WORST["dice_focal"]).params == {k: v for k, v in params.items() if k != "epochs"}

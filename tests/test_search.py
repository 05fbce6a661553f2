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
from segmentation.config import OBJECTIVE, WORST
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
    final = (
        0.3 + 0.1 * (math.log10(params["learning_rate"]) + 2.5) ** 2 + 0.002 * params["batch_size"]
    )
    return {epoch: final + 0.7 / epoch for epoch in range(1, epochs + 1)}


def some_records(count: int, seed: int = 0) -> list[Record]:
    """Runs at all stages: stopped at a rung, done, under way, diverged."""
    random = np.random.default_rng(seed)
    found = []
    for number, point in enumerate(SPACE.points(random, count)):
        params, epochs = SPACE.decode(point), int(random.choice([0, 1, 1, 3, 9, 27]))
        dead = params["learning_rate"] > 0.05
        values = {} if dead else curve(params, epochs)
        found.append(
            Record(number, params, 27, values, running=not dead and not epochs, infeasible=dead)
        )
    return found


class TestSpace:
    @given(st.integers(0, 10_000))
    def test_decode_gives_what_encode_takes(self, seed):
        params = SPACE.decode(SPACE.points(np.random.default_rng(seed), 1)[0])
        assert SPACE.key(SPACE.decode(SPACE.encode(params))) == pytest.approx(SPACE.key(params))
        for name, value in params.items():
            assert DISTRIBUTIONS[name]._contains(DISTRIBUTIONS[name].to_internal_repr(value))

    def test_points_are_rounded_to_where_their_configurations_lie(self):
        """Without it a model would see new ground between two integers where there is none, and propose the same run again."""
        points = SPACE.points(np.random.default_rng(0), 200)
        np.testing.assert_allclose(
            SPACE.rounded(points),
            [SPACE.encode(SPACE.decode(point)) for point in points],
            atol=1e-12,
        )
        assert (np.abs(SPACE.rounded(points) - points).max(0)[: len(SPACE.numbers)] > 0.01).any()

    def test_each_integer_gets_its_due(self):
        """On a log scale k owns [k - 1/2, k + 1/2], so 1 is drawn log(3) / log(65) of the time."""
        drawn = [
            SPACE.decode(point)["batch_size"]
            for point in SPACE.points(np.random.default_rng(0), 4000)
        ]
        assert np.mean(np.equal(drawn, 1)) == pytest.approx(math.log(3) / math.log(65), abs=0.03)

    def test_beliefs_are_mixed_with_the_uniform_share(self):
        space = Space(DISTRIBUTIONS, {"learning_rate": Belief(0.002, 2)}, uniform=0.25)
        rates = np.array(
            [space.decode(p)["learning_rate"] for p in space.points(np.random.default_rng(0), 4000)]
        )
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


SCALARS = {"level": 0.8, "common": 0.7, "transient": 0.5, "own": 0.3, "drift": 0.2, "noise": 0.2}
SCALARS |= {"alpha": 1.2, "beta": 2.0, "hamming": 1.3, "hamming_early": 0.9}


class TestGaussianProcess:
    def data(self, count, epochs=(1, 3, 9, 27)):
        random = np.random.default_rng(3)
        numbers, categories = (
            random.random((count, 2)),
            random.integers(0, 4, (count, 1)).astype(float),
        )
        return Inputs(
            numbers, categories, random.choice(epochs, count), random.integers(0, 9, count)
        ), random.normal(size=count)

    def test_the_posterior_at_one_epoch_agrees_with_sklearn(self):
        """At one epoch the decay is a number; without shares of runs, what is left are two kernels that scikit-learn has."""
        inputs, values = self.data(30, epochs=(9,))
        at, _ = self.data(50, epochs=(9,))
        p = Parameters(
            SCALARS | {"own": 0.0, "drift": 0.0}, np.array([0.3, 0.7]), np.array([0.5, 0.4])
        )
        mean, deviation = Process(inputs, values, p).predict(at)
        decay = (4 / 20) ** 1.2
        kernel = ConstantKernel(0.8**2) * _Mixed(p.lengths, 1.3) + ConstantKernel(
            gaussian.OFFSET**2 + 0.7**2 * decay
        )
        kernel += ConstantKernel(0.5**2 * decay) * _Mixed(p.lengths_early, 0.9)
        witness = GaussianProcessRegressor(kernel, alpha=0.2**2 + gaussian.JITTER, optimizer=None)
        witness.fit(np.hstack([inputs.numbers, inputs.categories]), values)
        expected, spread = witness.predict(np.hstack([at.numbers, at.categories]), return_std=True)
        np.testing.assert_allclose(mean, expected, atol=1e-6)
        np.testing.assert_allclose(deviation, spread, atol=1e-6)

    def test_the_covariance_agrees_with_its_formula_element_by_element(self):
        a, _ = self.data(12)
        b, _ = self.data(9)
        p = Parameters(SCALARS, np.array([0.3, 0.7]), np.array([0.5, 0.4]))

        def similar(i, j, lengths, hamming):
            r = math.sqrt(5 * sum(((a.numbers[i] - b.numbers[j]) / lengths) ** 2))
            return (1 + r + r * r / 3) * math.exp(
                -r - (a.categories[i, 0] != b.categories[j, 0]) / hamming
            )

        for i, j in itertools.product(range(12), range(9)):
            decay = (4 / (2 + a.epochs[i] + b.epochs[j])) ** 1.2
            value = gaussian.OFFSET**2 + 0.64 * similar(i, j, p.lengths, 1.3)
            value += decay * (0.49 + 0.25 * similar(i, j, p.lengths_early, 0.9))
            value += (a.runs[i] == b.runs[j]) * (0.09 + 0.04 * decay)
            assert gaussian.covariance(a, b, p)[i, j] == pytest.approx(value)

    def test_the_gradient_of_the_fit_is_right(self, monkeypatch):
        inputs, values = self.data(20)
        caught = {}
        monkeypatch.setattr(
            gaussian.optimize,
            "minimize",
            lambda f, x, **_: caught.update(f=f) or optimize.OptimizeResult(x=x),
        )
        gaussian.fit(inputs, values)
        at = gaussian.prior(2)[0] + np.random.default_rng(0).normal(
            0, 0.3, len(gaussian.prior(2)[0])
        )
        numeric = optimize.approx_fprime(at, lambda x: caught["f"](x)[0], 1e-6)
        np.testing.assert_allclose(caught["f"](at)[1], numeric, rtol=1e-4, atol=1e-3)

    def test_expected_improvement_agrees_with_monte_carlo(self):
        draws = np.random.default_rng(0).normal(size=400_000)
        for mean, deviation in itertools.product([-1.0, 0.0, 1.5], [0.1, 1.0]):
            measured = np.maximum(0.2 - (mean + deviation * draws), 0).mean()
            assert expected_improvement(np.array(mean), np.array(deviation), 0.2) == pytest.approx(
                measured, abs=4e-3
            )

    def test_a_curve_is_foreseen_from_its_beginning_and_from_others(self):
        """Of two runs that began alike, the one among configurations that went down is foreseen below the other."""
        random, records = np.random.default_rng(1), []
        for number, point in enumerate(SPACE.points(random, 24)):
            params = SPACE.decode(point)
            far = abs(math.log10(params["learning_rate"]) + 2.5)
            records.append(
                Record(number, params, 27, {e: 0.4 + 0.1 * far + 0.5 / e for e in (1, 3, 9, 27)})
            )
        begun = [
            Record(
                90 + i,
                {"batch_size": 4, "learning_rate": rate, "activation": "relu"},
                27,
                {1: 0.95},
                running=True,
            )
            for i, rate in enumerate((0.0032, 0.09))
        ]
        forecast = Forecast(SPACE, records + begun, rungs(1, 27))
        near, far = (forecast.finals[0][forecast.row[run.number]] for run in begun)
        assert near < far
        ends = np.array([forecast.finals[0][forecast.row[run.number]] for run in records])
        np.testing.assert_allclose(
            ends, forecast.lowest[:24], atol=0.15
        )  # what is known is believed

    def test_diverged_runs_are_avoided_and_move_the_best_by_less_than_half_a_decade(self):
        alive = [
            record for record in some_records(60) if not record.infeasible and not record.running
        ]
        dead = [Record(100 + i, {"batch_size": 4, "learning_rate": 0.05 + 0.004 * i, "activation": "relu"}, 27, {}, False, True)
                for i in range(10)]  # fmt: skip
        without, with_dead = (
            Forecast(SPACE, alive, rungs(1, 27)),
            Forecast(SPACE, alive + dead, rungs(1, 27)),
        )
        good, bad = (
            {"batch_size": 4, "learning_rate": rate, "activation": "relu"} for rate in (0.003, 0.08)
        )
        points = np.array([SPACE.encode(good), SPACE.encode(bad)])
        assert with_dead.values.max() == without.values.max()
        living = [
            {"batch_size": 4, "learning_rate": rate, "activation": "relu"}
            for rate in np.geomspace(1e-4, 0.02, 30)
        ]
        before, after = (
            part.new(np.array([SPACE.encode(params) for params in living]))[0]
            for part in (without, with_dead)
        )
        assert (
            abs(before.argmin() - after.argmin()) * math.log10(200) / 29 < 0.5
        )  # decades that the best learning rate moved
        assert without.values.min() <= after.min() and after.max() <= without.values.max()
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
        whole = brackets(27, whole=True)
        assert (
            whole[1] == [(9, 3), (3, 9), (1, 27)]
            and whole[:1] + whole[2:] == brackets(27)[:1] + brackets(27)[2:]
        )
        assert rungs(1, 27) == [1, 3, 9, 27] and rungs(3, 27) == [3, 9, 27] and rungs(3, 2) == [2]

    @settings(max_examples=50)
    @given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 27)), min_size=1, max_size=12))
    def test_falls_behind_agrees_with_a_brute_force_reading(self, runs):
        """ASHA, Li et al. 2020, Algorithm 2: promotable are the top len / eta of a rung; here at least one."""
        records = [
            Record(i, {}, 27, {e: float(loss) for e in range(1, epochs + 1)})
            for i, (loss, epochs) in enumerate(runs)
        ]
        for run in records:
            level = max((rung for rung in (1, 3, 9) if rung <= run.epoch), default=None)
            rung = [other for other in records if level and other.epoch >= level]
            better = (
                [o for o in rung if (o.curve[1], o.number) < (run.curve[1], run.number)]
                if level
                else []
            )
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
                records[i] = Record(
                    i,
                    records[i].params,
                    records[i].budget,
                    curve(records[i].params, records[i].budget),
                )
        counts = {
            epochs: sum(record.budget == epochs for record in records) for epochs in (1, 3, 9, 27)
        }
        plan = {1: 27, 3: 9 + 12, 9: 3 + 4 + 6, 27: 1 + 1 + 2 + 4}
        assert (
            counts == plan
            if agents == 1
            else all(counts[epochs] >= plan[epochs] for epochs in plan)
        )
        first = [record for record in records if record.budget == 1][:27]
        best = {SPACE.key(r.params) for r in sorted(first, key=lambda r: r.value(1))[:9]}
        assert best <= {SPACE.key(record.params) for record in records if record.budget == 3}

    def test_lost_and_diverged_runs_are_never_promoted(self):
        params = [SPACE.decode(point) for point in SPACE.points(np.random.default_rng(0), 27)]
        records = [
            Record(i, p, 1, {} if i % 2 else {1: 1.0 + i}, infeasible=i % 4 == 1)
            for i, p in enumerate(params)
        ]
        for _ in range(9):
            epochs, promoted = next_budget(records, SPACE, brackets(27))
            assert epochs == 3
            assert SPACE.key(promoted) in {SPACE.key(p) for p in params[::2]}
            records.append(Record(len(records), promoted, 3, running=True))
        assert next_budget(records, SPACE, brackets(27)) == (
            3,
            None,
        )  # the next bracket begins while this one waits


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
            Record(i, SPACE.decode(p), 27, {}, infeasible=True)
            for i, p in enumerate(SPACE.points(np.random.default_rng(0), 12))
        ]
        policy = POLICIES[name](SPACE, 0)
        assert policy.propose(12, dead).keys() == {
            "batch_size",
            "learning_rate",
            "activation",
            EPOCHS,
        }
        assert not policy.hopeless(
            Record(12, SPACE.decode(np.zeros(3)), 27, {}, running=True), dead
        )

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


def test_our_own_search_begins_in_the_middle_then_at_the_beliefs_with_every_activation():
    space = Space(DISTRIBUTIONS, {"learning_rate": Belief(0.0004, 2)}, uniform=0.25)
    design = [search.Multifidelity(space, 3).propose(number, []) for number in range(8)]
    for part, rate in ((design[:4], math.sqrt(1e-4 * 0.1)), (design[4:], 0.0004)):
        assert {params["activation"] for params in part} == {"relu", "tanh", "swish", None}
        assert [params["learning_rate"] for params in part] == pytest.approx([rate] * 4)


@pytest.mark.parametrize("seen", [1, 2])
def test_our_own_search_stops_nothing_of_the_better_half_and_something_of_the_worse(seen):
    """Whether the scheduler sees a run at the rung or, having looked away, only beyond it; and it asks once."""
    records = some_records(40)
    policy = search.Multifidelity(SPACE, 0)
    reached = [run for run in records if run.epoch >= seen]
    stopped = []
    for run in reached:
        early = Record(
            run.number, run.params, 27, {e: run.curve[e] for e in range(1, seen + 1)}, running=True
        )
        others = [early if other is run else other for other in records]
        if policy.hopeless(early, others):
            stopped.append(run.curve[1])
        assert not policy.hopeless(early, others)
    assert stopped and min(stopped) >= np.median([run.curve[1] for run in records if run.curve])


def test_an_earlier_sweep_is_data_for_the_model():
    """Eight runs that were best near 0.001: the first proposal lies there; foreign values are left out."""

    class Run:
        def __init__(self, rate, activation="relu", last=None):
            self.config = {"batch_size": 4, "learning_rate": rate, "activation": activation}
            self.curve = {
                e: 0.3 + 0.3 * (math.log10(rate) + 3) ** 2 + 0.2 / e for e in (1, 2, 3)
            } | ({4: last} if last else {})

        def scan_history(self, keys):
            return ({"epoch": epoch, OBJECTIVE: value} for epoch, value in self.curve.items())

    rates = np.geomspace(1e-4, 0.03, 8)
    runs = [*map(Run, rates), Run(0.01, "gelu"), Run(5.0), Run(0.09, last=WORST["dice_focal"])]
    records = search.earlier(runs, SPACE, WORST["dice_focal"])
    assert [record.params["learning_rate"] for record in records] == [*rates, 0.09]
    assert [record.infeasible for record in records] == [False] * 8 + [True] and records[0].value(
        3
    ) == runs[0].curve[3]
    policy = search.Multifidelity(SPACE, 0)
    policy.earlier = records
    assert 3e-4 < policy.propose(0, [])["learning_rate"] < 3e-3


def test_a_trial_with_the_worst_loss_is_infeasible():
    params = {"batch_size": 4, "learning_rate": 0.01, "activation": None, "epochs": 27}
    distributions = DISTRIBUTIONS | {"epochs": IntDistribution(1, 27)}
    for values, infeasible in (
        ({1: 0.9, 2: WORST["dice_focal"] + 1e-7}, True),
        ({1: 0.9, 2: 0.8}, False),
        ({1: math.nan}, True),
    ):
        trial = create_trial(
            params=params, distributions=distributions, value=0.5, intermediate_values=values
        )
        assert record(trial, 27, WORST["dice_focal"]).infeasible == infeasible
        assert record(trial, 27, WORST["dice_focal"]).params == {
            k: v for k, v in params.items() if k != "epochs"
        }

"""search/forecast.py: curves are predicted from their start, infeasible regions are avoided."""

import math

import numpy as np
from search_helpers import SPACE, some_histories

from search.forecast import Forecast, observations
from search.halving import rungs
from search.history import RunHistory
from search.settings import Settings

SETTINGS = Settings()


def forecast(histories):
    return Forecast.of(SPACE, histories, rungs(1, 27), SETTINGS)


def with_rate(rate):
    return {"batch_size": 4, "learning_rate": rate, "activation": "relu"}


def test_a_curve_is_predicted_from_its_start_and_from_other_runs():
    """Of two runs with equal first values, the one near better configurations ends lower."""
    random, finished = np.random.default_rng(1), []
    for number, point in enumerate(SPACE.draw(random, 24)):
        params = SPACE.decode(point)
        far = abs(math.log10(params["learning_rate"]) + 2.5)
        values = {e: 0.4 + 0.1 * far + 0.5 / e for e in (1, 3, 9, 27)}
        finished.append(RunHistory(number, params, 27, values))
    started = [
        RunHistory(90 + i, with_rate(rate), 27, {1: 0.95}, running=True)
        for i, rate in enumerate((0.0032, 0.09))
    ]
    predicted = forecast(finished + started)
    near, far = (predicted.finals[0][predicted.row(run.number)] for run in started)
    assert near < far
    finals = np.array([predicted.finals[0][predicted.row(run.number)] for run in finished])
    np.testing.assert_allclose(finals, predicted.observations.lowest[:24], atol=0.15)


def test_infeasible_runs_are_avoided_and_move_the_best_by_less_than_half_a_decade():
    feasible = [run for run in some_histories(60) if not run.infeasible and not run.running]
    infeasible = [
        RunHistory(100 + i, with_rate(0.05 + 0.004 * i), 27, {}, infeasible=True) for i in range(10)
    ]
    without, with_infeasible = forecast(feasible), forecast(feasible + infeasible)
    good_and_bad = np.array([SPACE.encode(with_rate(rate)) for rate in (0.003, 0.08)])
    values = without.observations.values
    assert with_infeasible.observations.values.max() == values.max()
    rates = [with_rate(rate) for rate in np.geomspace(1e-4, 0.02, 30)]
    before, after = (
        part.new(np.array([SPACE.encode(params) for params in rates]))[0]
        for part in (without, with_infeasible)
    )
    decades = abs(before.argmin() - after.argmin()) * math.log10(200) / 29
    assert decades < 0.5
    assert values.min() <= after.min() and after.max() <= values.max()
    probabilities = with_infeasible.feasible(good_and_bad)
    assert probabilities[0] > 0.9 > 0.3 > probabilities[1]
    assert list(without.feasible(good_and_bad)) == [1, 1]


def test_observations_are_read_at_the_rungs_and_at_the_last_epoch():
    """Standardized logarithms, one row per reading; infeasible runs count as a high quantile."""
    values = {epoch: 1.0 / epoch for epoch in range(1, 6)}
    histories = [
        RunHistory(0, with_rate(0.001), 27, values),
        RunHistory(1, with_rate(0.002), 27, {1: 0.8}, running=True),
        RunHistory(2, with_rate(0.003), 27, running=True),
        RunHistory(3, with_rate(0.004), 27),
        RunHistory(4, with_rate(0.09), 27, infeasible=True),
    ]
    seen = observations(SPACE, histories, [1, 3, 9, 27], SETTINGS)
    assert [run.number for run in seen.runs] == [0, 1, 2]
    assert seen.inputs.runs.tolist() == [0, 0, 0, 1, 4]
    assert seen.inputs.epochs.tolist() == [1, 3, 5, 1, 27]
    logs = np.log([1, 1 / 3, 1 / 5, 0.8])
    expected = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(seen.values[:4], expected)
    assert seen.values[4] == np.quantile(expected, SETTINGS.infeasible_quantile)
    np.testing.assert_allclose(seen.lowest, [expected[2], expected[3], np.inf])


def test_the_process_stays_bounded_however_many_runs_there_are():
    histories = some_histories(1000)
    predicted = forecast(histories)
    assert len(predicted.observations.values) > SETTINGS.max_observations
    assert len(predicted.process.inputs) == SETTINGS.max_observations

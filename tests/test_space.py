"""search/space.py: encoding, integers, priors, and a space that is used up."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from search_helpers import DISTRIBUTIONS, SPACE

from search.history import RunHistory
from search.space import Prior, Space


@given(st.integers(0, 10_000))
def test_decode_inverts_encode_and_stays_inside_the_space(seed):
    params = SPACE.decode(SPACE.draw(np.random.default_rng(seed), 1)[0])
    assert SPACE.key(SPACE.decode(SPACE.encode(params))) == pytest.approx(SPACE.key(params))
    for name, value in params.items():
        assert DISTRIBUTIONS[name]._contains(DISTRIBUTIONS[name].to_internal_repr(value))


def test_snapped_points_are_those_of_their_configurations():
    """Else a model would see new points between two integers, and propose the same run again."""
    points = SPACE.draw(np.random.default_rng(0), 200)
    np.testing.assert_allclose(
        SPACE.snap(points),
        [SPACE.encode(SPACE.decode(point)) for point in points],
        atol=1e-12,
    )
    assert (np.abs(SPACE.snap(points) - points).max(0)[: len(SPACE.numbers)] > 0.01).any()


def test_an_integer_is_drawn_in_proportion_to_its_interval():
    """On a log scale k owns [k - 1/2, k + 1/2], so 1 is drawn log(3) / log(65) of the time."""
    drawn = [
        SPACE.decode(point)["batch_size"] for point in SPACE.draw(np.random.default_rng(0), 4000)
    ]
    assert np.mean(np.equal(drawn, 1)) == pytest.approx(math.log(3) / math.log(65), abs=0.03)


def test_draws_mix_the_priors_with_the_uniform_fraction():
    space = Space(DISTRIBUTIONS, {"learning_rate": Prior(0.002, 2)}, uniform_fraction=0.25)
    rates = np.array(
        [space.decode(p)["learning_rate"] for p in space.draw(np.random.default_rng(0), 4000)]
    )
    near = np.mean((rates > 0.0005) & (rates < 0.008))  # two standard deviations
    assert near == pytest.approx(0.75 * 0.954 + 0.25 * math.log10(16) / 3, abs=0.03)


def test_a_prior_of_something_that_is_not_searched_is_an_error():
    with pytest.raises(ValueError, match="momentum"):
        Space(DISTRIBUTIONS, {"momentum": Prior(0.9, 0.1)})


def test_a_space_repeats_a_configuration_only_when_all_are_used():
    space = Space({"x": IntDistribution(1, 5), "epochs": CategoricalDistribution([3])})
    histories = []
    for number in range(5):
        params = space.unused({"x": 1}, histories, np.random.default_rng(number))
        histories.append(RunHistory(number, params, 3))
    assert {run.params["x"] for run in histories} == {1, 2, 3, 4, 5}
    assert space.unused({"x": 1}, histories, np.random.default_rng(9))["x"] in range(1, 6)

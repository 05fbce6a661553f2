"""search/gaussian.py against its formula, scikit-learn, numerical derivatives and Monte Carlo."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern

from search import gaussian
from search.gaussian import NO_RUN, Inputs, Parameters, Process, expected_improvement, thinned


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
LENGTHS = {"lengths": np.array([0.3, 0.7]), "lengths_early": np.array([0.5, 0.4])}


def data(count, epochs=(1, 3, 9, 27)):
    random = np.random.default_rng(3)
    numbers, categories = (
        random.random((count, 2)),
        random.integers(0, 4, (count, 1)).astype(float),
    )
    inputs = Inputs(numbers, categories, random.choice(epochs, count), random.integers(0, 9, count))
    return inputs, random.normal(size=count)


def test_the_posterior_at_one_epoch_agrees_with_sklearn():
    """At one epoch `decay` is a number. Without `own` and `drift`, scikit-learn has the rest."""
    inputs, values = data(30, epochs=(9,))
    at, _ = data(50, epochs=(9,))
    p = Parameters(**SCALARS | {"own": 0.0, "drift": 0.0}, **LENGTHS)
    mean, deviation = Process.given(inputs, values, p).predict(at)
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


def test_the_covariance_agrees_with_its_formula_element_by_element():
    a, _ = data(12)
    b, _ = data(9)
    p = Parameters(**SCALARS, **LENGTHS)

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


def test_the_prior_variance_is_the_diagonal_of_the_covariance():
    at, _ = data(70)
    no_run = Inputs(at.numbers, at.categories, at.epochs, np.full(70, NO_RUN))
    p = Parameters(**SCALARS, **LENGTHS)
    for inputs in (at, no_run):
        diagonal = np.diag(gaussian.covariance(inputs, inputs, p))
        np.testing.assert_allclose(gaussian.prior_variance(inputs, p), diagonal)


def test_the_gradient_of_the_fit_agrees_with_finite_differences():
    objective = gaussian.negative_log_posterior(*data(20))
    medians = gaussian.prior(2)[0]
    at = medians + np.random.default_rng(0).normal(0, 0.3, len(medians))
    numeric = optimize.approx_fprime(at, lambda x: objective(x)[0], 1e-6)
    np.testing.assert_allclose(objective(at)[1], numeric, rtol=1e-4, atol=1e-3)


def test_expected_improvement_agrees_with_monte_carlo():
    draws = np.random.default_rng(0).normal(size=400_000)
    for mean, deviation in itertools.product([-1.0, 0.0, 1.5], [0.1, 1.0]):
        measured = np.maximum(0.2 - (mean + deviation * draws), 0).mean()
        assert expected_improvement(np.array(mean), np.array(deviation), 0.2) == pytest.approx(
            measured, abs=4e-3
        )


def test_thinning_keeps_the_lowest_half_and_bounds_the_process():
    """The bound is what keeps a proposal's time constant while the number of runs grows."""
    inputs, values = data(300)
    rows = thinned(values, 40)
    assert len(rows) == len(set(rows)) == 40
    assert set(np.argsort(values)[:20]) <= set(rows)
    process = Process.fitted(inputs, values, max_observations=40, max_fitted=10)
    assert len(process.inputs) == len(process.values) == 40 and process.factor.shape == (40, 40)
    np.testing.assert_array_equal(thinned(values, 300), np.arange(300))

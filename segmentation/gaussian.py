"""A Gaussian process over mixed inputs, and expected improvement. NumPy and SciPy only.

Covariance of two configurations: amplitude^2 * Matern 5/2 of their numbers with a length scale each (ARD) * a Hamming kernel of
their categories, exp(-share of the length that differs). Where a lower fidelity's value z is an input too, a regression
on it is part of the covariance: offset^2 + slope^2 z z', so its coefficients are integrated out, not fitted.
Rasmussen & Williams 2006, Algorithm 2.1 and equation 5.9.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize, special

OFFSET, SLOPE = 3.0, 1.0  # prior standard deviations of the intercept and of the slope's difference from one
JITTER = 1e-6
STEPS = 20  # of the optimizer


@dataclass(frozen=True)
class Inputs:
    """n configurations: numbers (n, d) in [0, 1], categories (n, c) as indices, below (n,) the lower fidelity's value or None."""

    numbers: np.ndarray
    categories: np.ndarray
    below: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows) -> "Inputs":
        return Inputs(self.numbers[rows], self.categories[rows], None if self.below is None else self.below[rows])


@dataclass(frozen=True)
class Parameters:
    """Length scales of the numbers (d,), length of the Hamming kernel, amplitude and standard deviation of the noise."""

    lengths: np.ndarray
    hamming: float
    amplitude: float
    noise: float

    @classmethod
    def of_logs(cls, logs: np.ndarray) -> "Parameters":
        values = np.exp(logs)
        return cls(values[:-3], *map(float, values[-3:]))


def prior(dimensions: int, amplitude: float) -> tuple[np.ndarray, np.ndarray]:
    """(means, standard deviations) of the logarithms in the order of `Parameters`, for values of standard deviation one."""
    means = np.log([*[0.5] * dimensions, 1.5, amplitude, 0.1])
    return means, np.array([*[0.7] * dimensions, 0.7, 0.7, 1.0])


def _squares(a: Inputs, b: Inputs, lengths: np.ndarray) -> np.ndarray:
    """(d, len(a), len(b)): squared scaled differences of each number."""
    return ((a.numbers.T[:, :, None] - b.numbers.T[:, None, :]) / lengths[:, None, None]) ** 2


def _differing(a: Inputs, b: Inputs) -> np.ndarray:
    """(len(a), len(b)): how many categories differ."""
    return (a.categories[:, None, :] != b.categories[None, :, :]).sum(-1).astype(float)


def covariance(a: Inputs, b: Inputs, p: Parameters) -> np.ndarray:
    """(len(a), len(b)): prior covariance, the regression on the lower fidelity included, the noise not."""
    distance = np.sqrt(5.0 * _squares(a, b, p.lengths).sum(0))
    matern = (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)
    return p.amplitude**2 * matern * np.exp(-_differing(a, b) / p.hamming) + _regression(a, b)


def _regression(a: Inputs, b: Inputs) -> np.ndarray | float:
    return OFFSET**2 if a.below is None else OFFSET**2 + SLOPE**2 * np.outer(a.below, b.below)


def _mean(inputs: Inputs) -> np.ndarray:
    """(n,): what is expected before any data, the value one fidelity below."""
    return np.zeros(len(inputs)) if inputs.below is None else inputs.below


class Process:
    """A Gaussian process given data: posterior of the noise-free function."""

    def __init__(self, inputs: Inputs, values: np.ndarray, parameters: Parameters):
        """`values` (n,) belong to `inputs`; n may be 0."""
        self.inputs, self.parameters = inputs, parameters
        gram = covariance(inputs, inputs, parameters) + (parameters.noise**2 + JITTER) * np.eye(len(inputs))
        self.factor = linalg.cholesky(gram, lower=True) if len(inputs) else np.zeros((0, 0))
        self.weights = _solve(self.factor, values - _mean(inputs))

    def predict(self, at: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """(means, variances), each (len(at),)."""
        cross = covariance(self.inputs, at, self.parameters)
        variance = self.parameters.amplitude**2 + OFFSET**2
        variance = variance if at.below is None else variance + SLOPE**2 * at.below**2
        if not len(self.inputs):
            return _mean(at), np.broadcast_to(variance, len(at)).astype(float)
        half = linalg.solve_triangular(self.factor, cross, lower=True)
        return _mean(at) + cross.T @ self.weights, np.maximum(variance - (half**2).sum(0), 1e-12)

    @property
    def slope(self) -> float:
        """How the mean moves with the lower fidelity's value: Kennedy & O'Hagan's rho."""
        return 1.0 if not len(self.inputs) else float(1.0 + SLOPE**2 * self.inputs.below @ self.weights)


def _solve(factor: np.ndarray, values: np.ndarray) -> np.ndarray:
    return linalg.cho_solve((factor, True), values) if len(values) else values


def fit(inputs: Inputs, values: np.ndarray, amplitude: float) -> Parameters:
    """The parameters of the highest posterior density; the prior's means where there are fewer than three values."""
    means, sigmas = prior(inputs.numbers.shape[1], amplitude)
    if len(inputs) < 3:
        return Parameters.of_logs(means)
    residual, differing = values - _mean(inputs), _differing(inputs, inputs)
    regression, unit = _regression(inputs, inputs), np.ones(inputs.numbers.shape[1])
    squares, eye = _squares(inputs, inputs, unit), np.eye(len(inputs))

    def objective(logs: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the log posterior, and its gradient."""
        p = Parameters.of_logs(logs)
        scaled = squares / (p.lengths**2)[:, None, None]
        distance = np.sqrt(5.0 * scaled.sum(0))
        decay = p.amplitude**2 * np.exp(-distance - differing / p.hamming)
        signal = decay * (1.0 + distance + distance**2 / 3.0)
        factor = linalg.cholesky(signal + regression + (p.noise**2 + JITTER) * eye, lower=True)
        weights = _solve(factor, residual)
        inner = linalg.cho_solve((factor, True), eye) - np.outer(weights, weights)
        slopes = [*(5.0 / 3.0 * scaled * (1.0 + distance) * decay), signal * differing / p.hamming, 2.0 * signal]
        gradient = np.array([0.5 * np.vdot(inner, slope) for slope in slopes] + [p.noise**2 * np.trace(inner)])
        away = (logs - means) / sigmas
        value = 0.5 * residual @ weights + np.log(np.diag(factor)).sum() + 0.5 * away @ away
        return value, gradient + away / sigmas

    bounds = list(zip(means - 4 * sigmas, means + 4 * sigmas, strict=True))
    found = optimize.minimize(objective, means, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    return Parameters.of_logs(found.x)


def expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """E[max(best - f, 0)] for f ~ N(mean, deviation^2), elementwise (Jones et al. 1998, equation 15)."""
    z = (best - mean) / deviation
    return deviation * (z * special.ndtr(z) + np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))

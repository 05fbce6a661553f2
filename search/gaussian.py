"""A Gaussian process over learning curves, and expected improvement. NumPy and SciPy only.

The value of a run at an epoch is the sum of four parts: the final value of its configuration, a
transient that decays with the epochs, a deviation of this run from others of its configuration,
and noise. The prior covariance of two noise-free observations a and b is

    level^2 * final_kernel                                          final values
    + (common^2 + transient^2 * early_kernel) * decay               distance from the final values
    + same_run * (own^2 + drift^2 * decay)                          deviation of one run
    + OFFSET^2                                                      unknown mean of all values

Notation; n and m are the numbers of observations a and b, d of numbers, c of categories:

    numbers         positions in the unit cube                      (n, d) float in [0, 1]
    categories      indices of the categories                       (n, c) float
    epochs          epoch of each observation, from 1               (n,) int
    runs            number of the run, or NO_RUN                    (n,) int
    final_kernel    Matern 5/2 of the numbers with a length scale   (n, m) in (0, 1]
                    per number (ARD), times exp(-h / hamming)
                    where h categories differ
    early_kernel    the same with lengths_early, hamming_early      (n, m) in (0, 1]
    decay           ((beta + 2) / (beta + e_a + e_b))^alpha,        (n, m) in (0, 1]
                    1 where both epochs are 1
    same_run        1 where both belong to the same run             (n, m) 0 or 1
    level ... drift standard deviations of the parts                scalars, units of the values
    noise           standard deviation of the noise                 scalar, units of the values
    alpha, beta     power (no unit) and offset in epochs            scalars
    lengths         length scales of final_kernel                   (d,) units of the cube

`decay` is the kernel of exponentially decaying curves of Swersky et al. 2014, Freeze-Thaw Bayesian
Optimization. As in Kennedy & O'Hagan 2000, early values inform final ones as far as the data show
that they agree; here for all epochs at once. Posterior: Rasmussen & Williams 2006, Algorithm 2.1;
gradient of the fit: their equation 5.9.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

OFFSET = 3.0  # prior standard deviation of the mean, for values of standard deviation one
JITTER = 1e-6  # added to the diagonal, so that repeated observations stay invertible
MAX_ITERATIONS = 25  # of the optimizer; the fit need not be exact
BLOCK = 64  # columns of a covariance computed at a time, so that temporary arrays fit the cache
MIN_TO_FIT = 3  # with fewer observations the parameters are the priors' medians
NO_RUN = -1  # the run of an observation that belongs to no run yet


@dataclass(frozen=True)
class Inputs:
    """Where n values were, or will be, observed. See the notation of the module.

    Attributes:
        numbers: (n, d) float in [0, 1].
        categories: (n, c) float, indices.
        epochs: (n,) int, from 1.
        runs: (n,) int, numbers of the runs; NO_RUN for none.
    """

    numbers: Floats
    categories: Floats
    epochs: Integers
    runs: Integers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: slice | Integers) -> "Inputs":
        return Inputs(self.numbers[rows], self.categories[rows], self.epochs[rows], self.runs[rows])

    def concatenate(self, other: "Inputs") -> "Inputs":
        """These observations, then the other ones."""
        return Inputs(
            np.concatenate([self.numbers, other.numbers]),
            np.concatenate([self.categories, other.categories]),
            np.concatenate([self.epochs, other.epochs]),
            np.concatenate([self.runs, other.runs]),
        )


@dataclass(frozen=True)
class Parameters:
    """The fitted parameters, all positive. See the notation of the module."""

    level: float
    common: float
    transient: float
    own: float
    drift: float
    noise: float
    alpha: float
    beta: float
    hamming: float
    hamming_early: float
    lengths: Floats
    lengths_early: Floats

    @classmethod
    def from_logs(cls, logs: Floats) -> "Parameters":
        """Parameters from their logarithms (scalars + 2 d,) in the order of the fields."""
        values = np.exp(logs)
        scalars = dict(zip(SCALARS, values[: len(SCALARS)].tolist(), strict=True))
        lengths, lengths_early = np.split(values[len(SCALARS) :], 2)
        return cls(**scalars, lengths=lengths, lengths_early=lengths_early)


SCALARS = [field.name for field in fields(Parameters) if not field.name.startswith("lengths")]

# Log-normal priors for values of standard deviation one: field -> (median, standard deviation of
# the logarithm). Ours, chosen wide on replayed curves (benchmarks/replay).
PRIORS = {
    "level": (1.0, 0.6),
    "common": (1.0, 0.7),
    "transient": (2.0, 0.4),
    "own": (0.05, 0.7),
    "drift": (0.05, 0.7),
    "noise": (0.05, 0.7),
    "alpha": (1.0, 0.4),
    "beta": (3.0, 0.7),
    "hamming": (1.5, 0.7),
    "hamming_early": (2.0, 0.7),
    "lengths": (0.4, 0.4),
    "lengths_early": (0.7, 0.6),
}


def prior(dimensions: int) -> tuple[Floats, Floats]:
    """(logarithms of the medians, standard deviations of the logarithms), each (scalars + 2 d,).

    Args:
        dimensions: d, the number of length scales of each kernel.
    """
    table = [PRIORS[name] for name in SCALARS]
    table += [PRIORS["lengths"]] * dimensions + [PRIORS["lengths_early"]] * dimensions
    return np.log([median for median, _ in table]), np.array([sigma for _, sigma in table])


def prior_medians(dimensions: int) -> Parameters:
    """Each parameter at the median of its prior."""
    return Parameters.from_logs(prior(dimensions)[0])


@dataclass(frozen=True)
class Terms:
    """The parts of a covariance, elementwise and of one shape; see the formula of the module."""

    level: Floats
    common: Floats
    transient: Floats
    own: Floats
    drift: Floats

    @classmethod
    def of(
        cls, p: Parameters, final: Floats, early: Floats, decay: Floats, same_run: Floats
    ) -> "Terms":
        """The parts from the kernels, which are arrays of one shape."""
        return cls(
            level=p.level**2 * final,
            common=p.common**2 * decay,
            transient=p.transient**2 * early * decay,
            own=p.own**2 * same_run,
            drift=p.drift**2 * same_run * decay,
        )

    def sum(self) -> Floats:
        """The covariance."""
        return self.level + self.common + self.transient + self.own + self.drift + OFFSET**2


def _decay(epochs: Floats, p: Parameters) -> Floats:
    """The kernel `decay`, from the sum of two observations' epochs."""
    powers: Floats = ((p.beta + 2) / (p.beta + epochs)) ** p.alpha
    return powers


@dataclass(frozen=True)
class _Kernel:
    """A kernel of configurations, and what its gradient needs. All arrays are (n, m) or (d, n, m).

    Attributes:
        value: The kernel.
        slope: -6/5 of the kernel's derivative by the sum of the squared scaled differences.
        scaled: (d, n, m), squared differences of the numbers over squared length scales.
    """

    value: Floats
    slope: Floats
    scaled: Floats


class _Pairs:
    """All pairs of two sets of observations: what covariance and gradient depend on, (n, m)."""

    def __init__(self, a: Inputs, b: Inputs):
        differ = a.categories[:, None, :] != b.categories[None, :, :]
        differences = a.numbers.T[:, :, None] - b.numbers.T[:, None, :]
        self.squares: Floats = np.square(differences)
        self.differing: Floats = differ.sum(-1).astype(float)
        self.epochs: Floats = np.add.outer(a.epochs, b.epochs).astype(float)
        same_run = (a.runs[:, None] == b.runs[None, :]) & (a.runs[:, None] != NO_RUN)
        self.same_run: Floats = same_run.astype(float)

    def kernel(self, lengths: Floats, hamming: float) -> _Kernel:
        """`final_kernel` or `early_kernel`, by the length scales given."""
        scaled = self.squares / (lengths**2)[:, None, None]
        distance = np.sqrt(5.0 * scaled.sum(0))
        decay = np.exp(-distance - self.differing / hamming)
        value = decay * (1.0 + distance + distance**2 / 3.0)
        return _Kernel(value, decay * (1.0 + distance), scaled)

    def covariance(self, p: Parameters) -> Floats:
        """(n, m): prior covariance without the noise."""
        final = self.kernel(p.lengths, p.hamming).value
        early = self.kernel(p.lengths_early, p.hamming_early).value
        return Terms.of(p, final, early, _decay(self.epochs, p), self.same_run).sum()

    def with_gradient(self, p: Parameters) -> tuple[Floats, list[Floats]]:
        """The covariance, and its derivatives by the logarithms of the parameters.

        The derivatives are (n, m) each, in the order of `Parameters.from_logs`. That of the noise
        is zero here, because the covariance is without noise.
        """
        final = self.kernel(p.lengths, p.hamming)
        early = self.kernel(p.lengths_early, p.hamming_early)
        decay = _decay(self.epochs, p)
        terms = Terms.of(p, final.value, early.value, decay, self.same_run)
        decaying = terms.common + terms.transient + terms.drift
        by_beta = 1 / (p.beta + 2) - 1 / (p.beta + self.epochs)
        slopes = {
            "level": 2 * terms.level,
            "common": 2 * terms.common,
            "transient": 2 * terms.transient,
            "own": 2 * terms.own,
            "drift": 2 * terms.drift,
            "noise": np.zeros_like(decay),
            "alpha": decaying * np.log(decay),
            "beta": decaying * p.alpha * p.beta * by_beta,
            "hamming": terms.level * self.differing / p.hamming,
            "hamming_early": terms.transient * self.differing / p.hamming_early,
        }
        final_weight = 5 / 3 * p.level**2 * final.slope
        early_weight = 5 / 3 * p.transient**2 * decay * early.slope
        lengths = [final_weight * part for part in final.scaled]
        lengths += [early_weight * part for part in early.scaled]
        return terms.sum(), [slopes[name] for name in SCALARS] + lengths


def covariance(a: Inputs, b: Inputs, p: Parameters) -> Floats:
    """(len(a), len(b)): prior covariance without the noise."""
    blocks = [_Pairs(a, b[i : i + BLOCK]).covariance(p) for i in range(0, len(b), BLOCK)]
    return np.hstack(blocks) if blocks else np.zeros((len(a), 0))


def prior_variance(at: Inputs, p: Parameters) -> Floats:
    """(len(at),): the diagonal of `covariance(at, at, p)`."""
    ones = np.ones(len(at))
    same_run = (at.runs != NO_RUN).astype(float)
    return Terms.of(p, ones, ones, _decay(2.0 * at.epochs, p), same_run).sum()


@dataclass(frozen=True)
class Process:
    """A Gaussian process conditioned on observations: the posterior of noise-free curves.

    Attributes:
        inputs: The n observations; n may be 0.
        values: (n,) observed values.
        parameters: Of the covariance.
        factor: (n, n) lower Cholesky factor of the covariance of the values.
        weights: (n,) inverse covariance times values.
    """

    inputs: Inputs
    values: Floats
    parameters: Parameters
    factor: Floats
    weights: Floats

    @classmethod
    def given(cls, inputs: Inputs, values: Floats, parameters: Parameters) -> "Process":
        """The process conditioned on observations, with known parameters."""
        if not len(inputs):
            return cls(inputs, values, parameters, np.zeros((0, 0)), values)
        noise = (parameters.noise**2 + JITTER) * np.eye(len(inputs))
        factor = linalg.cholesky(covariance(inputs, inputs, parameters) + noise, lower=True)
        return cls(inputs, values, parameters, factor, linalg.cho_solve((factor, True), values))

    @classmethod
    def fitted(
        cls, inputs: Inputs, values: Floats, max_observations: int, max_fitted: int
    ) -> "Process":
        """The process conditioned on observations, with parameters fitted to them.

        Costs grow with the cube of the number of observations, so both are bounded; `thinned`
        says which ones are used.

        Args:
            inputs: The observations.
            values: (n,) observed values, with mean 0 and standard deviation about 1.
            max_observations: Observations to condition on.
            max_fitted: Observations to fit the parameters to.
        """
        used, to_fit = thinned(values, max_observations), thinned(values, max_fitted)
        return cls.given(inputs[used], values[used], fit(inputs[to_fit], values[to_fit]))

    def extended(self, inputs: Inputs, values: Floats) -> "Process":
        """The process conditioned on further observations, with the same parameters."""
        return Process.given(
            self.inputs.concatenate(inputs), np.append(self.values, values), self.parameters
        )

    def predict(self, at: Inputs) -> tuple[Floats, Floats]:
        """(means, standard deviations) of the noise-free curves, each (len(at),)."""
        variance = prior_variance(at, self.parameters)
        if not len(self.inputs):
            return np.zeros(len(at)), np.sqrt(variance)
        cross = covariance(self.inputs, at, self.parameters)
        half = linalg.solve_triangular(self.factor, cross, lower=True)
        return cross.T @ self.weights, np.sqrt(np.maximum(variance - (half**2).sum(0), 1e-12))


def thinned(values: Floats, most: int) -> Integers:
    """Rows of at most `most` values: half the lowest ones, half spread evenly over the others."""
    if len(values) <= most:
        return np.arange(len(values))
    order = np.argsort(values, kind="stable")
    low, rest = order[: most // 2], order[most // 2 :]
    spread = np.linspace(0, len(rest) - 1, most - len(low)).astype(int)
    return np.sort(np.concatenate([low, rest[spread]]))


def negative_log_posterior(
    inputs: Inputs, values: Floats
) -> Callable[[Floats], tuple[float, Floats]]:
    """A function of the parameters' logarithms: minus the log posterior density, and its gradient.

    The density is up to a constant. The gradient has the shape of the logarithms.
    """
    medians, sigmas = prior(inputs.numbers.shape[1])
    pairs, eye, noise = _Pairs(inputs, inputs), np.eye(len(inputs)), SCALARS.index("noise")

    def objective(logs: Floats) -> tuple[float, Floats]:
        p = Parameters.from_logs(logs)
        signal, slopes = pairs.with_gradient(p)
        factor = linalg.cholesky(signal + (p.noise**2 + JITTER) * eye, lower=True)
        weights = linalg.cho_solve((factor, True), values)
        inner = linalg.cho_solve((factor, True), eye) - np.outer(weights, weights)
        gradient = np.array([0.5 * np.vdot(inner, slope) for slope in slopes])
        gradient[noise] = p.noise**2 * np.trace(inner)
        away = (logs - medians) / sigmas
        likelihood = 0.5 * values @ weights + np.log(np.diag(factor)).sum()
        return float(likelihood + 0.5 * away @ away), gradient + away / sigmas

    return objective


def fit(inputs: Inputs, values: Floats) -> Parameters:
    """The parameters of the highest posterior density; the priors' medians for very few values."""
    dimensions = inputs.numbers.shape[1]
    if len(inputs) < MIN_TO_FIT:
        return prior_medians(dimensions)
    medians, sigmas = prior(dimensions)
    found = optimize.minimize(
        negative_log_posterior(inputs, values),
        medians,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(medians - 4 * sigmas, medians + 4 * sigmas, strict=True)),
        options={"maxiter": MAX_ITERATIONS},
    )
    return Parameters.from_logs(found.x)


def expected_improvement(mean: Floats, deviation: Floats, best: float | Floats) -> Floats:
    """E[max(best - f, 0)] for f ~ N(mean, deviation^2), elementwise (Jones et al. 1998, eq. 15)."""
    z = (best - mean) / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    improvement: Floats = deviation * (z * special.ndtr(z) + density)
    return improvement

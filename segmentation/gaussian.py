"""A Gaussian process over learning curves, and expected improvement. NumPy and SciPy only.

The value of a run at an epoch is the sum of what its configuration comes to in the end, of a transient that dies out with the
epochs, of the run's own share of chance, and of noise. The covariance of two observations (configurations x, x', epochs e, e'):

    level^2  M(x, x')                    where configurations end
    + (common^2 + transient^2 N(x, x')) T(e, e')     how far they still are from it: common to all, and each
    + [same run] (own^2 + drift^2 T(e, e'))          what another run of the same configuration would not have
    + offset^2

M and N are products of a Matern 5/2 of the numbers with a length scale each (ARD) and a Hamming kernel of the categories,
exp(-number that differs / length). T = ((beta + 2) / (beta + e + e'))^alpha is the kernel of decaying curves of Swersky et al.
2014 (Freeze-Thaw Bayesian Optimization), 1 at the first epoch. As in Kennedy & O'Hagan 2000 early values inform late ones as far
as the data say that they agree; here for all epochs at once. Rasmussen & Williams 2006, Algorithm 2.1 and equation 5.9.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
from scipy import linalg, optimize, special

OFFSET = 3.0  # prior standard deviation of the mean
JITTER = 1e-6
STEPS = 25  # of the optimizer
BLOCK = 64  # columns of a covariance at a time, so that what is made on the way stays in the cache
NOBODY = -1  # the run of an observation that belongs to none yet


@dataclass(frozen=True)
class Inputs:
    """n observations: numbers (n, d) in [0, 1], categories (n, c) as indices, epochs (n,) from 1, runs (n,) as numbers."""

    numbers: np.ndarray
    categories: np.ndarray
    epochs: np.ndarray
    runs: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows) -> "Inputs":
        return Inputs(*(getattr(self, part.name)[rows] for part in fields(self)))

    def and_(self, other: "Inputs") -> "Inputs":
        """These observations, then the other ones."""
        return Inputs(
            *(
                np.concatenate([getattr(self, part.name), getattr(other, part.name)])
                for part in fields(self)
            )
        )


NAMES = (
    "level",
    "common",
    "transient",
    "own",
    "drift",
    "noise",
    "alpha",
    "beta",
    "hamming",
    "hamming_early",
)
PRIOR = {  # medians, and standard deviations of the logarithms, for values of standard deviation one
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
    "length": (0.4, 0.4),
    "length_early": (0.7, 0.6),
}


@dataclass(frozen=True)
class Parameters:
    """What is fitted: the scalars by their names in PRIOR, the length scales (d,) of M and N."""

    scalars: dict[str, float]
    lengths: np.ndarray
    lengths_early: np.ndarray

    def __getitem__(self, name: str) -> float:
        return self.scalars[name]

    @classmethod
    def of_logs(cls, logs: np.ndarray) -> "Parameters":
        values, count = np.exp(logs), len(NAMES)
        half = (len(values) - count) // 2
        return cls(
            dict(zip(NAMES, map(float, values[:count]), strict=True)),
            values[count : count + half],
            values[count + half :],
        )


def prior(dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """(medians' logarithms, standard deviations) in the order of `Parameters.of_logs`."""
    table = (
        [PRIOR[name] for name in NAMES]
        + [PRIOR["length"]] * dimensions
        + [PRIOR["length_early"]] * dimensions
    )
    return np.log([median for median, _ in table]), np.array([sigma for _, sigma in table])


def _decay(epochs: np.ndarray, p: Parameters) -> np.ndarray:
    """T of the sum of two observations' epochs."""
    return ((p["beta"] + 2) / (p["beta"] + epochs)) ** p["alpha"]


class _Parts:
    """The factors of the covariance between two sets of observations, from which it and its gradient are put together."""

    def __init__(self, a: Inputs, b: Inputs):
        self.squares = (a.numbers.T[:, :, None] - b.numbers.T[:, None, :]) ** 2
        self.differing = (
            (a.categories[:, None, :] != b.categories[None, :, :]).sum(-1).astype(float)
        )
        self.epochs = (a.epochs[:, None] + b.epochs[None, :]).astype(float)
        self.same = ((a.runs[:, None] == b.runs[None, :]) & (a.runs[:, None] != NOBODY)).astype(
            float
        )

    def similarity(
        self, lengths: np.ndarray, hamming: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(M, the derivative of M by the squared distance over -5/6, squared scaled differences (d, n, m))."""
        scaled = self.squares / (lengths**2)[:, None, None]
        distance = np.sqrt(5.0 * scaled.sum(0))
        decay = np.exp(-distance - self.differing / hamming)
        return decay * (1.0 + distance + distance**2 / 3.0), decay * (1.0 + distance), scaled

    def covariance(self, p: Parameters) -> np.ndarray:
        ends = self.similarity(p.lengths, p["hamming"])[0]
        early = self.similarity(p.lengths_early, p["hamming_early"])[0]
        decay = _decay(self.epochs, p)
        transient = p["common"] ** 2 + p["transient"] ** 2 * early
        own = p["own"] ** 2 + p["drift"] ** 2 * decay
        return p["level"] ** 2 * ends + transient * decay + self.same * own + OFFSET**2

    def with_gradient(self, p: Parameters) -> tuple[np.ndarray, list[np.ndarray]]:
        """The covariance and its derivatives by the logarithms of the parameters, the noise's zero."""
        ends, ends_slope, ends_scaled = self.similarity(p.lengths, p["hamming"])
        early, early_slope, early_scaled = self.similarity(p.lengths_early, p["hamming_early"])
        decay = _decay(self.epochs, p)
        level, common, transient, own, drift = (p[name] ** 2 for name in NAMES[:5])
        mixed, of_drift = transient * early * decay, drift * self.same * decay
        decaying = common * decay + mixed + of_drift
        slopes = {
            "level": 2 * level * ends,
            "common": 2 * common * decay,
            "transient": 2 * mixed,
            "own": 2 * own * self.same,
            "drift": 2 * of_drift,
            "noise": np.zeros_like(decay),
            "alpha": decaying * np.log(decay),
            "beta": decaying
            * p["alpha"]
            * p["beta"]
            * (1 / (p["beta"] + 2) - 1 / (p["beta"] + self.epochs)),
            "hamming": level * ends * self.differing / p["hamming"],
            "hamming_early": mixed * self.differing / p["hamming_early"],
        }
        lengths = [*(5 / 3 * level * ends_slope * part for part in ends_scaled)]
        lengths += [*(5 / 3 * transient * decay * early_slope * part for part in early_scaled)]
        total = level * ends + decaying + own * self.same + OFFSET**2
        return total, [slopes[name] for name in NAMES] + lengths


def covariance(a: Inputs, b: Inputs, p: Parameters) -> np.ndarray:
    """(len(a), len(b)): prior covariance without the noise."""
    blocks = [_Parts(a, b[i : i + BLOCK]).covariance(p) for i in range(0, len(b), BLOCK)]
    return np.hstack(blocks) if blocks else np.zeros((len(a), 0))


class Process:
    """A Gaussian process given data: posterior of the noise-free curves."""

    def __init__(self, inputs: Inputs, values: np.ndarray, parameters: Parameters):
        """`values` (n,) belong to `inputs`; n may be 0."""
        self.inputs, self.parameters = inputs, parameters
        gram = covariance(inputs, inputs, parameters) + (
            parameters["noise"] ** 2 + JITTER
        ) * np.eye(len(inputs))
        self.factor = linalg.cholesky(gram, lower=True) if len(inputs) else np.zeros((0, 0))
        self.weights = linalg.cho_solve((self.factor, True), values) if len(inputs) else values

    def predict(self, at: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """(means, standard deviations), each (len(at),)."""
        p = self.parameters
        decay = _decay(2 * at.epochs, p)
        variance = p["level"] ** 2 + OFFSET**2 + (p["common"] ** 2 + p["transient"] ** 2) * decay
        variance = variance + (at.runs != NOBODY) * (p["own"] ** 2 + p["drift"] ** 2 * decay)
        if not len(self.inputs):
            return np.zeros(len(at)), np.sqrt(variance)
        cross = covariance(self.inputs, at, p)
        half = linalg.solve_triangular(self.factor, cross, lower=True)
        return cross.T @ self.weights, np.sqrt(np.maximum(variance - (half**2).sum(0), 1e-12))


def fit(inputs: Inputs, values: np.ndarray) -> Parameters:
    """The parameters of the highest posterior density; the prior's medians where there are fewer than three values."""
    medians, sigmas = prior(inputs.numbers.shape[1])
    if len(inputs) < 3:
        return Parameters.of_logs(medians)
    parts, eye, noise = _Parts(inputs, inputs), np.eye(len(inputs)), NAMES.index("noise")

    def objective(logs: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the log posterior, and its gradient."""
        p = Parameters.of_logs(logs)
        signal, slopes = parts.with_gradient(p)
        factor = linalg.cholesky(signal + (p["noise"] ** 2 + JITTER) * eye, lower=True)
        weights = linalg.cho_solve((factor, True), values)
        inner = linalg.cho_solve((factor, True), eye) - np.outer(weights, weights)
        gradient = np.array([0.5 * np.vdot(inner, slope) for slope in slopes])
        gradient[noise] = p["noise"] ** 2 * np.trace(inner)
        away = (logs - medians) / sigmas
        return 0.5 * values @ weights + np.log(
            np.diag(factor)
        ).sum() + 0.5 * away @ away, gradient + away / sigmas

    bounds = list(zip(medians - 4 * sigmas, medians + 4 * sigmas, strict=True))
    found = optimize.minimize(
        objective, medians, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS}
    )
    return Parameters.of_logs(found.x)


def expected_improvement(
    mean: np.ndarray, deviation: np.ndarray, best: float | np.ndarray
) -> np.ndarray:
    """E[max(best - f, 0)] for f ~ N(mean, deviation^2), elementwise (Jones et al. 1998, equation 15)."""
    z = (best - mean) / deviation
    return deviation * (z * special.ndtr(z) + np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))

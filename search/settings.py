"""Every number of our own search, with its unit and its source."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The numbers of `multifidelity` and of its forecast.

    "Ours" means: chosen by us on replays of `benchmarks/replay`, on made-up tasks with other seeds
    than those of `results/replay` and on the table of real curves, which has no other seeds. The
    priors of the Gaussian process's parameters stand in `gaussian.py`, rungs in `halving.py`, the
    uniform fraction of draws in `space.py`.

    Proposals:
        initial_runs: Runs at the centre of the space before the model proposes; as many again at
            the medians of the user's priors, if there are any. Ours.
        candidates: Random points per proposal whose expected improvement is computed. Ours.
        local_centers: Number of best runs around which further points are drawn. Ours.
        local_draws: Points around each of these. Ours.
        local_spread: Standard deviation of the points around a run, in units of the cube. Ours.
        prior_strength: The user's prior weighs with the exponent prior_strength / runs, so it
            fades (beta / n of Hvarfner et al. 2022, piBO; the value is ours, in runs).

    Early stopping:
        stop_ratio: Stop a run whose expected improvement per remaining epoch is below this fraction
            of a new run's per epoch. Below 1, because a stop is final while a new run may be
            stopped too. Ours, no unit.
        protected_fraction: Best fraction of the runs at a rung, which is never stopped: the model
            can be too certain, above all where many runs agree by chance. Ours, no unit.

    Target of expected improvement:
        margin: Smallest relative gain that counts as an improvement. Ours, no unit.
        margin_runs: Runs up to which the margin is whole; then it shrinks as 1 / runs. Ours.

    Observations:
        max_observations: Observations that the process is conditioned on. Bounds the time of a
            proposal. Ours.
        max_fitted: Observations that its parameters are fitted to. Ours, for the same reason.
        max_labels: Latest infeasible runs, and latest feasible ones, that the model of
            infeasibility is conditioned on. Ours, for the same reason.
        max_spreads: Values worse than the median of their epoch by more than this many times the
            distance from the best value to the median are cut there. Ours, no unit.
        min_deviation: Smallest standard deviation assumed of the values' logarithms; the first
            values often agree by chance. Ours, no unit.
        infeasible_quantile: An infeasible run counts as this quantile of all values: bad, but no
            outlier that would distort the scale. Ours, in [0, 1].
    """

    initial_runs: int = 4
    candidates: int = 600
    local_centers: int = 5
    local_draws: int = 40
    local_spread: float = 0.08
    prior_strength: float = 25.0
    stop_ratio: float = 0.5
    protected_fraction: float = 0.5
    margin: float = 0.05
    margin_runs: int = 20
    max_observations: int = 400
    max_fitted: int = 80
    max_labels: int = 100
    max_spreads: float = 8.0
    min_deviation: float = 0.1
    infeasible_quantile: float = 0.8

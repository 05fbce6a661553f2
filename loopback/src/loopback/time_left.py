"""How long the rest of a sweep takes, estimated from the runs that this command has watched."""

from collections.abc import Collection, Sequence


def time_left(
    durations: Sequence[float], ages: Sequence[float], not_started: int, agents: int
) -> float | None:
    """Seconds until the last run ends, if each takes as long as the mean run that has ended.

    The estimate never rises while no run starts or ends: it falls by one second per second, and
    stays where it is while the runs that it depends on take longer than the mean.

    Args:
        durations: seconds that each ended run took.
        ages: seconds since each running run started.
        not_started: number of runs that are still to be started.
        agents: number of runs that can run at the same time.

    Returns:
        None if no run has ended.
    """
    if not durations:
        return None
    mean = sum(durations) / len(durations)
    oldest = sorted(ages, reverse=True)[:agents]  # a scheduler may queue more runs than can run
    free_at = sorted([max(0.0, mean - age) for age in oldest] + [0.0] * (agents - len(oldest)))
    # The agent that is free first takes the next run. As no agent is busy for longer than one mean
    # run, each takes one per round; the last round may not need all of them.
    rounds, rest = divmod(not_started + len(ages) - len(oldest), agents)
    last_free = free_at[-1] + rounds * mean
    return max(last_free, free_at[rest - 1] + (rounds + 1) * mean) if rest else last_free


class RunClock:
    """Measures how long runs take, from what is seen of them at each call of `update`.

    A run that was running before the first call counts as started at that call: its real start is
    not known, because it may have been interrupted in between.
    """

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._durations: dict[str, float] = {}
        self._before: set[str] | None = None  # runs that had ended before the first call
        self._previous = 0.0

    def update(self, moment: float, running: Collection[str], ended: Collection[str]) -> None:
        """Takes the names of the runs that run and have ended at `moment`, in seconds."""
        if self._before is None:
            self._before, self._previous = set(ended), moment
        for name in running:
            self._started.setdefault(name, moment)
            self._durations.pop(name, None)  # a preempted run that runs again
            self._before.discard(name)
        for name in ended:
            if name not in self._before and name not in self._durations:
                # A run that started and ended between two calls took no longer than their distance.
                self._durations[name] = moment - self._started.get(name, self._previous)
        self._previous = moment

    @property
    def ended(self) -> int:
        """Number of runs that ended while this clock watched."""
        return len(self._durations)

    def time_left(self, running: Collection[str], not_started: int, agents: int) -> float | None:
        """Seconds from the latest update until the last run ends; see the function `time_left`."""
        ages = [self._previous - self._started[name] for name in running]
        return time_left(list(self._durations.values()), ages, not_started, agents)

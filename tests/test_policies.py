"""What every search guarantees: it repeats, resumes, asks nothing twice and survives bad runs."""

import numpy as np
import pytest
from search_helpers import POLICIES, SPACE, curve, some_histories

from search.history import BUDGET, RunHistory


@pytest.mark.parametrize("name", POLICIES)
class TestEverySearch:
    def test_a_proposal_repeats_exactly_and_depends_on_the_seed(self, name):
        histories = some_histories(40)
        first = POLICIES[name](SPACE, 7).propose(40, histories)
        assert first == POLICIES[name](SPACE, 7).propose(40, list(histories))
        seeds = [POLICIES[name](SPACE, seed).propose(3, histories[:3]) for seed in range(5)]
        assert len({SPACE.key(params) for params in seeds}) > 1

    def test_questions_change_nothing(self, name):
        histories, policy = some_histories(40), POLICIES[name](SPACE, 7)
        stops = [policy.should_stop(run, histories) for run in histories]
        assert stops == [policy.should_stop(run, histories) for run in histories]
        first = policy.propose(40, histories)
        assert (
            first
            == policy.propose(40, histories)
            == POLICIES[name](SPACE, 7).propose(40, histories)
        )

    def test_a_whole_search_resumes_after_a_restart_and_does_not_repeat_itself(self, name):
        def search(restart_at):
            policy, histories = POLICIES[name](SPACE, 1), []
            for number in range(14):
                if number == restart_at:
                    policy = POLICIES[name](SPACE, 1)
                params = policy.propose(number, histories)
                epochs = params.pop(BUDGET)
                histories.append(RunHistory(number, params, epochs, curve(params, epochs)))
            return [(run.params, run.budget) for run in histories]

        whole = search(None)
        assert whole == search(9)
        assert len({(SPACE.key(params), epochs) for params, epochs in whole}) == 14

    def test_it_proposes_although_all_runs_were_infeasible(self, name):
        infeasible = [
            RunHistory(i, SPACE.decode(p), 27, {}, infeasible=True)
            for i, p in enumerate(SPACE.draw(np.random.default_rng(0), 12))
        ]
        policy = POLICIES[name](SPACE, 0)
        names = {"batch_size", "learning_rate", "activation", BUDGET}
        assert policy.propose(12, infeasible).keys() == names
        run = RunHistory(12, SPACE.decode(np.zeros(3)), 27, {}, running=True)
        assert not policy.should_stop(run, [*infeasible, run])

    @pytest.mark.parametrize("count", [100, 1000])
    def test_it_proposes_inside_the_space_after_many_runs(self, name, count):
        """How long a proposal takes is measured by benchmarks.replay, as milliseconds per run."""
        params = POLICIES[name](SPACE, 0).propose(count, some_histories(count))
        assert 1 <= params.pop(BUDGET) <= 27
        assert SPACE.contains(params)

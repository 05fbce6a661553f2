"""verdict.py: the sentence and the kind for every way in which a search can end."""

import pytest
from analysis_helpers import BY_ERROR, run, sweep

from analysis import best_run, verdict
from analysis.verdict import Gain
from segmentation.config import BASELINE

UNIT = "(lowest validation loss; lower is better)"


def judged(*runs, gain=None, **more) -> verdict.Verdict:
    found = sweep(*runs, **more)
    return verdict.judge(best_run.choose(found), found, gain)


def gain(best: float, baseline: float, margin: float) -> Gain:
    return Gain(5, best, 0.01, baseline, 0.01, baseline - best, margin)


def pair(best: float, baseline: float) -> tuple:
    return run("best", (best,), batch_size=4), run("base", (baseline,))


def outside(best: float, baseline: float) -> verdict.Verdict:
    """The verdict on a search of two runs, with a baseline outside of it."""
    mine, base = pair(best, baseline)
    return judged(mine, run("next", (best + 0.5,), batch_size=5), others=(base,))


@pytest.mark.parametrize(
    ("best", "baseline", "kind", "sentence"),
    [
        (0.0909, 0.1449, "won", f"The search beat the baseline: 0.0909 against 0.1449 {UNIT}."),
        (
            0.1459,
            0.1449,
            "lost",
            f"The search did not beat the baseline: 0.1459 against 0.1449 {UNIT}.",
        ),
        (
            0.1449,
            0.1449,
            "noise",
            "The search and the baseline do not differ by more than chance: 0.1449 against 0.1449 "
            f"{UNIT}.",
        ),
    ],
)
def test_without_repeats_the_two_values_decide_and_luck_is_unknown(best, baseline, kind, sentence):
    found = outside(best, baseline)
    assert (found.kind, found.sentence) == (kind, sentence)
    assert "is unknown: every configuration ran once" in found.luck
    assert "sweeps/confirm.yaml" in found.luck and "python -m analysis.confirm" in found.luck


def test_a_best_run_that_is_a_baseline_has_beaten_nothing():
    """Neither another baseline, which had less luck, nor the tag of the best run changes this."""
    lucky, other, worse = run("a", (0.2,)), run("b", (0.3,)), run("c", (0.4,), batch_size=4)
    tagged = run("a", (0.2,), batch_size=5, tags=["baseline"])
    for best in (lucky, tagged):
        found = judged(best, worse, others=(other,))
        assert found.kind == "lost"
        assert found.sentence == (
            "The search did not beat the baseline: its best run is a baseline itself, with 0.2000 "
            f"{UNIT}."
        )
        assert found.luck == ""
    choice = best_run.choose(sweep(run("z", (0.2,)), other))
    assert choice.gain is None and choice.baseline == choice.best


def test_without_a_baseline_the_verdict_is_unknown_and_the_choice_says_how_to_make_one():
    found = sweep(run("a", (0.2,), batch_size=4, loss="ce_dice"))
    choice = best_run.choose(found)
    said = verdict.judge(choice, found)
    assert said.kind == "unknown"
    assert said.sentence == (
        f"Whether the search beat the baseline is unknown: its best run has 0.2000 {UNIT}, and no "
        "baseline ran."
    )
    values = " ".join(f"--{name} {value}" for name, value in BASELINE.items())
    assert choice.warnings[-1].endswith(f"python train.py {values} --loss ce_dice")


def test_without_a_finished_run_there_is_no_verdict_yet():
    for runs in ((), (run("a", (0.2,), "stopped"), run("b", state="running"))):
        found = judged(*runs)
        assert found.kind == "unknown"
        assert found.sentence.startswith("There is no verdict yet: no run of ")
        assert found.sentence.endswith("then use --refresh.")


@pytest.mark.parametrize(
    ("best", "kind", "size"),
    [(0.40, "noise", "not larger"), (0.50, "noise", "not larger"), (0.10, "won", "larger")],
)
def test_a_difference_within_that_of_repeats_is_noise(best, kind, size):
    """Repeats of batch size 8 differ by 0.06; the baseline has 0.45."""
    repeats = [run(f"r{seed}", (0.60 + 0.06 * seed,), batch_size=8, seed=seed) for seed in (0, 1)]
    mine, base = pair(best, 0.45)
    found = judged(mine, *repeats, others=(base,))
    assert found.kind == kind
    assert f"is {size} than the largest difference between repeats" in found.luck
    assert "0.0600; configurations with repeats: 1)" in found.luck


@pytest.mark.parametrize(
    ("confirmed", "kind", "opening", "chance"),
    [
        (gain(0.10, 0.20, 0.03), "won", "The search beat the baseline:", "luck is unlikely"),
        (gain(0.20, 0.10, 0.03), "lost", "The search did not beat", "luck is unlikely"),
        (gain(0.19, 0.20, 0.03), "noise", "The search and the baseline do not", "may be luck"),
    ],
    ids=["real", "worse", "noise"],
)
def test_a_confirmation_overrides_the_two_runs(confirmed, kind, opening, chance):
    for best in (0.1, 0.3):  # better and worse than the baseline's single run
        mine, base = pair(best, 0.2)
        found = judged(mine, others=(base,), gain=confirmed)
        assert found.kind == kind
        assert found.sentence.startswith(opening)
        values = f"{confirmed.best_mean:.4f} against {confirmed.baseline_mean:.4f}"
        assert f"{values} on average of 5 seeds {UNIT}" in found.sentence
        assert f"{confirmed.mean:+.4f} ± 0.0300" in found.luck and chance in found.luck


def test_the_verdict_names_the_objective_of_the_search():
    mine = run("a", (0.1,), errors=(0.6,), batch_size=4)
    base = run("b", (0.9,), errors=(0.5,))
    found = judged(mine, others=(base,), metric=BY_ERROR)
    assert found.kind == "lost"
    assert "0.6000 against 0.5000 (lowest validation error; lower is better)" in found.sentence


def test_the_cost_is_the_sum_over_the_runs_of_the_sweep_alone():
    history = [{"epoch": i + 1, "best_val_loss": 0.5, "seconds": 30.0} for i in range(4)]
    runs = run("a", history=history, batch_size=4), run("b", history=history[:2], status="stopped")
    found = judged(*runs, others=(run("c", history=history),))
    assert (found.epochs, found.minutes) == (6, pytest.approx(3.0))
    assert found.cost == "The search spent 6 epochs and 3.0 minutes of training, all runs together."
    assert judged(run("d", (0.2, 0.1))).cost == "The search spent 2 epochs, all runs together."


def test_the_test_split_is_named_and_a_contradiction_is_said():
    lost, won = outside(0.3, 0.2), outside(0.2, 0.3)
    scores = {"best": 0.38, "baseline": 0.49}
    assert verdict.on_test_split(lost, scores) == (
        "Mean IoU on the test split: best run of the search 0.3800, baseline 0.4900 (higher is "
        "better)."
    )
    assert "the validation split favours the search, the test split the baseline" in (
        verdict.on_test_split(won, scores)
    )
    assert verdict.on_test_split(won, {"best": 0.38}).endswith("best run of the search 0.3800.")
    assert verdict.on_test_split(won, {}) == verdict.on_test_split(won, {"baseline": 0.4}) == ""

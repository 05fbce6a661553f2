"""confirm.py: the interval of the gain, and its sentence."""

import pytest
from analysis_helpers import BY_ERROR, results, run, sweep
from scipy import stats

from analysis import confirm
from segmentation.config import OBJECTIVE
from segmentation.errors import UserError


def test_the_interval_of_the_gain_is_that_of_students_paired_t_test(random):
    best, baseline = random.normal(0.2, 0.01, 6), random.normal(0.23, 0.02, 6)
    gain, witness = confirm.compare(best, baseline), stats.ttest_rel(baseline, best)
    low, high = witness.confidence_interval(0.95)
    assert (gain.mean - gain.margin, gain.mean + gain.margin) == pytest.approx((low, high))
    assert (witness.pvalue < 0.05) == ("beat" in gain.statement(OBJECTIVE))


@pytest.mark.parametrize(
    ("best", "word"),
    [
        ((0.1, 0.11, 0.12), "The search beat the baseline by 0.09"),
        ((0.2, 0.2, 0.21), "noise"),
        ((0.3, 0.31, 0.32), "The baseline beat the search by 0.10"),
    ],
)
def test_the_sentence_says_who_beat_whom_or_that_it_is_noise(best, word, tmp_path):
    winner = run("w", (0.1,), learning_rate=0.0071224341, seed=7)
    pairs = [
        run(f"b{seed}", (value,), learning_rate=0.007122, seed=seed, epochs=9)
        for seed, value in enumerate(best)
    ]
    pairs += [
        run(f"p{seed}", (value,), seed=seed, epochs=9)
        for seed, value in enumerate((0.2, 0.21, 0.2))
    ]
    pairs += [
        run("alone", (0.2,), seed=5, epochs=9),
        run("sick", (0.2,), seed=6, epochs=9, status="diverged"),
    ]
    section = confirm.make(results(sweep(winner), tmp_path), sweep(*pairs))
    assert word in section.notes[0].text
    assert "3 seeds" in section.notes[0].text
    assert any(note.text.startswith("1 finished runs") for note in section.notes)
    endings = {path.suffix for path in section.write() if path.stem == "confirm"}
    assert endings == {".csv", ".md", ".png", ".svg"}


def test_one_pair_of_runs_is_too_few(tmp_path):
    made = results(sweep(run("w", (0.1,), batch_size=4)), tmp_path)
    with pytest.raises(UserError, match="two pairs are the fewest"):
        confirm.make(made, sweep(run("b", (0.1,), batch_size=4), run("p", (0.2,))))


def test_a_confirmation_compares_the_objective_of_the_search(tmp_path):
    """The losses say that the baseline is better, the errors that the search is."""
    values = {"losses": (0.5,), "epochs": 9, "best_by": "error"}
    winner = run("w", (0.5,), errors=(0.3,), batch_size=4, best_by="error")
    best = [run(f"b{s}", **values, errors=(0.30 + s / 100,), batch_size=4, seed=s) for s in (1, 2)]
    base = [run(f"p{s}", (0.1,), errors=(0.50 + s / 90,), epochs=9, seed=s) for s in (1, 2)]
    made = results(sweep(winner, metric=BY_ERROR), tmp_path)
    section = confirm.make(made, sweep(*best, *base))
    assert "The search beat the baseline by" in section.notes[0].text
    assert "(lowest validation error;" in section.notes[0].text
    assert section.tables[0].caption.startswith("Lowest validation error of")
    old = [run(f"p{s}", (0.1,), epochs=9, seed=s) for s in (1, 2)]
    with pytest.raises(UserError, match=r"0 of the baseline .* with a finite best_val_error"):
        confirm.make(made, sweep(*best, *old))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"checksum": "d" * 64}, ("the data set dddddddddddd,", "has c:")),
        ({"loss": "ce_dice"}, ("the loss ce_dice, label_smoothing 0.0", "has dice_focal,")),
    ],
    ids=["data", "loss"],
)
def test_a_confirmation_on_other_data_or_with_another_loss_is_refused(other, words, tmp_path):
    made = results(sweep(run("w", (0.1,), batch_size=4)), tmp_path)
    pairs = [run(f"b{s}", (0.1,), batch_size=4, seed=s, **other) for s in (1, 2)]
    pairs += [run(f"p{s}", (0.2,), seed=s, **other) for s in (1, 2)]
    with pytest.raises(UserError) as raised:
        confirm.make(made, sweep(*pairs))
    for word in words:
        assert word in raised.value.message

"""The ablation: references, differences paired by seed, intervals, and what is kept on disk."""

import json

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from analysis import ablation
from analysis.ablation import Arm, ScoredRun
from segmentation.config import BASELINE
from segmentation.errors import UserError

OPT = {"learning_rate": 0.003, "ema": 0.99, "clip_norm": 1.0, "schedule": "cosine"}
CONFIGURATIONS = [
    BASELINE,
    {"ema": 0.99},
    OPT,
    {**OPT, "window": 64},
    {**OPT, "window": 64, "cutmix": 0.5},
    {**OPT, "window": 96, "loss": "ce_dice", "augment": "flip", "dropout": "none"},
]
SWEEP = {"parameters": {"configuration": {"values": CONFIGURATIONS}, "seed": {"values": [1, 2, 3]}}}
PLACES = ["1,3", "2"]


def confusion(share: float) -> list[list[int]]:
    """Two equal classes, each with this share predicted correctly, and a perfect Unlabeled."""
    right = round(1000 * share)
    matrix = np.zeros((6, 6), int)
    matrix[5, 5] = 50
    matrix[:2, :2] = [[right, 1000 - right], [1000 - right, right]]
    return matrix.tolist()


def run(values: dict, seed: int, share: float) -> ScoredRun:
    places = {"1,3": confusion(share), "2": confusion(share - 0.1)}
    errors = [0.9, 0.5, 1 - share, 1.01 - share]
    return ScoredRun(f"{seed}-{share}", seed, dict(values), errors, places)


@pytest.fixture
def runs() -> list[ScoredRun]:
    random = np.random.default_rng(0)
    return [
        run(values, seed, float(share))
        for place, values in enumerate(CONFIGURATIONS)
        for seed, share in enumerate(0.6 + 0.02 * place + random.uniform(0, 0.05, 3), start=1)
    ]


@pytest.fixture
def ordered(runs) -> list[Arm]:
    return ablation.arms(runs, SWEEP)


def test_arms_keep_the_order_of_the_sweep_and_all_of_their_seeds(runs, ordered):
    assert [arm.values for arm in ablation.arms(runs[::-1], SWEEP)] == [a.values for a in ordered]
    assert ordered[0].values == {} and all(set(arm.runs) == {1, 2, 3} for arm in ordered)


def test_an_arm_is_compared_with_the_largest_one_that_it_extends_by_a_step(ordered):
    baseline, ema, opt, window, cutmix, whole = ordered
    expected = [None, baseline, baseline, opt, window, baseline]
    for arm, reference in zip((baseline, ema, opt, window, cutmix, whole), expected, strict=True):
        assert ablation.reference(arm, ordered) is reference
    assert cutmix.beyond(window) == "cutmix 0.5" and baseline.beyond(None) == "published baseline"


def test_places_are_pooled_before_the_score(ordered):
    scored = ordered[0].runs[1]
    both = np.sum([scored.confusions[place] for place in PLACES], axis=0)
    right = both[0, 0]
    accuracy, mean_iou = scored.score(PLACES)
    assert accuracy == pytest.approx((2 * right + 100) / 4100)
    assert mean_iou == pytest.approx(right / (2 * 2000 - right))


def test_differences_are_paired_by_the_seeds_that_both_have(ordered):
    baseline, ema = ordered[:2]
    some = Arm(ema.values, {seed: ema.runs[seed] for seed in (1, 3)})
    expected = [
        ema.runs[seed].score(PLACES)[1] - baseline.runs[seed].score(PLACES)[1] for seed in (1, 3)
    ]
    assert ablation.differences(some, baseline, PLACES) == pytest.approx(expected)
    assert ablation.differences(baseline, some, PLACES) == pytest.approx(-np.array(expected))


def test_the_interval_of_a_single_comparison_is_that_of_the_paired_t_test(ordered):
    found = ablation.comparisons(ordered[:2], PLACES)
    interval = ttest_1samp(found[1].differences, 0).confidence_interval(0.95)
    assert found[1].margin == pytest.approx((interval.high - interval.low) / 2)
    assert len(found[0].differences) == 0 and str(found[0]) == ""


def test_the_variance_is_pooled_over_the_arms_with_one_reference(ordered):
    from scipy.stats import t

    found = ablation.comparisons(ordered[:3], PLACES)
    variance = np.mean([comparison.differences.var(ddof=1) for comparison in found[1:]])
    expected = t.ppf(0.975, 4) * np.sqrt(variance / 3)
    assert [comparison.margin for comparison in found[1:]] == pytest.approx([expected] * 2)


def test_arms_with_other_references_do_not_change_an_interval(ordered):
    found = ablation.comparisons(ordered, PLACES)[3]  # the only arm that is compared with OPT
    interval = ttest_1samp(found.differences, 0).confidence_interval(0.95)
    assert found.margin == pytest.approx((interval.high - interval.low) / 2)


def test_a_single_seed_has_a_difference_but_no_interval_of_its_own(ordered):
    baseline, ema = (Arm(arm.values, {1: arm.runs[1]}) for arm in ordered[:2])
    (_, comparison) = ablation.comparisons([baseline, ema], PLACES)
    assert np.isnan(comparison.margin) and "±" not in str(comparison)


def test_the_deviation_over_seeds_uses_the_later_half_of_the_epochs():
    curves = {1: [9.0, 9.0, 0.4, 0.5], 2: [0.0, 0.0, 0.6, 0.7]}
    arm = Arm({}, {seed: ScoredRun("", seed, {}, errors, {}) for seed, errors in curves.items()})
    assert ablation.seed_deviation(arm) == pytest.approx(np.std([0.4, 0.6], ddof=1))


def test_scored_runs_are_read_again_and_rendered_the_same(runs, ordered, tmp_path):
    groups = {"the first place": ["1,3"]}
    ablation._write(tmp_path, runs)
    assert ablation.load(tmp_path) == runs
    files = ablation.render(ordered, groups, tmp_path, "18 of 18 runs")
    contents = [file.read_bytes() for file in files]
    again = ablation.arms(ablation.load(tmp_path), SWEEP)
    assert [f.read_bytes() for f in ablation.render(again, groups, tmp_path, "18 of 18 runs")] == (
        contents
    )
    assert {file.name for file in files} == {"ablation.csv", "ablation.md", "ablation.png"}


def test_a_damaged_file_is_named(tmp_path):
    for text in ("{", json.dumps({"runs": [{"id": 1}]}), "{}"):
        (tmp_path / ablation.FILE).write_text(text)
        with pytest.raises(UserError, match=r"ablation\.json is damaged"):
            ablation.load(tmp_path)

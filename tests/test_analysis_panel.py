"""panel.py: which patches are chosen, compared with a slow implementation of the rule."""

import numpy as np
import pytest

from analysis import panel
from segmentation import metrics
from segmentation.labels import IGNORE, NUM_CLASSES


def brute_force(masks, guesses, which):
    """The panel's rule, patch by patch and pixel by pixel."""
    scored = []
    for i, (mask, guess) in enumerate(zip(masks, guesses, strict=True)):
        pixels = [
            (t, p)
            for t, p in zip(mask.ravel().tolist(), guess.ravel().tolist(), strict=True)
            if t != IGNORE
        ]
        if not pixels:
            continue
        shares = [sum(t == c for t, _ in pixels) / len(pixels) for c in range(NUM_CLASSES)]
        if which != "best" or sum(share**2 for share in shares) <= 0.4:
            scored.append((sum(t == p for t, p in pixels) / len(pixels), i))
    scored.sort()
    middle = max(0, (len(scored) - 10) // 2)
    return [
        i
        for _, i in {
            "best": scored[-10:],
            "worst": scored[:10],
            "median": scored[middle : middle + 10],
        }[which]
    ]


@pytest.mark.parametrize("which", ["best", "worst", "median"])
@pytest.mark.parametrize("count", [0, 3, 60])
def test_panels_hold_the_patches_that_brute_force_chooses(which, count, random):
    masks = random.integers(0, NUM_CLASSES, (count, 6, 6)).astype(np.uint8)
    masks[::3] = np.where(
        random.random((len(masks[::3]), 6, 6)) < 0.6, 1, masks[::3]
    )  # some are trivial
    masks[random.random(masks.shape) < 0.05] = IGNORE
    masks[5:6] = IGNORE  # a patch without any label
    guesses = np.where(
        random.random(masks.shape) < random.random((count, 1, 1)), masks % 255, 0
    ).astype(np.uint8)
    confusions = np.array(
        [metrics.confusion_matrix(*pair) for pair in zip(masks, guesses, strict=True)]
    ).reshape(-1, 6, 6)
    chosen = panel.select(confusions, which)
    assert chosen.tolist() == brute_force(masks, guesses, which)
    assert len(chosen) == min(10, len(chosen))


def test_random_panels_depend_on_the_seed_alone(random):
    confusions = random.integers(1, 9, (40, 6, 6))
    first = panel.select(confusions, "random", 1)
    assert (
        first.tolist()
        == sorted(set(first.tolist()))
        == panel.select(confusions, "random", 1).tolist()
    )
    assert len(first) == 10
    assert first.tolist() != panel.select(confusions, "random", 2).tolist()

"""panel.py: which patches are chosen, compared with a slow version of the rule, and shown."""

import csv

import numpy as np
import pytest
from analysis_helpers import evaluated_results
from matplotlib.colors import to_rgb

from analysis import panel, style
from segmentation import labels, metrics
from segmentation.errors import UserError
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


def colored(picture, color):
    """(h, w) whether a pixel of an RGB picture has the colour."""
    return (picture == np.round(255 * np.array(to_rgb(color)))).all(axis=-1)


def test_a_patch_is_shown_with_both_predictions_and_the_error_of_the_best(city_set, tmp_path):
    made = evaluated_results(city_set, tmp_path, {"best": 0.8, "baseline": 0.4})
    evaluated = {role: made.evaluation(role, "val") for role in ("best", "baseline")}
    masks = made.prepared.masks[evaluated["best"].indices]
    ignored = int((masks == IGNORE).sum(axis=(1, 2)).argmax())
    assert (masks[ignored] == IGNORE).any()
    for i in (0, ignored):
        mask, guess = masks[i], evaluated["best"].predictions[i]
        shown = panel.pictures(made.prepared, evaluated, i)
        assert list(shown) == ["image", "truth", "baseline", "best", "error of best"]
        for name, layer in (("truth", mask), ("best", guess)):
            np.testing.assert_array_equal(shown[name], labels.decode(layer))
        np.testing.assert_array_equal(
            shown["baseline"], labels.decode(evaluated["baseline"].predictions[i])
        )
        labelled, error = mask != IGNORE, shown["error of best"]
        wrong = (mask != guess) & labelled
        np.testing.assert_array_equal(colored(error, style.ERRORS["wrong"]), wrong)
        np.testing.assert_array_equal(colored(error, style.ERRORS["right"]), labelled & ~wrong)
        np.testing.assert_array_equal(colored(error, style.ERRORS["not annotated"]), ~labelled)


def test_column_titles_stand_once_per_block_and_the_rule_is_explained(
    city_set, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(style, "save", lambda figure, file, *_: drawn.append(figure) or file)
    made = evaluated_results(city_set, tmp_path, {"best": 0.8, "baseline": 0.4})
    section = panel.make(made, "random")
    texts = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert texts == 2 * ["image", "truth", "baseline", "best", "error of best"]
    assert "water is orange" in section.pictures[0].caption
    assert "nearly one class" not in section.pictures[0].caption
    monkeypatch.setattr(panel, "TRIVIAL", 1.0)
    assert "nearly one class" in panel.make(made, "best").pictures[0].caption


def test_without_weights_of_the_baseline_its_column_is_missing_and_a_note_gives_the_reason(
    city_set, tmp_path
):
    made = evaluated_results(city_set, tmp_path, {"best": 0.8})
    section = panel.make(made, "worst")
    section.write()
    assert [note.text[:10] for note in section.notes] == ["Baseline: "]
    assert section.notes[0].text.endswith(" The panel does not show it.")
    (table,) = tmp_path.glob("panel_worst.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    accuracies = [metrics.accuracy(c) for c in made.evaluation("best", "val").confusions]
    assert [float(row["accuracy"]) for row in rows] == sorted(accuracies)[:10]
    with pytest.raises(UserError, match="best"):
        panel.make(evaluated_results(city_set, tmp_path / "other", {"baseline": 0.4}), "worst")

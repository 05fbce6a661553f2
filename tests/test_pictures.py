"""pictures.py: the figure of a run shows what it was given."""

from pathlib import Path

import cv2
import numpy as np

from segmentation import pictures
from segmentation.labels import COLORS, IGNORE

SIDE = pictures.SIDE * pictures.DPI  # px of one picture


def large_areas(file: Path) -> dict[tuple[int, ...], int]:
    """Colour -> its number of pixels, for colours that fill at least half of a picture."""
    pixels = cv2.imread(str(file))[..., ::-1].reshape(-1, 3)
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    found = zip(map(tuple, colors.tolist()), counts.tolist(), strict=True)
    return {color: count for color, count in found if count > SIDE**2 / 2}


def test_every_patch_shows_its_image_truth_and_prediction(tmp_path):
    images = np.full((3, 8, 8, 3), (1, 2, 3), np.uint8)
    masks, predictions = (np.full((3, 8, 8), label, np.uint8) for label in (1, 4))
    masks[2] = IGNORE
    pictures.draw(images, masks, predictions, ["a", "b", "c"], "run x", tmp_path / "x.png")
    truth, predicted = (tuple(COLORS[label].tolist()) for label in (1, 4))
    found = large_areas(tmp_path / "x.png")
    assert found.keys() == {(255, 255, 255), (1, 2, 3), truth, predicted, (0, 0, 0)}
    one = found[0, 0, 0]  # the truth of the last patch
    for color, patches in (((1, 2, 3), 3), (truth, 2), (predicted, 3)):
        assert abs(found[color] / one - patches) < 0.1

"""A linear classifier on colour and texture: what a model of single pixels can reach.

A network that is worth its training scores clearly above this line.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from analysis.blending import Model
from segmentation.errors import UserError
from segmentation.labels import IGNORE, NUM_CLASSES, VALUES
from segmentation.prepared import PreparedSet
from segmentation.tiling import shrink_masks

BLOCK = 8
"""Side of a classified block, in px of the source image."""

WINDOWS = (32, 96)
"""Sides of the windows of local features, in px of the source image; rounded to odd stored px."""

SHRINKAGE = 0.1
"""Weight of the scaled identity in the covariance matrix of the classifier."""

EVERY = 5
"""The classifier is fitted on every fifth block."""

FEATURES = 18


def features(image: NDArray[np.uint8], scale: int) -> NDArray[np.float32]:
    """(h, w, FEATURES) float32 colour and texture of each pixel of an RGB image (h, w, 3) uint8.

    - 0 to 2: red, green and blue, 0..255
    - 3: size of the gradient of brightness (Sobel filter)
    - 4 to 10: over the smaller of WINDOWS, mean of red, green and blue, their standard deviations,
      and mean of the gradient
    - 11 to 17: the same over the larger of WINDOWS

    Args:
        image: A patch, shrunk by `scale`.
        scale: Divides WINDOWS.
    """
    color = image.astype(np.float32)
    brightness = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    slope = np.hypot(
        cv2.Sobel(brightness, cv2.CV_32F, 1, 0), cv2.Sobel(brightness, cv2.CV_32F, 0, 1)
    )
    planes = [color, slope[..., None]]
    for window in WINDOWS:
        side = window // scale | 1
        mean, squares, slopes = (
            cv2.blur(plane, (side, side), borderType=cv2.BORDER_REFLECT_101)
            for plane in (color, color**2, slope)
        )
        deviation = np.sqrt(np.maximum(squares - mean**2, 0))
        planes += [mean, deviation, slopes[..., None]]
    return np.concatenate(planes, axis=-1)


def train(prepared: PreparedSet, tiles: Sequence[int]) -> Model:
    """A linear discriminant analysis of `features`, trained on the patches of these tiles.

    It classifies blocks of BLOCK x BLOCK px of the source image by their mean features; all pixels
    of a block get its prediction. The same set and tiles give the same model.

    Raises:
        UserError: A tile is not in the set, or the tiles show fewer than two classes.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # takes a second

    scale = int(prepared.manifest["options"]["scale"])
    step = _step(prepared.patch_size, scale)
    samples, labels = [], []
    for index in prepared.indices_of(tiles):
        truth = shrink_masks(prepared.masks[index : index + 1], step, VALUES).ravel()[::EVERY]
        sample = _blocks(prepared.images[index], scale, step).reshape(-1, FEATURES)[::EVERY]
        samples.append(sample[truth != IGNORE])
        labels.append(truth[truth != IGNORE])
    known = np.concatenate(labels)
    if len(np.unique(known)) < 2:
        raise UserError(
            f"the tiles {', '.join(map(str, tiles))} show fewer than two classes; "
            "name more tiles with --train"
        )
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
    classifier.fit(np.concatenate(samples), known)

    def predict(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        blocks = np.stack([_blocks(patch, scale, step) for patch in patches])
        probabilities = np.zeros((*blocks.shape[:-1], NUM_CLASSES), np.float32)
        predicted = classifier.predict_proba(blocks.reshape(-1, FEATURES))
        probabilities[..., classifier.classes_] = predicted.reshape(*blocks.shape[:-1], -1)
        return probabilities.repeat(step, axis=1).repeat(step, axis=2)

    return predict


def _step(patch_size: int, scale: int) -> int:
    """Side of a block in stored px: BLOCK / scale, or the next smaller divisor of the patch."""
    return max(step for step in range(1, max(1, BLOCK // scale) + 1) if patch_size % step == 0)


def _blocks(patch: NDArray[np.uint8], scale: int, step: int) -> NDArray[np.float32]:
    """(h / step, w / step, FEATURES): mean `features` of each block of step x step stored px."""
    height, width = (side // step for side in patch.shape[:2])
    values = features(patch, scale).reshape(height, step, width, step, FEATURES)
    return np.asarray(values.mean(axis=(1, 3)), np.float32)

"""Augmentation of image and mask together, by albumentations; the same seed gives the same picture."""

import os
from collections.abc import Callable

import numpy as np

Augment = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def augmenter(kind: str) -> Augment | None:
    """The function (image, mask, seed) -> (image, mask) for `none` (which is None), `flip` or `full`.

    Images are (h, h, 3) uint8 RGB, masks (h, h) uint8, and both come back so. `flip` draws one of the eight symmetries of the
    square: an aerial image has no up. `full` adds brightness and contrast, each within a fifth, to every second image.
    """
    if kind == "none":
        return None
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import looks a host up
    import albumentations as A  # noqa: N812 - its documented name; imported late, since it takes a second

    steps = {
        "flip": [A.D4(p=1.0)],
        "full": [
            A.D4(p=1.0),
            A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
        ],
    }[kind]
    transform = A.Compose(steps)

    def augment(image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        transform.set_random_seed(seed)
        changed = transform(image=image, mask=mask)
        return changed["image"], changed["mask"]

    return augment

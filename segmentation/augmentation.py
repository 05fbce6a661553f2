"""Augments image and mask together with albumentations. The same seed gives the same result."""

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Augment = Callable[[NDArray[np.uint8], NDArray[np.uint8], int], Pair]
"""Function (image, mask, seed) -> (image, mask): (h, h, 3) uint8 RGB and (h, h) uint8."""


def augmenter(kind: str) -> Augment | None:
    """The augmentation `kind` as a function; None for `none`.

    Args:
        kind: `none`. `flip`: one of the eight symmetries of the square, because an aerial image
            has no upright direction. `full`: also, with probability 0.5, a random change of
            brightness and of contrast, each by at most 20 %.
    """
    if kind == "none":
        return None
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise its import looks up a host
    import albumentations as A  # noqa: N812 - its documented name; imported late: it takes a second

    steps = {
        "flip": [A.D4(p=1.0)],
        "full": [
            A.D4(p=1.0),
            A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
        ],
    }[kind]
    transform = A.Compose(steps)

    def augment(image: NDArray[np.uint8], mask: NDArray[np.uint8], seed: int) -> Pair:
        transform.set_random_seed(seed)
        changed = transform(image=image, mask=mask)
        return changed["image"], changed["mask"]

    return augment

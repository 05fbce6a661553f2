"""Random changes of training images and their masks. The same seed gives the same result."""

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Augment = Callable[[NDArray[np.uint8], NDArray[np.uint8], int], Pair]
"""Function (image, mask, seed) -> (image, mask): (h, h, 3) uint8 RGB and (h, h) uint8."""

LARGEST_PASTE = 0.5
"""Largest share of a window's area that `paste` replaces. Above it, the other window dominates."""


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


def gain_and_gamma(
    image: NDArray[np.uint8], strength: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    """`image`, of any shape, with a random gain and a random gamma.

    A value x becomes 255 * gain * (x / 255) ** gamma, limited to 255. Gain and gamma are drawn
    log-uniformly from 1 / (1 + strength) to 1 + strength. They are the same for all pixels and
    channels, so black stays black and a dark image stays darker than a bright one: darkness
    distinguishes classes.
    """
    gain, gamma = (1 + strength) ** random.uniform(-1, 1, 2)
    values = 255 * gain * (np.arange(256) / 255) ** gamma
    table = np.minimum(np.rint(values), 255).astype(np.uint8)
    changed: NDArray[np.uint8] = table[image]
    return changed


def paste(target: Pair, source: Pair, random: np.random.Generator) -> None:
    """Replaces a random square of `target`, image and mask, with the same square of `source`.

    Both are (p, p, 3) and (p, p) uint8. This is CutMix (Yun et al., ICCV 2019, algorithm 1), with
    two differences. The square's share of the area is uniform from 0 to LARGEST_PASTE, and the
    square lies wholly inside the image, so that it keeps this share.
    """
    size = len(target[1])
    side = int(size * random.uniform(0, LARGEST_PASTE) ** 0.5)
    top, left = random.integers(size - side + 1, size=2)
    square = slice(top, top + side), slice(left, left + side)
    for new, old in zip(source, target, strict=True):
        old[square] = new[square]

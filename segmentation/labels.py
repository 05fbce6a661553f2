"""The classes of the Dubai set and their colours: converts RGB masks to class indices and back.

Facts about the masks of the Dubai set that this code relies on. Each was measured on all 72 masks:

- They hold seven colours: those of the six classes in COLORS, and black where nobody annotated.
- Black covers 552,156 px, 0.56 % of the set, nearly all of it in Tile 8 part 3.
- The file classes.json beside the masks lists other colours for five of the six classes. Never
  take labels from it.
- The masks of tiles 2 and 4 are palette PNGs, and the order of the palette differs from file to
  file. Compare colours, never palette indices.
- Classes are unbalanced. Shares of all pixels: Building 13.31 %, Land 52.36 %, Road 9.35 %,
  Vegetation 10.31 %, Water 13.61 %, Unlabeled 0.51 %.

This module needs only NumPy.
"""

import numpy as np
from numpy.typing import NDArray

from segmentation.errors import UserError

CLASSES = ("Building", "Land", "Road", "Vegetation", "Water", "Unlabeled")
"""Names of the classes in the order of their indices. "Land" is unpaved ground."""

COLORS = np.array(
    [
        (0x3C, 0x10, 0x98),
        (0x84, 0x29, 0xF6),
        (0x6E, 0xC1, 0xE4),
        (0xFE, 0xDD, 0x3A),
        (0xE2, 0xA9, 0x29),
        (0x9B, 0x9B, 0x9B),
    ],
    dtype=np.uint8,
)
"""(6, 3) uint8 RGB, one row per class."""

NUM_CLASSES = len(CLASSES)
UNLABELED = CLASSES.index("Unlabeled")

IGNORE = 255
"""Value of pixels without annotation, black in the masks. They count in no loss and no score."""

VALUES = (*range(NUM_CLASSES), IGNORE)
"""All seven values that a mask may hold, in the order of `count`."""


def _channel_tables() -> NDArray[np.uint8]:
    """(3, 256) uint8: value of one colour channel -> class index or IGNORE.

    The seven known colours differ from each other in every channel. So a pixel has a known colour
    exactly if its three channels give the same class. Three tables of 256 bytes are faster than
    one of 16 MiB over all 2^24 colours. Values of no class give 252, 253 or 254, depending on the
    channel, so that they never agree.
    """
    tables = np.repeat(np.array([[252], [253], [254]], np.uint8), 256, axis=1)
    for channel, table in enumerate(tables):
        table[COLORS[:, channel]] = np.arange(NUM_CLASSES)
        table[0] = IGNORE
        assert len({0, *COLORS[:, channel].tolist()}) == NUM_CLASSES + 1, (
            "two colours share a channel value"
        )
    return tables


_TABLES = _channel_tables()
_COLOR_OF = np.zeros((256, 3), np.uint8)
_COLOR_OF[:NUM_CLASSES] = COLORS


def encode(
    color_mask: NDArray[np.uint8], name: str = "mask", on_unknown: str = "error"
) -> NDArray[np.uint8]:
    """Class index of every pixel: (h, w, 3) uint8 RGB -> (h, w) uint8; black becomes IGNORE.

    Args:
        color_mask: A mask with the colours of COLORS and black.
        name: What messages call the mask.
        on_unknown: `error`, or `ignore` to make pixels of other colours IGNORE.

    Raises:
        UserError: A pixel has another colour, and `on_unknown` is `error`.
    """
    pixels = np.ascontiguousarray(color_mask).reshape(-1, 3)
    starts = _run_starts(pixels)
    red, green, blue = (
        table[channel] for table, channel in zip(_TABLES, pixels[starts].T, strict=True)
    )
    unknown = (red != green) | (red != blue)
    red[unknown] = IGNORE
    lengths = np.diff(starts, append=len(pixels))
    if unknown.any() and on_unknown != "ignore":
        raise UserError(f"{name}: {_describe(color_mask, np.repeat(unknown, lengths))}")
    return np.repeat(red, lengths).reshape(color_mask.shape[:2])


def decode(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour of every class index: (...) uint8 -> (..., 3) uint8 RGB; IGNORE becomes black."""
    return _COLOR_OF[mask]


def count(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(7,) int64: the number of pixels per value of VALUES, in a mask of any shape."""
    return np.array([np.count_nonzero(mask == value) for value in VALUES], dtype=np.int64)


def _run_starts(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Index of the first pixel of each run of equal pixels; `pixels` is (n, 3) uint8.

    Annotations are polygons, so a run has some 40 pixels on average. Looking up one pixel per run
    saves the other lookups.
    """
    flat = pixels.reshape(-1)
    changed = np.flatnonzero(flat[3:] != flat[:-3]) // 3 + 1  # one entry per channel that differs
    return np.append(0, changed[np.diff(changed, prepend=0) > 0])


def _describe(color_mask: NDArray[np.uint8], unknown: NDArray[np.bool_]) -> str:
    """The three most frequent unknown colours in words, with their counts and first pixels.

    `unknown`, (h * w,) bool, marks the pixels of unknown colours.
    """
    rows, columns = np.nonzero(unknown.reshape(color_mask.shape[:2]))
    colors, first, counts = np.unique(
        color_mask[rows, columns], axis=0, return_index=True, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    texts = [
        f"#{''.join(f'{value:02X}' for value in colors[i])} on {counts[i]:,} px, "
        f"first at row {rows[first[i]]}, column {columns[first[i]]}"
        for i in order[:3]
    ]
    if len(order) > 3:
        rest = counts[order[3:]].sum()
        texts.append(f"and {len(order) - 3} more colours on {rest:,} px in total")
    return f"unknown colour {'; '.join(texts)}"

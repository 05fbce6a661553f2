"""The six classes and their colours: RGB annotation <-> class indices. NumPy only.

The colours are those of the published masks, measured on all 72 of them; the `classes.json` that lies beside the masks
lists other colours for five of the six classes, so never label from it.
"""

import numpy as np

from segmentation.errors import UserError

CLASSES = ("Building", "Land", "Road", "Vegetation", "Water", "Unlabeled")
"""Class names in index order; "Land" is unpaved ground. A seventh value, IGNORE, is no class and counts nowhere."""

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
"""(6, 3) uint8 RGB, one row a class."""

NUM_CLASSES = len(CLASSES)
UNLABELED = CLASSES.index("Unlabeled")
IGNORE = 255
"""Label of pixels that nobody annotated, black in the masks: 552,156 px of the real set, nearly all in Tile 8 part 3."""

VALUES = (*range(NUM_CLASSES), IGNORE)
"""Every value that a mask may hold, in the order in which `count` counts them."""


def _channel_tables() -> np.ndarray:
    """(3, 256) uint8: what each channel's value alone says about the class.

    The seven known colours differ from one another in every single channel, so three byte-wide lookups that agree are an
    exact test for membership, in less time than one lookup in a 16 MiB table over all 2^24 colours. A value that belongs to
    no class answers 252, 253 or 254 by channel, which can never agree.
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
_DECODED = np.zeros((256, 3), np.uint8)
_DECODED[:NUM_CLASSES] = COLORS


def encode(color_mask: np.ndarray, name: str = "mask", on_unknown: str = "error") -> np.ndarray:
    """Class index of every pixel: (h, w, 3) uint8 RGB -> (h, w) uint8, black and nothing else -> IGNORE.

    A colour outside the table raises UserError, whose message calls the file `name`; with on_unknown="ignore" such
    pixels become IGNORE.
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


def decode(mask: np.ndarray) -> np.ndarray:
    """Colour of every class index: (...) uint8 -> (..., 3) uint8 RGB; IGNORE becomes black."""
    return _DECODED[mask]


def count(mask: np.ndarray) -> np.ndarray:
    """(7,) int64: pixels of each class, then of IGNORE, in a mask of any shape."""
    return np.array([np.count_nonzero(mask == value) for value in VALUES], dtype=np.int64)


def _run_starts(pixels: np.ndarray) -> np.ndarray:
    """Where (n, 3) uint8 pixels change, and 0. Annotations are polygons, so one look-up a run does for some forty pixels."""
    flat = pixels.reshape(-1)
    changed = np.flatnonzero(flat[3:] != flat[:-3]) // 3 + 1  # once for every channel that differs
    return np.append(0, changed[np.diff(changed, prepend=0) > 0])


def _describe(color_mask: np.ndarray, unknown: np.ndarray) -> str:
    """Unknown colours in words, most frequent first: colour, count, first pixel of at most three; `unknown` is (h * w,) bool."""
    rows, columns = np.nonzero(unknown.reshape(color_mask.shape[:2]))
    colors, first, counts = np.unique(
        color_mask[rows, columns], axis=0, return_index=True, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    words = [
        f"#{''.join(f'{value:02X}' for value in colors[i])} on {counts[i]:,} px, "
        f"first at row {rows[first[i]]}, column {columns[first[i]]}"
        for i in order[:3]
    ]
    if len(order) > 3:
        words.append(f"and {len(order) - 3} colours more, {counts[order[3:]].sum():,} px in all")
    return f"unknown colour {'; '.join(words)}"

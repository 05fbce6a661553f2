"""The figure of a run: some patches as image, truth and prediction, with a legend."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from segmentation.labels import CLASSES, COLORS, IGNORE, decode

PER_LINE = 2  # patches beside each other
SIDE, CAPTION, HEAD, FOOT = 1.7, 0.25, 0.6, 0.6  # inches: a picture, and the text around them
DPI = 140


def draw(
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    predictions: NDArray[np.uint8],
    captions: list[str],
    title: str,
    file: Path,
) -> None:
    """Draws image, truth and prediction of each patch side by side, and writes a PNG.

    Args:
        images: (n, h, w, 3) RGB.
        masks: (n, h, w) class indices of the truth; IGNORE is drawn black.
        predictions: (n, h, w) class indices.
        captions: (n,) a line per patch.
        title: Title of the figure.
        file: The PNG file.
    """
    lines = -(-len(images) // PER_LINE)
    ratios = [1, 1, 1, *[0.1, 1, 1, 1] * (PER_LINE - 1)]  # a narrow gap between the patches
    height = lines * (SIDE + CAPTION) + HEAD + FOOT
    figure = Figure(figsize=(SIDE * sum(ratios), height))
    FigureCanvasAgg(figure)
    # by hand: a layout engine would draw the figure twice
    edges = {"left": 0.01, "right": 0.99, "top": 1 - HEAD / height, "bottom": FOOT / height}
    figure.subplots_adjust(**edges, wspace=0.05, hspace=CAPTION / SIDE)
    axes = figure.subplots(lines, len(ratios), squeeze=False, width_ratios=ratios)
    for cell in axes.flat:
        cell.axis("off")
    for number, caption in enumerate(captions):
        line, place = divmod(number, PER_LINE)
        layers = (images[number], decode(masks[number]), decode(predictions[number]))
        cells = axes[line, 4 * place : 4 * place + 3]
        for cell, layer in zip(cells, layers, strict=True):
            cell.imshow(layer, interpolation="nearest")
        cells[1].text(
            0.5, -0.04, caption, transform=cells[1].transAxes, ha="center", va="top", fontsize=7.5
        )
        if line == 0:
            for cell, name in zip(cells, ("image", "truth", "prediction"), strict=True):
                cell.set_title(name, fontsize=9.5)
    figure.suptitle(title, fontsize=10.5)
    legend = [
        Patch(facecolor=color / 255, edgecolor="black", linewidth=0.4, label=name)
        for name, color in zip(CLASSES, COLORS.astype(float), strict=True)
    ]
    if (masks == IGNORE).any():
        legend.append(Patch(facecolor="black", label="not annotated"))
    figure.legend(handles=legend, loc="lower center", ncols=7, fontsize=8, frameon=False)
    figure.savefig(file, dpi=DPI, metadata={"Software": None})

"""A picture of a prepared set: where the splits lie, the classes in each, and sample patches.

    python -m segmentation.overview SET

`segmentation.prepare` writes it as SET/overview.png. It is no part of the set: no checksum covers
it, and sets without it are complete. The same set gives the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from segmentation.errors import written
from segmentation.labels import CLASSES, COLORS, decode
from segmentation.prepared import COLUMNS, PreparedSet
from segmentation.splits import SPLITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE = "overview.png"

SPLIT_COLORS = {"train": "#44AA99", "val": "#DDCC77", "test": "#882255"}
"""From Paul Tol's muted scheme (https://sronpersonalpages.nl/~pault/), for colour-blind readers.

`analysis.style` uses these colours for nothing else.
"""

SAMPLES = 12  # patches per split that are shown
PARTS_PER_ROW = 3  # of a tile, whose parts are numbered row by row
PART_GAP, TILE_GAP = 0.4, 2.0  # in the map, in patches
NOMINAL = 6  # side of a tile that was left out, in patches: the set does not know its size
ASPECT = 8  # about the width of the map over its height

WIDTH, DPI = 8.0, 140  # inches, px per inch; `analysis.style` uses them and LOOK too
LOOK: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "image.interpolation": "nearest",
}


class Block(NamedTuple):
    """A tile in the map, in units of patches."""

    tile: int
    height: float
    width: float
    corners: NDArray[np.float64]  # (n, 2): x and y of the top-left corner of each patch
    splits: list[str]  # of each patch


def write(prepared: PreparedSet) -> Path:
    """Writes overview.png into the folder of the set, atomically. Returns its path.

    Raises:
        UserError: The folder cannot be written.
    """
    import matplotlib as mpl  # takes about a second

    with mpl.rc_context():
        mpl.rcdefaults()  # a user's own matplotlibrc must not change the picture
        mpl.rcParams.update(LOOK)
        figure = _draw(prepared)
        file, part = prepared.folder / FILE, prepared.folder / f".{FILE}.part"
        with written(prepared.folder):
            try:
                figure.savefig(part, format="png", dpi=DPI, metadata={"Software": None})
                part.replace(file)
            finally:
                part.unlink(missing_ok=True)
    return file


def share_table(shares: Mapping[str, Mapping[str, float]]) -> str:
    """A text table: one row per class, one column per split, in % of the pixels of the split.

    Args:
        shares: Split -> name of class -> share of its pixels, 0..1. Splits without pixels are left
            out.
    """
    splits = _filled(shares)
    names = {name: name if name in CLASSES else "not annotated" for name in COLUMNS}
    lines = [f"{'share of pixels':<16}" + "".join(f"{split:>9}" for split in splits)]
    for column, name in names.items():
        cells = "".join(f"{100 * shares[split][column]:>7.2f} %" for split in splits)
        lines.append(f"{name:<16}{cells}")
    return "\n".join(lines)


def _filled(shares: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The splits that have pixels."""
    return [split for split in SPLITS if any(shares[split].values())]


def blocks(patches: Sequence[Mapping[str, str]]) -> Iterator[Block]:
    """One Block per tile, ascending. `patches` are the rows of patches.csv.

    Neighbouring patches stand beside each other, also where they overlap. Between parts is a gap.
    """
    keys = ("tile", "part", "row", "column")
    places = np.array([[int(patch[key]) for key in keys] for patch in patches])
    for tile in np.unique(places[:, 0]).tolist():
        chosen = np.flatnonzero(places[:, 0] == tile)
        parts = places[chosen, 1] - 1
        y, height = _positions(parts // PARTS_PER_ROW, parts, places[chosen, 2])
        x, width = _positions(parts % PARTS_PER_ROW, parts, places[chosen, 3])
        splits = [patches[i]["split"] for i in chosen]
        yield Block(tile, height, width, np.stack([x, y], axis=1), splits)


def _positions(
    bands: NDArray[np.int64], parts: NDArray[np.int64], pixels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]:
    """Where n patches lie on one axis of the map, (n,), and the length of the axis, in patches.

    Args:
        bands: (n,) which row, or column, of parts each patch is in.
        parts: (n,) the part of each patch.
        pixels: (n,) the place of each patch in its part, in px.
    """
    ranks = np.zeros(len(pixels))
    for part in np.unique(parts):
        inside = parts == part
        ranks[inside] = np.unique(pixels[inside], return_inverse=True)[1].ravel()
    start, starts = 0.0, np.zeros(len(pixels))
    for band in np.unique(bands):
        inside = bands == band
        starts[inside] = start
        start += ranks[inside].max() + 1 + PART_GAP
    return starts + ranks, start - PART_GAP


def _shelves(found: Sequence[Block]) -> tuple[list[tuple[float, float]], float, float]:
    """The top-left corner of each block, row by row, and the height and width of the whole map."""
    area = sum((block.width + TILE_GAP) * (block.height + TILE_GAP) for block in found)
    limit = max(np.sqrt(ASPECT * area), *(block.width for block in found))
    corners, x, y, tallest, widest = [], 0.0, TILE_GAP, 0.0, 0.0
    for block in found:
        if x + block.width > limit:
            x, y, tallest = 0.0, y + tallest + TILE_GAP, 0.0
        corners.append((x, y))
        x += block.width
        tallest, widest = max(tallest, block.height), max(widest, x)
        x += TILE_GAP
    return corners, y + tallest, widest


def _draw(prepared: PreparedSet) -> "Figure":
    """The whole picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shares = prepared.manifest["split"]["shares"]
    splits = _filled(shares)
    found = list(blocks(prepared.patches))
    for tile in prepared.manifest["split"].get("left_out", ()):
        found.append(Block(tile, NOMINAL, NOMINAL, np.empty((0, 2)), []))
    found.sort(key=lambda block: block.tile)
    corners, height, width = _shelves(found)
    ratios = [WIDTH * height / width + 0.2, 2.0, *[2 * WIDTH / SAMPLES + 0.1] * len(splits)]
    figure = Figure(figsize=(WIDTH, sum(ratios) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    map_axes, bar_axes, *sample_axes = figure.subplots(len(ratios), height_ratios=ratios)
    _draw_map(map_axes, found, corners, (height, width))
    _draw_bars(bar_axes, shares, splits)
    for axes, split in zip(sample_axes, splits, strict=True):
        _draw_samples(axes, prepared, split)
    handles = [
        Patch(facecolor=color / 255, edgecolor="black", linewidth=0.4, label=name)
        for name, color in zip(CLASSES, COLORS, strict=True)
    ]
    handles.append(Patch(facecolor="black", label="not annotated"))
    title = "Class colours are those of the data set: water is orange, land is purple."
    look: dict[str, Any] = {"loc": "outside lower center", "title_fontsize": 8.5}
    figure.legend(handles=handles, ncols=len(handles), title=title, handlelength=1.2, **look)
    return figure


def _draw_map(
    axes: "Axes",
    found: Sequence[Block],
    corners: Sequence[tuple[float, float]],
    size: tuple[float, float],
) -> None:
    """One square per patch, in the colour of its split; tiles that were left out are hollow."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch, Rectangle

    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    used: set[str] = set()
    for block, corner in zip(found, corners, strict=True):
        squares = np.add(block.corners, corner)[:, None] + square
        colors = [SPLIT_COLORS[split] for split in block.splits]
        rim: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.5, "snap": False}
        axes.add_collection(PolyCollection(list(squares), facecolors=colors, **rim))
        if not block.splits:
            look: dict[str, Any] = {"fill": False, "edgecolor": "#777777", "linestyle": ":"}
            axes.add_patch(Rectangle(corner, block.width, block.height, **look))
        axes.text(corner[0], corner[1] - 0.3, f"Tile {block.tile}", fontsize=7.5)
        used |= set(block.splits)
    height, width = size
    axes.set(xlim=(-0.2, width + 0.2), ylim=(height + 0.2, 0), aspect="equal")
    axes.axis("off")
    axes.set_title("Where the splits lie: one square per patch")
    handles = [Patch(facecolor=SPLIT_COLORS[name], label=name) for name in SPLITS if name in used]
    if not all(block.splits for block in found):
        handles.append(Patch(fill=False, edgecolor="#777777", linestyle=":", label="left out"))
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
    axes.legend(handles=handles, ncols=len(handles), **place)


def _draw_bars(
    axes: "Axes", shares: Mapping[str, Mapping[str, float]], splits: Sequence[str]
) -> None:
    """One bar per class and split: share of the split's pixels in %."""
    width = 0.84 / len(splits)
    for number, split in enumerate(splits):
        values = [100 * shares[split][name] for name in COLUMNS]
        places = np.arange(len(COLUMNS)) + (number - (len(splits) - 1) / 2) * width
        axes.bar(places, values, width=0.94 * width, color=SPLIT_COLORS[split])
        for place, value in zip(places, values, strict=True):
            axes.text(place, value + 1, _percent(value), ha="center", fontsize=7)
    axes.set_xticks(range(len(COLUMNS)), [*CLASSES, "not annotated"])
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.12)  # room for the numbers
    axes.set(ylabel="share of pixels (%)", xlim=(-0.5, len(COLUMNS) - 0.5))
    axes.set_title("Classes in each split")


def _percent(value: float) -> str:
    """A percentage with two digits; what is not zero does not look like zero."""
    if 0 < value < 0.01:
        return "<0.01"
    return f"{value:.{0 if value >= 10 or not value else 1 if value >= 1 else 2}f}"


def _draw_samples(axes: "Axes", prepared: PreparedSet, split: str) -> None:
    """Patches of a split at equal distances in the set, with their masks below."""
    indices = prepared.indices(split)
    count = min(SAMPLES, len(indices))
    chosen = indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]
    size = prepared.patch_size
    gap = max(1, size // 20)
    canvas = np.full((2 * size + gap, SAMPLES * (size + gap) - gap, 3), 255, np.uint8)
    for number, index in enumerate(chosen):
        columns = slice(number * (size + gap), number * (size + gap) + size)
        canvas[:size, columns] = prepared.images[index]
        canvas[size + gap :, columns] = decode(prepared.masks[index])
    axes.imshow(canvas)
    axes.axis("off")
    axes.set_title(f"{split}: {count} of {len(indices)} patches, and their masks")


@click.command()
@click.argument("folder", metavar="SET", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Draw SET/overview.png: where the splits lie, the classes in each, and sample patches.

    SET is a prepared set. `segmentation.prepare` draws this picture by itself; sets of an older
    version have none.
    """
    click.echo(write(PreparedSet.open(folder)))


if __name__ == "__main__":
    main()

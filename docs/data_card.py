"""Measures the Dubai set and prints the tables of docs/data.md.

    python -m docs.data_card data/dubai                 sizes, classes and colours; seconds
    python -m docs.data_card data/dubai --overlaps      tiles that show the same ground; minutes

Files are read with Pillow, not with the project's own readers, so the page also checks those.
"""

from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segmentation.labels import CLASSES, COLORS

COLUMNS = (*CLASSES, "black")
FEATURES = 6000  # SIFT features per tile
LONGEST_SIDE = 2400  # pixels of a tile in which features are looked for; larger tiles are shrunk
RATIO = 0.75  # Lowe's ratio test (Lowe 2004, section 7.1, uses 0.8)
TOLERANCE = 8.0  # pixels between a matched feature and where the transform puts it


def tiles(raw: Path) -> Iterator[tuple[int, list[Path]]]:
    """(tile number, its images sorted by part) for every `Tile N` folder, by number."""
    for folder in sorted(raw.glob("Tile *"), key=lambda path: int(path.name.split()[1])):
        yield int(folder.name.split()[1]), sorted((folder / "images").glob("*.jpg"))


def mask_of(image: Path) -> Path:
    """The mask that belongs to an image."""
    return image.parent.parent / "masks" / f"{image.stem}.png"


@cache
def count(mask: Path) -> NDArray[np.int64]:
    """(7,) pixels of a mask per class, then of black. Raises ValueError for any other colour."""
    pixels = np.asarray(Image.open(mask).convert("RGB"), np.uint32)
    codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    known = [int.from_bytes(bytes(color)) for color in COLORS] + [0]
    found = np.array([np.count_nonzero(codes == code) for code in known], np.int64)
    if unknown := codes.size - found.sum():
        raise ValueError(f"{mask}: {unknown} pixels have a colour that is no class and not black")
    return found


def sizes_table(raw: Path) -> str:
    """One row per tile: its parts, their sizes in pixels, its area, its area share per class."""
    lines = [
        f"| tile | parts | part height, px | part width, px | megapixels | {' | '.join(COLUMNS)} |",
        "|---|---|---|---|---" + "|---" * len(COLUMNS) + "|",
    ]
    total, parts = np.zeros(len(COLUMNS), np.int64), 0
    for tile, images in tiles(raw):
        shapes = [Image.open(image).size for image in images]
        pixels = np.sum([count(mask_of(image)) for image in images], axis=0)
        width, height = (_span([shape[axis] for shape in shapes]) for axis in range(2))
        lines.append(_row(str(tile), len(images), height, width, pixels))
        total, parts = total + pixels, parts + len(images)
    return "\n".join([*lines, _row("all", parts, "", "", total)])


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _row(name: str, parts: int, height: str, width: str, pixels: NDArray[np.int64]) -> str:
    shares = [f"{100 * share:.2f} %" for share in pixels / pixels.sum()]
    cells = [name, str(parts), height, width, f"{pixels.sum() / 1e6:.2f}", *shares]
    return f"| {' | '.join(cells)} |"


def files_table(raw: Path) -> str:
    """Counts of files, and what is unusual about them."""
    images = [image for _, parts in tiles(raw) for image in parts]
    masks = [mask_of(image) for image in images]
    palettes = [mask for mask in masks if Image.open(mask).mode == "P"]
    names = {mask.parent.parent.name for mask in palettes}
    orders = {bytes(Image.open(mask).getpalette() or []) for mask in palettes}
    black = {mask: int(count(mask)[-1]) for mask in masks}
    most = max(black, key=lambda mask: black[mask])
    megabytes = sum(path.stat().st_size for path in (*images, *masks)) / 1e6
    rows = {
        "pairs of image and mask": f"{len(images)}, {megabytes:.1f} MB",
        "masks stored as palette PNG": f"{len(palettes)}, in {', '.join(sorted(names))}",
        "different palettes among them": str(len(orders)),
        "black pixels, no class": f"{sum(black.values()):,}, of which {black[most]:,} in "
        f"{most.parent.parent.name} part {int(most.stem[-3:])}",
    }
    return "\n".join(
        [
            "| fact | value |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows.items()),
        ]
    )


def _features(images: list[Path]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Positions (n, 2) in source pixels and SIFT descriptors (n, 128) of a tile of 3 x 3 parts."""
    parts = [cv2.imread(str(image), cv2.IMREAD_GRAYSCALE) for image in images]
    height, width = (min(part.shape[axis] for part in parts) for axis in range(2))
    rows = [[part[:height, :width] for part in parts[i : i + 3]] for i in range(0, 9, 3)]
    tile = np.vstack([np.hstack(row) for row in rows])
    scale = min(1.0, LONGEST_SIDE / max(tile.shape))
    small = cv2.resize(tile, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    points, descriptors = cv2.SIFT_create(FEATURES).detectAndCompute(small, None)
    return np.array([point.pt for point in points]) / scale, descriptors


def overlaps_table(raw: Path, fewest: int = 50) -> str:
    """One row per pair of tiles with at least `fewest` features that one transform maps."""
    found = {tile: _features(images) for tile, images in tiles(raw)}
    cv2.setRNGSeed(0)
    lines = ["| tiles | features that agree | scale between them |", "|---|---|---|"]
    others = 0
    for first, second in combinations(found, 2):
        (points, descriptors), (their_points, their_descriptors) = found[first], found[second]
        pairs = cv2.BFMatcher().knnMatch(descriptors, their_descriptors, k=2)
        matches = [best for best, other in pairs if best.distance < RATIO * other.distance]
        transform, agrees = cv2.estimateAffinePartial2D(
            points[[match.queryIdx for match in matches]],
            their_points[[match.trainIdx for match in matches]],
            ransacReprojThreshold=TOLERANCE,
        )
        agreed = 0 if agrees is None else int(agrees.sum())
        if agreed >= fewest:
            scale = np.hypot(*transform[:, 0])
            lines.append(f"| {first} and {second} | {agreed} | {scale:.3f} |")
        else:
            others = max(others, agreed)
    return "\n".join([*lines, f"| every other pair | at most {others} | - |"])


@click.command()
@click.argument("raw", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--overlaps", is_flag=True, help="Which tiles show the same ground. Slow.")
def main(raw: Path, overlaps: bool) -> None:
    """Print the measured tables of docs/data.md for the set in RAW."""
    tables = [overlaps_table(raw)] if overlaps else [files_table(raw), sizes_table(raw)]
    click.echo("\n\n".join(tables))


if __name__ == "__main__":
    main()

"""Draws a small synthetic city in the layout, colours and oddities of the Dubai set.

    python -m segmentation.synthetic OUT

The demo and the tests use it. It has what makes the files of the Dubai set hard to read:

- Masks of tiles 2 and 4 are palette files, and the order of the palette differs from file to file.
- Parts of one tile differ in size by a pixel.
- File names repeat across tiles.
- Some pixels are black, because nobody annotated them.
- classes.json lists other colours than the masks.
- Tiles overlap on the ground: tiles 1 and 3 share half their pixels, and so do tiles 7 and 8.
  Tile 4 shows the place of tile 8 on another date.
"""

import io
import json
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segmentation import city
from segmentation.errors import UserError, written
from segmentation.files import atomic_folder
from segmentation.labels import IGNORE, VALUES, decode

# Order, titles and colours of the Dubai set's classes.json. Only Unlabeled has the masks' colour.
CLASSES_JSON = (
    ("Water", "#50E3C2"),
    ("Land (unpaved area)", "#F5A623"),
    ("Road", "#DE597F"),
    ("Building", "#D0021B"),
    ("Vegetation", "#417505"),
    ("Unlabeled", "#9B9B9B"),
)
PALETTE_TILES = {2, 4}  # their masks are palette files, as in the Dubai set


def write(out: Path, seed: int = 0, tiles: int = 8, size: int = 160) -> None:
    """Draws the city and writes it to the folder `out` in the layout of the Dubai set.

    Args:
        out: A folder that is empty or does not exist.
        seed: Seed of the city.
        tiles: Number of tiles.
        size: Approximate side of a part in px.
    """
    out.mkdir(parents=True, exist_ok=True)
    classes = [
        {"title": title, "shape": "polygon", "color": color, "geometry_config": {}}
        for title, color in CLASSES_JSON
    ]
    (out / "classes.json").write_text(json.dumps({"classes": classes, "tags": []}))
    for tile, image, mask in city.draw(seed, tiles, size):
        rng = np.random.default_rng((seed, 3000, tile))
        _add_unlabelled_pixels(mask, rng, tile)
        images, masks = (out / f"Tile {tile}" / kind for kind in ("images", "masks"))
        images.mkdir(parents=True)
        masks.mkdir()
        for number, window in enumerate(_part_windows(*mask.shape), 1):
            name = f"image_part_{number:03d}"
            jpeg = _encoded(".jpg", image[window], [cv2.IMWRITE_JPEG_QUALITY, 92])
            if tile in PALETTE_TILES:
                png = _palette_png(mask[window], rng)
            else:
                png = _encoded(".png", decode(mask[window]), [])
            (images / f"{name}.jpg").write_bytes(jpeg)
            (masks / f"{name}.png").write_bytes(png)


def _add_unlabelled_pixels(mask: NDArray[np.uint8], rng: np.random.Generator, tile: int) -> None:
    """Sets a few pixels of a mask (h, w) to IGNORE, and in Tile 8 a corner of the third part.

    The masks of the Dubai set have such pixels: see `segmentation.labels`.
    """
    height, width = mask.shape
    rows, columns = rng.integers(0, height - 2, 6), rng.integers(0, width - 2, 6)
    for row, column in zip(rows, columns, strict=True):
        mask[row : row + 2, column : column + 2] = IGNORE
    if tile == 8:
        corner = np.array([(width, 0), (width, height // 5), (width - width // 5, 0)], np.int32)
        cv2.fillConvexPoly(mask, corner, (IGNORE,))


def _part_windows(height: int, width: int) -> list[tuple[slice, slice]]:
    """The nine windows of a tile, row by row. Their sides differ by at most 1 px."""
    rows, columns = ([round(side * third / 3) for third in range(4)] for side in (height, width))
    return [
        (slice(*rows[i : i + 2]), slice(*columns[j : j + 2])) for i in range(3) for j in range(3)
    ]


def _encoded(suffix: str, pixels: NDArray[np.uint8], options: list[int]) -> bytes:
    """The content of an image file of (h, w, 3) uint8 RGB pixels, encoded by OpenCV."""
    return cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _palette_png(mask: NDArray[np.uint8], rng: np.random.Generator) -> bytes:
    """The content of a palette PNG of a mask (h, w), with the palette in random order.

    Encoded by Pillow, because OpenCV cannot write palette files.
    """
    order = rng.permutation(np.array(VALUES, np.uint8))
    index_of = np.zeros(256, np.uint8)
    index_of[order] = np.arange(len(order))
    image = Image.fromarray(index_of[mask], mode="P")
    image.putpalette(decode(order).tobytes())
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the city.",
)
@click.option(
    "--tiles",
    type=click.IntRange(4, 99),
    default=8,
    show_default=True,
    help="Number of tiles. Four is the least that can be split into train, val and test.",
)
@click.option(
    "--size",
    type=click.IntRange(48, 1024),
    default=160,
    show_default=True,
    help="Approximate side of a part, in px. A tile has 3 x 3 parts.",
)
def main(out: Path, seed: int, tiles: int, size: int) -> None:
    """Draw a small synthetic city into the new folder OUT.

    The files have the layout and the oddities of the Dubai set. Eight tiles take a few seconds. To
    get several hundred patches from them:

    \b
      python -m segmentation.synthetic data/city
      python -m segmentation.prepare data/city data/city64 --patch-size 64
    """
    out = out.absolute()
    with written(out):
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out} exists and is not empty; name another folder, or remove it")
        with atomic_folder(out) as folder:
            write(folder, seed, tiles, size)
    click.echo(f"{out}: {tiles} tiles of 9 parts, about {size} px each (seed {seed})")


if __name__ == "__main__":
    main()

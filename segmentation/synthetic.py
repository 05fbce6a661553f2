"""A small made-up city, drawn in the real data set's layout, colours and oddities: for the demo, the tests, and a first look.

    python -m segmentation.synthetic OUT

What makes the real files hard to read is here too: palette masks whose palette order differs from file to file, parts that
differ by a pixel in size, file names that repeat across tiles, black pixels that nobody annotated, a classes.json with other
colours than the masks, and the same overlaps on the ground: tiles 1 and 3 share half their pixels, so do 7 and 8, and 4 shows
8's place on another date. Colour alone does not tell the classes: some roofs look like sand or asphalt, deep water like shadow.
"""

import json
import shutil
import struct
import zlib
from pathlib import Path

import click
import cv2
import numpy as np

from segmentation.errors import UserError, written
from segmentation.labels import CLASSES, COLORS, IGNORE, decode
from segmentation.splits import groups

BUILDING, LAND, ROAD, VEGETATION, WATER, UNLABELED = range(len(CLASSES))
FIXED = (WATER, ROAD)  # what is drawn first and built around
FINE = 2  # drawn at twice the size and averaged down, so that edges in the image are soft and those in the mask are not

SAND, PALE_SAND = (178, 154, 120), (212, 190, 156)
ASPHALT, MARKING = (118, 116, 116), (205, 202, 190)
ROOFS = (
    (228, 224, 216),
    (204, 186, 158),
    (186, 162, 130),
    (146, 146, 148),
    (166, 102, 80),
    (100, 102, 108),
)
GREENS = ((66, 90, 50), (86, 110, 60), (112, 116, 74))
CARS = ((235, 235, 235), (40, 42, 46), (150, 40, 36), (48, 70, 120))

CLASSES_JSON = (  # the real file's order, titles and colours: of these only Unlabeled's is the masks' own
    ("Water", "#50E3C2"),
    ("Land (unpaved area)", "#F5A623"),
    ("Road", "#DE597F"),
    ("Building", "#D0021B"),
    ("Vegetation", "#417505"),
    ("Unlabeled", "#9B9B9B"),
)
PALETTE_TILES = {2, 4}  # whose masks are palette files, as in the real set
SHIFTED = {3, 4, 8}  # tiles that lie half a tile to the right on their group's ground
SAME_DATE = {
    3: 1,
    8: 7,
}  # tile -> the tile taken in the same pass: the pixels that both show are the same


class _Canvas:
    """The ground being drawn, at FINE times the final size: pixels (h, w, 3) uint8 RGB, labels (h, w) and shadow (h, w) uint8.

    Lengths and points (x, y) are in final pixels.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.labels = np.full((height * FINE, width * FINE), LAND, np.uint8)
        self.pixels = np.empty((*self.labels.shape, 3), np.uint8)
        self.shadow = np.zeros_like(self.labels)

    def noise(self, cell: float, stretch: float = 1.0) -> np.ndarray:
        """(h, w) float32 smooth noise of mean 0 and deviation 1, with features of `cell` px, `stretch` times as wide as high."""
        height, width = self.labels.shape
        shape = (int(height / cell / FINE) + 3, int(width / cell / FINE / stretch) + 3)
        field = cv2.resize(
            self.rng.standard_normal(shape).astype(np.float32),
            (width, height),
            interpolation=cv2.INTER_CUBIC,
        )
        return (field - field.mean()) / field.std()

    def color(self, color: tuple[int, int, int], spread: float = 8) -> tuple[int, ...]:
        """`color`, a little lighter or darker and a little off in hue."""
        shifted = np.array(color) + self.rng.normal(0, spread) + self.rng.normal(0, spread / 4, 3)
        return tuple(int(value) for value in np.clip(shifted, 0, 255))

    def polygon(
        self,
        points: np.ndarray,
        color: tuple[int, ...],
        label: int | None = None,
        spare: tuple = (),
    ) -> None:
        """Fill a polygon, (n, 2) x, y, except where the class is in `spare`; without a label the pixels change, not the class."""
        corners = np.round(points * FINE).astype(np.int32)
        (left, top), (right, bottom) = (
            np.maximum(corners.min(axis=0), 0),
            np.maximum(corners.max(axis=0) + 1, 0),
        )
        window = slice(top, bottom), slice(left, right)
        inside = np.zeros_like(self.labels[window])
        if not inside.size:
            return
        cv2.fillPoly(inside, [corners - (left, top)], 1)
        filled = (inside > 0) & ~np.isin(self.labels[window], spare)
        self.pixels[window][filled] = color
        if label is not None:
            self.labels[window][filled] = label
            self.shadow[window][filled] = 0

    def cast(self, points: np.ndarray, length: float) -> None:
        """The shadow of something of that outline; the sun stands in the south-east of every picture."""
        both = np.concatenate([points, points + np.array([-0.8, -0.6]) * length])
        cv2.fillConvexPoly(self.shadow, cv2.convexHull(np.round(both * FINE).astype(np.int32)), 255)

    def label_at(self, point: np.ndarray) -> int:
        """The class at a point; IGNORE outside the canvas."""
        x, y = (int(value) for value in np.floor(point))
        return (
            int(self.labels[y * FINE, x * FINE])
            if 0 <= x < self.width and 0 <= y < self.height
            else IGNORE
        )


def _box(center: np.ndarray, along: float, across: float, angle: float) -> np.ndarray:
    """(4, 2) corners of a box of that size, turned by `angle` radians."""
    corners = np.array([(-along, -across), (along, -across), (along, across), (-along, across)]) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(center) + corners @ np.array([(cos, sin), (-sin, cos)])


def _blob(canvas: _Canvas, center: np.ndarray, radius: float) -> np.ndarray:
    """(12, 2) corners of an irregular round outline."""
    angles = np.arange(12) * np.pi / 6
    radii = radius * canvas.rng.uniform(0.7, 1.2, 12)
    return np.asarray(center) + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]


def _mix(first: tuple, second: tuple, weight: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32 between two colours; weight (h, w) in 0..1."""
    first, second = np.float32(first), np.float32(second)
    return first + (second - first) * np.clip(weight, 0, 1)[..., None]


def _land_and_sea(canvas: _Canvas) -> None:
    """Sand everywhere, and a bay: the lowest part of a slope with smooth noise, turquoise at the shore and dark further out."""
    sand = _mix(
        SAND,
        PALE_SAND,
        0.5 + 0.3 * canvas.noise(70) + 0.2 * canvas.noise(14) + 0.12 * canvas.noise(3),
    )
    height, width = canvas.labels.shape
    direction = canvas.rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    slope = (x / width - 0.5) * np.cos(direction) + (y / height - 0.5) * np.sin(direction)
    relief = (
        slope * 2.2 + canvas.noise(130) * 0.55 + canvas.noise(40) * 0.12 + canvas.noise(12) * 0.03
    )
    water = relief < np.quantile(relief, canvas.rng.uniform(0.16, 0.26))
    depth = cv2.distanceTransform(water.astype(np.uint8), cv2.DIST_L2, 5) / FINE
    sea = _mix((116, 140, 132), (40, 66, 78), depth / 45 + 0.15 * canvas.noise(50))
    sea += (canvas.noise(2.2, 3) * 3.5 + canvas.noise(9, 2) * 3)[..., None]
    beach = cv2.distanceTransform((~water).astype(np.uint8), cv2.DIST_L2, 5) / FINE
    sand += (18 * np.exp(-beach / 5))[..., None]
    canvas.labels[water] = WATER
    canvas.pixels[:] = np.clip(np.where(water[..., None], sea, sand), 0, 255)


def _road(canvas: _Canvas, points: np.ndarray, width: float, bridges: bool) -> None:
    """A road along (n, 2) points, with markings if it is wide and cars on it; over water only where it `bridges`."""
    line = [np.round(points * FINE).astype(np.int32)]
    paved = np.zeros_like(canvas.labels)
    cv2.polylines(paved, line, False, 255, round(width * FINE))
    paved = (paved > 0) & (bridges | (canvas.labels != WATER))
    canvas.labels[paved] = ROAD
    canvas.pixels[paved] = canvas.color(ASPHALT, 9)
    if width > 8:
        marks = np.zeros_like(canvas.labels)
        cv2.polylines(marks, line, False, 255, 1)
        canvas.pixels[(marks > 0) & paved] = MARKING
    steps = np.diff(points, axis=0)
    for start, step in zip(points, steps, strict=False):
        length = float(np.hypot(*step))
        for _ in range(canvas.rng.poisson(length / 45)):
            side = np.array([-step[1], step[0]]) / length * width * canvas.rng.choice([-0.24, 0.24])
            center = start + step * canvas.rng.random() + side
            if canvas.label_at(center) == ROAD:
                color = CARS[canvas.rng.integers(len(CARS))]
                canvas.polygon(
                    _box(center, 4.2, 2.0, float(np.arctan2(step[1], step[0]))), canvas.color(color)
                )


def _building(
    canvas: _Canvas, center: np.ndarray, along: float, across: float, angle: float
) -> None:
    """A house with its shadow and what lies on its roof; nothing where it would stand on water or on a road."""
    outline = _box(center, along, across, angle)
    if any(canvas.label_at(point) in FIXED for point in (*outline, center)):
        return
    canvas.cast(outline, canvas.rng.uniform(2.5, 5) + 0.18 * min(along, across))
    roof = canvas.color(ROOFS[canvas.rng.integers(len(ROOFS))], 9)
    canvas.polygon(outline, tuple(max(0, value - 34) for value in roof), BUILDING)  # the parapet
    canvas.polygon(_box(center, along - 1.6, across - 1.6, angle), roof)
    if (
        min(along, across) < 11 and canvas.rng.random() < 0.5
    ):  # a ridge: the far side of the roof is darker
        turn = np.array([-np.sin(angle), np.cos(angle)]) * across / 4
        canvas.polygon(
            _box(center + turn, along - 1.6, across / 2, angle),
            tuple(max(0, value - 26) for value in roof),
        )
    for _ in range(canvas.rng.poisson(along * across / 150)):
        spot = _box(center, along * 0.6, across * 0.6, angle)[canvas.rng.integers(4)]
        canvas.polygon(_box(spot, 2.4, 1.8, angle), canvas.color((170, 172, 176), 30))


def _tree(canvas: _Canvas, center: np.ndarray, radius: float) -> None:
    """A crown with its shadow; none on water, road or roof."""
    if canvas.label_at(center) not in (LAND, VEGETATION):
        return
    outline = _blob(canvas, center, radius)
    canvas.cast(outline, radius * 0.9)
    canvas.polygon(outline, canvas.color(GREENS[canvas.rng.integers(len(GREENS))], 10), VEGETATION)
    canvas.polygon(
        _blob(canvas, np.asarray(center) + radius * 0.25, radius * 0.5),
        canvas.color((104, 128, 72), 10),
    )


def _villas(canvas: _Canvas, center: np.ndarray, along: float, across: float, angle: float) -> None:
    """Rows of lots: a house each, and here and there a garden, a pool, a tree."""
    columns, rows = max(1, round(along / 21)), max(1, round(across / 19))
    lots = _lattice(center, along, across, angle, columns, rows)
    for lot in lots:
        jitter = canvas.rng.uniform(-1.5, 1.5, 2)
        kind = canvas.rng.random()
        if kind < 0.3:
            canvas.polygon(
                _box(lot, along / columns - 2, across / rows - 2, angle),
                canvas.color(GREENS[1]),
                VEGETATION,
                FIXED,
            )
        if kind < 0.88:
            _building(
                canvas, lot + jitter, canvas.rng.uniform(11, 16), canvas.rng.uniform(10, 14), angle
            )
        if kind < 0.12:
            corner = _box(lot, along / columns - 5, across / rows - 5, angle)[
                canvas.rng.integers(4)
            ]
            if canvas.label_at(corner) in (LAND, VEGETATION):
                canvas.polygon(_box(corner, 5, 3.5, angle), canvas.color((70, 150, 168)), WATER)
        if canvas.rng.random() < 0.5:
            _tree(canvas, lot + canvas.rng.uniform(-9, 9, 2), canvas.rng.uniform(1.8, 3.4))


def _towers(canvas: _Canvas, center: np.ndarray, along: float, across: float, angle: float) -> None:
    """A few large houses on paler, levelled ground."""
    canvas.polygon(_box(center, along, across, angle), canvas.color(PALE_SAND, 6), LAND, FIXED)
    columns, rows = max(1, round(along / 32)), max(1, round(across / 30))
    for lot in _lattice(center, along, across, angle, columns, rows):
        if canvas.rng.random() < 0.9:
            _building(canvas, lot, canvas.rng.uniform(18, 27), canvas.rng.uniform(17, 25), angle)


def _park(canvas: _Canvas, center: np.ndarray, along: float, across: float, angle: float) -> None:
    """Lawn, a path across it, trees, sometimes a pond."""
    canvas.polygon(
        _box(center, along, across, angle),
        canvas.color(GREENS[canvas.rng.integers(1, 3)]),
        VEGETATION,
        FIXED,
    )
    canvas.polygon(
        _box(center, along, 3.5, angle + canvas.rng.uniform(-0.5, 0.5)),
        canvas.color(PALE_SAND),
        LAND,
        FIXED,
    )
    if canvas.rng.random() < 0.35:
        canvas.polygon(
            _blob(canvas, center, min(along, across) / 5), canvas.color((58, 92, 98)), WATER, FIXED
        )
    for lot in _lattice(
        center, along, across, angle, max(2, round(along / 9)), max(2, round(across / 9))
    ):
        if canvas.rng.random() < 0.5:
            _tree(canvas, lot + canvas.rng.uniform(-3, 3, 2), canvas.rng.uniform(2, 4.2))


def _waste(canvas: _Canvas, center: np.ndarray, along: float, across: float, angle: float) -> None:
    """Open sand with tracks and a few shrubs."""
    for _ in range(3):
        turn = angle + canvas.rng.uniform(-0.8, 0.8)
        canvas.polygon(
            _box(center + canvas.rng.uniform(-9, 9, 2), along * 0.8, 1.2, turn),
            canvas.color((166, 142, 110)),
            None,
            FIXED,
        )
    for _ in range(canvas.rng.poisson(3)):
        spot = np.asarray(center) + canvas.rng.uniform(-0.4, 0.4, 2) * min(along, across)
        _tree(canvas, spot, canvas.rng.uniform(1.5, 2.6))


def _unlabeled(
    canvas: _Canvas, center: np.ndarray, along: float, across: float, angle: float
) -> None:
    """A striped yard that the annotators gave no class, on otherwise open sand."""
    along, across = min(along, 34) * 0.8, min(across, 30) * 0.8
    canvas.polygon(
        _box(center, along, across, angle), canvas.color((158, 140, 126), 10), UNLABELED, FIXED
    )
    for offset in np.arange(-0.4, 0.5, 0.2):
        stripe = np.asarray(center) + np.array([-np.sin(angle), np.cos(angle)]) * across * offset
        canvas.polygon(
            _box(stripe, along * 0.9, across * 0.08, angle),
            canvas.color((196, 188, 180), 14),
            None,
            FIXED,
        )


BLOCKS = (
    _villas,
    _towers,
    _waste,
    _villas,
    _park,
    _villas,
    _towers,
    _unlabeled,
    _villas,
    _towers,
    _villas,
    _park,
)
"""What fills the blocks between streets, in this order from a random start on; about every third place is skipped."""


def _lattice(
    center: np.ndarray, along: float, across: float, angle: float, columns: int, rows: int
) -> np.ndarray:
    """(columns * rows, 2): the middles of the equal cells of a box."""
    u, v = np.meshgrid(
        (np.arange(columns) + 0.5) / columns - 0.5, (np.arange(rows) + 0.5) / rows - 0.5
    )
    cells = np.stack([u.ravel() * along, v.ravel() * across], axis=1)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(center) + cells @ np.array([(cos, sin), (-sin, cos)])


def _city(canvas: _Canvas) -> None:
    """A turned grid of streets, a curved avenue across it, and what stands in the blocks between."""
    rng, angle = canvas.rng, canvas.rng.uniform(-0.5, 0.5)
    middle, reach = (
        np.array([canvas.width, canvas.height]) / 2,
        np.hypot(canvas.width, canvas.height) / 2,
    )
    frame = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    streets = [
        np.cumsum(rng.uniform(low, high, int(2 * reach / low))) - reach
        for low, high in ((62, 108), (50, 76))
    ]
    widths = [np.where(rng.random(len(lines)) < 0.3, 11.0, 6.5) for lines in streets]
    for axis, (lines, wide) in enumerate(zip(streets, widths, strict=True)):
        for line, width in zip(lines, wide, strict=True):
            ends = np.array([(line, -reach), (line, reach)])
            _road(
                canvas,
                middle + (ends if axis == 0 else ends[:, ::-1]) @ frame,
                width,
                bridges=False,
            )
    along = np.linspace(-1.1, 1.1, 60) * reach
    curve = np.stack(
        [along, 0.22 * reach * np.sin(along / reach * rng.uniform(2, 3.5) + rng.uniform(0, 6))],
        axis=1,
    )
    _road(canvas, middle + curve @ frame[::-1], 14.0, bridges=True)
    number = int(rng.integers(len(BLOCKS)))
    for i in range(len(streets[0]) - 1):
        for j in range(len(streets[1]) - 1):
            near = (
                np.array([streets[0][i] + widths[0][i] / 2, streets[1][j] + widths[1][j] / 2]) + 2.5
            )
            far = (
                np.array(
                    [
                        streets[0][i + 1] - widths[0][i + 1] / 2,
                        streets[1][j + 1] - widths[1][j + 1] / 2,
                    ]
                )
                - 2.5
            )
            center = middle + (near + far) / 2 @ frame
            if canvas.label_at(center) not in (WATER, IGNORE):
                BLOCKS[number % len(BLOCKS)](canvas, center, *(far - near), angle)
                number += int(rng.choice((1, 1, 2)))
    room = cv2.distanceTransform((canvas.labels == LAND).astype(np.uint8), cv2.DIST_L2, 5)
    y, x = np.unravel_index(room.argmax(), room.shape)
    side = 1.4 * room[y, x] / FINE
    _unlabeled(
        canvas, np.array([x, y]) / FINE, side, side, angle
    )  # so that the smallest city, too, has all six classes


def _ground(seed: int, group: int, height: int, width: int) -> _Canvas:
    """The ground that a group of overlapping tiles shows."""
    canvas = _Canvas(np.random.default_rng((seed, group)), height, width)
    _land_and_sea(canvas)
    _city(canvas)
    leaves = canvas.labels == VEGETATION
    texture = canvas.noise(1.4) * np.where(leaves, 9, 3) + canvas.noise(5) * np.where(leaves, 7, 2)
    canvas.pixels[:] = np.clip(canvas.pixels + texture[..., None], 0, 255)
    return canvas


def _photograph(canvas: _Canvas, seed: int, date: int) -> np.ndarray:
    """(h, w, 3) uint8 RGB: the ground under the light, haze and sensor noise of one date."""
    rng = np.random.default_rng((seed, 1000, date))
    light = rng.uniform(0.86, 1.1) * (1 + rng.normal(0, 0.025, 3))
    haze = rng.uniform(0, 0.14)
    shade = cv2.GaussianBlur(canvas.shadow, (0, 0), 0.8 * FINE)[..., None] / np.float32(255)
    lit = canvas.pixels * (
        1 - shade * np.float32((0.52, 0.48, 0.42))
    )  # what lights a shadow is the blue sky
    small = cv2.resize(lit, (canvas.width, canvas.height), interpolation=cv2.INTER_AREA)
    seen = (
        small * light * (1 - haze)
        + np.array((196, 200, 206)) * haze
        + rng.normal(0, 3.5, small.shape)
    )
    return np.clip(seen, 0, 255).astype(np.uint8)


def draw(seed: int, tiles: int, size: int):
    """Yield (tile, image, mask) of every tile: (h, w, 3) uint8 RGB and (h, w) uint8 class indices; sides of about 3 * size px."""
    for group in groups(list(range(1, tiles + 1))):
        rng = np.random.default_rng((seed, 2000, group[0]))
        height, width = (
            3 * size + int(value) for value in rng.integers(-size // 5, size // 5 + 1, 2)
        )
        height, width = (
            side + (side % 3 == 0) for side in (height, width)
        )  # no multiple of 3: parts differ by a pixel
        canvas = _ground(seed, group[0], height, width + width // 2 if len(group) > 1 else width)
        labels = canvas.labels[FINE // 2 :: FINE, FINE // 2 :: FINE]
        for tile in group:
            image = _photograph(canvas, seed, SAME_DATE.get(tile, tile))
            left = width // 2 if tile in SHIFTED and len(group) > 1 else 0
            yield tile, image[:, left : left + width], labels[:, left : left + width].copy()


def write(out: Path, seed: int = 0, tiles: int = 8, size: int = 160) -> None:
    """Draw the city into the new folder `out`, in the real set's layout."""
    out.mkdir(parents=True, exist_ok=True)
    listed = [
        {"title": title, "shape": "polygon", "color": color, "geometry_config": {}}
        for title, color in CLASSES_JSON
    ]
    (out / "classes.json").write_text(json.dumps({"classes": listed, "tags": []}))
    for tile, image, mask in draw(seed, tiles, size):
        rng = np.random.default_rng((seed, 3000, tile))
        _forget(mask, rng, tile)
        for kind in ("images", "masks"):
            (out / f"Tile {tile}" / kind).mkdir(parents=True)
        for number, window in enumerate(_parts(*mask.shape), 1):
            name = f"image_part_{number:03d}"
            jpeg = _encoded(".jpg", image[window], [cv2.IMWRITE_JPEG_QUALITY, 92])
            png = (
                _palette_png(mask[window], rng)
                if tile in PALETTE_TILES
                else _encoded(".png", decode(mask[window]), [])
            )
            (out / f"Tile {tile}" / "images" / f"{name}.jpg").write_bytes(jpeg)
            (out / f"Tile {tile}" / "masks" / f"{name}.png").write_bytes(png)


def _forget(mask: np.ndarray, rng: np.random.Generator, tile: int) -> None:
    """Leave a few pixels of every mask without a label, and a corner of Tile 8's third part, like the real annotators."""
    height, width = mask.shape
    for row, column in zip(
        rng.integers(0, height - 2, 6), rng.integers(0, width - 2, 6), strict=True
    ):
        mask[row : row + 2, column : column + 2] = IGNORE
    if tile == 8:
        corner = np.array([(width, 0), (width, height // 5), (width - width // 5, 0)], np.int32)
        cv2.fillConvexPoly(mask, corner, IGNORE)


def _parts(height: int, width: int) -> list[tuple[slice, slice]]:
    """The nine windows of a tile, row by row; their sides differ by at most a pixel."""
    rows, columns = ([round(side * third / 3) for third in range(4)] for side in (height, width))
    return [
        (slice(*rows[i : i + 2]), slice(*columns[j : j + 2])) for i in range(3) for j in range(3)
    ]


def _encoded(kind: str, pixels: np.ndarray, options: list[int]) -> bytes:
    """The file of (h, w, 3) uint8 RGB."""
    return cv2.imencode(kind, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _palette_png(mask: np.ndarray, rng: np.random.Generator) -> bytes:
    """A mask as a palette PNG, its palette in an order of its own: OpenCV reads such files and cannot write them."""
    colors = np.append(COLORS, np.zeros((1, 3), np.uint8), axis=0)
    order = rng.permutation(len(colors))
    index = np.zeros(256, np.uint8)
    index[[*range(len(CLASSES)), IGNORE]] = np.argsort(order)
    rows = np.pad(index[mask], ((0, 0), (1, 0)))  # each row begins with its filter type, 0 for none
    header = struct.pack(
        ">IIBBBBB", mask.shape[1], mask.shape[0], 8, 3, 0, 0, 0
    )  # 8 bits a pixel, palette
    chunks = (
        (b"IHDR", header),
        (b"PLTE", colors[order].tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Another seed, another city.",
)
@click.option(
    "--tiles",
    type=click.IntRange(4, 99),
    default=8,
    show_default=True,
    help="Ground areas; from 4 on there is ground enough for train, val and test.",
)
@click.option(
    "--size",
    type=click.IntRange(48, 1024),
    default=160,
    show_default=True,
    help="Side of a part, in px, give or take a tenth; a tile is three parts wide and high.",
)
def main(out: Path, seed: int, tiles: int, size: int) -> None:
    """Draw a small city into the new folder OUT, in the real data set's layout and with its oddities.

    Eight tiles of nine parts take a few seconds. Then, for several hundred patches:

    \b
      python -m segmentation.synthetic data/city
      python -m segmentation.prepare data/city data/city64 --patch-size 64
    """
    out = out.absolute()
    beside = out.with_name(f".{out.name}.partial")
    with written(out):
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out} exists and is not empty; name another folder, or remove it")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            write(beside, seed, tiles, size)
            beside.rename(out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    click.echo(f"{out}: {tiles} tiles of 9 parts, about {size} px each (seed {seed})")


if __name__ == "__main__":
    main()

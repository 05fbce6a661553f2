"""Draws the tiles of the synthetic city: images with their exact classes.

Colour alone does not determine the class: some roofs look like sand or asphalt, and deep water
looks like shadow.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from segmentation.labels import CLASSES, IGNORE
from segmentation.splits import groups

BUILDING, LAND, ROAD, VEGETATION, WATER, UNLABELED = range(len(CLASSES))
NO_BUILD_CLASSES = (WATER, ROAD)  # drawn first; later shapes leave their pixels as they are
SUPERSAMPLING = 2  # drawn at this many times the size; averaging gives the image soft edges

Points = NDArray[np.float64]
"""(n, 2) x and y, or one such point (2,), in px of the final image."""
Color = tuple[int, ...]
"""Red, green and blue, 0 to 255."""

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

SHIFTED = {3, 4, 8}  # tiles that lie half a tile to the right on the ground of their group
SAME_DATE = {3: 1, 8: 7}  # tile -> tile of the same date; the pixels that both show are equal


class _Canvas:
    """The ground while it is drawn.

    The arrays have SUPERSAMPLING times the final size: `pixels` (h, w, 3) uint8 RGB, `labels`
    (h, w) uint8 class indices, `shadow` (h, w) uint8, 255 in shadow. Lengths and points in the
    arguments of the methods are in px of the final image.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.labels = np.full((height * SUPERSAMPLING, width * SUPERSAMPLING), LAND, np.uint8)
        self.pixels = np.empty((*self.labels.shape, 3), np.uint8)
        self.shadow = np.zeros_like(self.labels)

    def noise(self, cell: float, stretch: float = 1.0) -> NDArray[np.float32]:
        """(h, w) float32 smooth noise with mean 0 and standard deviation 1.

        Its features are about `cell` px high and `stretch` times as wide.
        """
        height, width = self.labels.shape
        shape = (
            int(height / cell / SUPERSAMPLING) + 3,
            int(width / cell / SUPERSAMPLING / stretch) + 3,
        )
        field = cv2.resize(
            self.rng.standard_normal(shape).astype(np.float32),
            (width, height),
            interpolation=cv2.INTER_CUBIC,
        )
        noise: NDArray[np.float32] = (field - field.mean()) / field.std()
        return noise

    def color(self, color: Color, spread: float = 8) -> Color:
        """`color`, randomly changed: by about `spread` in brightness, and by less in hue."""
        shifted = np.array(color) + self.rng.normal(0, spread) + self.rng.normal(0, spread / 4, 3)
        return tuple(int(value) for value in np.clip(shifted, 0, 255))

    def polygon(
        self,
        points: Points,
        color: Color,
        label: int | None = None,
        spare: tuple[int, ...] = (),
    ) -> None:
        """Fills a polygon.

        Args:
            points: (n, 2) corners.
            color: Colour of its pixels.
            label: New class of its pixels. None: the class stays as it is.
            spare: Classes whose pixels are left as they are.
        """
        corners = np.round(points * SUPERSAMPLING).astype(np.int32)
        (left, top), (right, bottom) = (
            np.maximum(corners.min(axis=0), 0),
            np.maximum(corners.max(axis=0) + 1, 0),
        )
        window = slice(top, bottom), slice(left, right)
        inside = np.zeros_like(self.labels[window])
        if not inside.size:
            return
        cv2.fillPoly(inside, [corners - (left, top)], (1,))
        filled = (inside > 0) & ~np.isin(self.labels[window], spare)
        self.pixels[window][filled] = color
        if label is not None:
            self.labels[window][filled] = label
            self.shadow[window][filled] = 0

    def cast_shadow(self, points: Points, length: float) -> None:
        """Draws the shadow of an object with the outline `points`. The sun is in the south-east."""
        both = np.concatenate([points, points + np.array([-0.8, -0.6]) * length])
        outline = cv2.convexHull(np.round(both * SUPERSAMPLING).astype(np.int32))
        cv2.fillConvexPoly(self.shadow, outline, (255,))

    def label_at(self, point: Points) -> int:
        """The class at a point; IGNORE outside the ground."""
        x, y = (int(value) for value in np.floor(point))
        return (
            int(self.labels[y * SUPERSAMPLING, x * SUPERSAMPLING])
            if 0 <= x < self.width and 0 <= y < self.height
            else IGNORE
        )


def _box(center: Points, along: float, across: float, angle: float) -> Points:
    """(4, 2): the corners of a box of size along x across px, turned by `angle` radians."""
    corners = np.array([(-along, -across), (along, -across), (along, across), (-along, across)]) / 2
    return _rotated(corners, center, angle)


def _rotated(offsets: Points, center: Points, angle: float) -> Points:
    """The points `offsets` from `center`, turned around it by `angle` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    rotated: Points = center + offsets @ np.array([(cos, sin), (-sin, cos)])
    return rotated


def _blob(canvas: _Canvas, center: Points, radius: float) -> Points:
    """(12, 2): the corners of an irregular, round outline."""
    angles = np.arange(12) * np.pi / 6
    radii = radius * canvas.rng.uniform(0.7, 1.2, 12)
    outline: Points = center + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    return outline


def _mix(first: Color, second: Color, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w, 3) float32: colours between `first`, where `weight` (h, w) is 0, and `second` at 1."""
    start, end = np.array(first, np.float32), np.array(second, np.float32)
    mixed: NDArray[np.float32] = start + (end - start) * np.clip(weight, 0, 1)[..., None]
    return mixed


def _land_and_sea(canvas: _Canvas) -> None:
    """Draws sand everywhere, and a bay: the lowest part of a slope with noise.

    The water is turquoise at the shore and darker further out.
    """
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
    depth = cv2.distanceTransform(water.astype(np.uint8), cv2.DIST_L2, 5) / SUPERSAMPLING
    sea = _mix((116, 140, 132), (40, 66, 78), depth / 45 + 0.15 * canvas.noise(50))
    sea += (canvas.noise(2.2, 3) * 3.5 + canvas.noise(9, 2) * 3)[..., None]
    beach = cv2.distanceTransform((~water).astype(np.uint8), cv2.DIST_L2, 5) / SUPERSAMPLING
    sand += (18 * np.exp(-beach / 5))[..., None]
    canvas.labels[water] = WATER
    canvas.pixels[:] = np.clip(np.where(water[..., None], sea, sand), 0, 255)


def _road(canvas: _Canvas, points: Points, width: float, bridges: bool) -> None:
    """Draws a road with cars along (n, 2) points; wide roads have markings.

    With `bridges` it crosses water; without, the water stays.
    """
    line = [np.round(points * SUPERSAMPLING).astype(np.int32)]
    drawn = np.zeros_like(canvas.labels)
    cv2.polylines(drawn, line, False, (255,), round(width * SUPERSAMPLING))
    paved = (drawn > 0) & (bridges | (canvas.labels != WATER))
    canvas.labels[paved] = ROAD
    canvas.pixels[paved] = canvas.color(ASPHALT, 9)
    if width > 8:
        marks = np.zeros_like(canvas.labels)
        cv2.polylines(marks, line, False, (255,), 1)
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


def _building(canvas: _Canvas, center: Points, along: float, across: float, angle: float) -> None:
    """Draws a house with its shadow and objects on its roof; none on water or a road."""
    outline = _box(center, along, across, angle)
    if any(canvas.label_at(point) in NO_BUILD_CLASSES for point in (*outline, center)):
        return
    canvas.cast_shadow(outline, canvas.rng.uniform(2.5, 5) + 0.18 * min(along, across))
    roof = canvas.color(ROOFS[canvas.rng.integers(len(ROOFS))], 9)
    canvas.polygon(outline, tuple(max(0, value - 34) for value in roof), BUILDING)  # the parapet
    canvas.polygon(_box(center, along - 1.6, across - 1.6, angle), roof)
    # Some small houses have a ridge: one side of the roof is darker.
    if min(along, across) < 11 and canvas.rng.random() < 0.5:
        turn = np.array([-np.sin(angle), np.cos(angle)]) * across / 4
        canvas.polygon(
            _box(center + turn, along - 1.6, across / 2, angle),
            tuple(max(0, value - 26) for value in roof),
        )
    for _ in range(canvas.rng.poisson(along * across / 150)):
        spot = _box(center, along * 0.6, across * 0.6, angle)[canvas.rng.integers(4)]
        canvas.polygon(_box(spot, 2.4, 1.8, angle), canvas.color((170, 172, 176), 30))


def _tree(canvas: _Canvas, center: Points, radius: float) -> None:
    """Draws a tree with its shadow; none on water, a road or a house."""
    if canvas.label_at(center) not in (LAND, VEGETATION):
        return
    outline = _blob(canvas, center, radius)
    canvas.cast_shadow(outline, radius * 0.9)
    canvas.polygon(outline, canvas.color(GREENS[canvas.rng.integers(len(GREENS))], 10), VEGETATION)
    canvas.polygon(
        _blob(canvas, center + radius * 0.25, radius * 0.5),
        canvas.color((104, 128, 72), 10),
    )


def _villas(canvas: _Canvas, center: Points, along: float, across: float, angle: float) -> None:
    """Draws rows of lots. Most have a house; some have a garden, a pool or a tree."""
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
                NO_BUILD_CLASSES,
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


def _towers(canvas: _Canvas, center: Points, along: float, across: float, angle: float) -> None:
    """Draws a few large houses on pale ground."""
    canvas.polygon(
        _box(center, along, across, angle), canvas.color(PALE_SAND, 6), LAND, NO_BUILD_CLASSES
    )
    columns, rows = max(1, round(along / 32)), max(1, round(across / 30))
    for lot in _lattice(center, along, across, angle, columns, rows):
        if canvas.rng.random() < 0.9:
            _building(canvas, lot, canvas.rng.uniform(18, 27), canvas.rng.uniform(17, 25), angle)


def _park(canvas: _Canvas, center: Points, along: float, across: float, angle: float) -> None:
    """Draws a lawn with a path, trees and sometimes a pond."""
    canvas.polygon(
        _box(center, along, across, angle),
        canvas.color(GREENS[canvas.rng.integers(1, 3)]),
        VEGETATION,
        NO_BUILD_CLASSES,
    )
    canvas.polygon(
        _box(center, along, 3.5, angle + canvas.rng.uniform(-0.5, 0.5)),
        canvas.color(PALE_SAND),
        LAND,
        NO_BUILD_CLASSES,
    )
    if canvas.rng.random() < 0.35:
        canvas.polygon(
            _blob(canvas, center, min(along, across) / 5),
            canvas.color((58, 92, 98)),
            WATER,
            NO_BUILD_CLASSES,
        )
    for lot in _lattice(
        center, along, across, angle, max(2, round(along / 9)), max(2, round(across / 9))
    ):
        if canvas.rng.random() < 0.5:
            _tree(canvas, lot + canvas.rng.uniform(-3, 3, 2), canvas.rng.uniform(2, 4.2))


def _waste(canvas: _Canvas, center: Points, along: float, across: float, angle: float) -> None:
    """Draws tracks and a few shrubs on open sand."""
    for _ in range(3):
        turn = angle + canvas.rng.uniform(-0.8, 0.8)
        canvas.polygon(
            _box(center + canvas.rng.uniform(-9, 9, 2), along * 0.8, 1.2, turn),
            canvas.color((166, 142, 110)),
            None,
            NO_BUILD_CLASSES,
        )
    for _ in range(canvas.rng.poisson(3)):
        spot = center + canvas.rng.uniform(-0.4, 0.4, 2) * min(along, across)
        _tree(canvas, spot, canvas.rng.uniform(1.5, 2.6))


def _unlabeled(canvas: _Canvas, center: Points, along: float, across: float, angle: float) -> None:
    """Draws a striped yard of the class Unlabeled."""
    along, across = min(along, 34) * 0.8, min(across, 30) * 0.8
    canvas.polygon(
        _box(center, along, across, angle),
        canvas.color((158, 140, 126), 10),
        UNLABELED,
        NO_BUILD_CLASSES,
    )
    for offset in np.arange(-0.4, 0.5, 0.2):
        stripe = center + np.array([-np.sin(angle), np.cos(angle)]) * across * offset
        canvas.polygon(
            _box(stripe, along * 0.9, across * 0.08, angle),
            canvas.color((196, 188, 180), 14),
            None,
            NO_BUILD_CLASSES,
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
"""Functions that fill the blocks between streets.

They are used in this order, from a random start on. After about every third block, one entry is
skipped.
"""


def _lattice(
    center: Points, along: float, across: float, angle: float, columns: int, rows: int
) -> Points:
    """(columns * rows, 2): the centres of equal cells that divide a box."""
    u, v = np.meshgrid(
        (np.arange(columns) + 0.5) / columns - 0.5, (np.arange(rows) + 0.5) / rows - 0.5
    )
    cells = np.stack([u.ravel() * along, v.ravel() * across], axis=1)
    return _rotated(cells, center, angle)


def _city(canvas: _Canvas) -> None:
    """Draws a rotated grid of streets, a curved avenue, and the blocks between the streets."""
    rng, angle = canvas.rng, canvas.rng.uniform(-0.5, 0.5)
    middle = np.array([canvas.width, canvas.height]) / 2
    reach = float(np.hypot(canvas.width, canvas.height)) / 2
    frame = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    streets = [
        np.cumsum(rng.uniform(low, high, int(2 * reach / low))) - reach
        for low, high in ((62, 108), (50, 76))
    ]
    widths = [np.where(rng.random(len(lines)) < 0.3, 11.0, 6.5) for lines in streets]
    for axis, (lines, wide) in enumerate(zip(streets, widths, strict=True)):
        for line, width in zip(lines, wide, strict=True):
            street = np.array([(line, -reach), (line, reach)])[:, :: 1 if axis == 0 else -1]
            _road(canvas, middle + street @ frame, width, bridges=False)
    along = np.linspace(-1.1, 1.1, 60) * reach
    curve = np.stack(
        [along, 0.22 * reach * np.sin(along / reach * rng.uniform(2, 3.5) + rng.uniform(0, 6))],
        axis=1,
    )
    _road(canvas, middle + curve @ frame[::-1], 14.0, bridges=True)
    # A block starts and ends 2.5 px beside its streets.
    starts = [lines + wide / 2 + 2.5 for lines, wide in zip(streets, widths, strict=True)]
    ends = [lines - wide / 2 - 2.5 for lines, wide in zip(streets, widths, strict=True)]
    number = int(rng.integers(len(BLOCKS)))
    for i in range(len(streets[0]) - 1):
        for j in range(len(streets[1]) - 1):
            near = np.array([starts[0][i], starts[1][j]])
            far = np.array([ends[0][i + 1], ends[1][j + 1]])
            center = middle + (near + far) / 2 @ frame
            if canvas.label_at(center) not in (WATER, IGNORE):
                length, depth = far - near
                BLOCKS[number % len(BLOCKS)](canvas, center, length, depth, angle)
                number += int(rng.choice((1, 1, 2)))
    # One yard where there is most room, so that the smallest city has all six classes as well.
    room = cv2.distanceTransform((canvas.labels == LAND).astype(np.uint8), cv2.DIST_L2, 5)
    y, x = np.unravel_index(room.argmax(), room.shape)
    side = 1.4 * room[y, x] / SUPERSAMPLING
    _unlabeled(canvas, np.array([x, y]) / SUPERSAMPLING, side, side, angle)


def _ground(seed: int, group: int, height: int, width: int) -> _Canvas:
    """The ground that a group of overlapping tiles shows."""
    canvas = _Canvas(np.random.default_rng((seed, group)), height, width)
    _land_and_sea(canvas)
    _city(canvas)
    leaves = canvas.labels == VEGETATION
    texture = canvas.noise(1.4) * np.where(leaves, 9, 3) + canvas.noise(5) * np.where(leaves, 7, 2)
    canvas.pixels[:] = np.clip(canvas.pixels + texture[..., None], 0, 255)
    return canvas


def _photograph(canvas: _Canvas, seed: int, date: int) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB: the ground with the light, haze and sensor noise of one date."""
    rng = np.random.default_rng((seed, 1000, date))
    light = rng.uniform(0.86, 1.1) * (1 + rng.normal(0, 0.025, 3))
    haze = rng.uniform(0, 0.14)
    shadow = cv2.GaussianBlur(canvas.shadow, (0, 0), 0.8 * SUPERSAMPLING)
    shade = shadow[..., None] / np.float32(255)
    # The blue sky lights shadows, so they lose less blue than red.
    lit = canvas.pixels * (1 - shade * np.array((0.52, 0.48, 0.42), np.float32))
    small = cv2.resize(lit, (canvas.width, canvas.height), interpolation=cv2.INTER_AREA)
    seen = (
        small * light * (1 - haze)
        + np.array((196, 200, 206)) * haze
        + rng.normal(0, 3.5, small.shape)
    )
    image: NDArray[np.uint8] = np.clip(seen, 0, 255).astype(np.uint8)
    return image


def draw(
    seed: int, tiles: int, size: int
) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yields each tile as (number, image (h, w, 3) uint8 RGB, mask (h, w) uint8 class indices).

    Args:
        seed: Seed of the city.
        tiles: Number of tiles.
        size: Approximate side of a part in px. A tile has about three times that side.
    """
    for group in groups(list(range(1, tiles + 1))):
        rng = np.random.default_rng((seed, 2000, group[0]))
        height, width = (
            3 * size + int(value) for value in rng.integers(-size // 5, size // 5 + 1, 2)
        )
        # No side is a multiple of 3, so that the parts of a tile differ in size.
        height, width = (side + (side % 3 == 0) for side in (height, width))
        canvas = _ground(seed, group[0], height, width + width // 2 if len(group) > 1 else width)
        labels = canvas.labels[
            SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING
        ]
        for tile in group:
            image = _photograph(canvas, seed, SAME_DATE.get(tile, tile))
            left = width // 2 if tile in SHIFTED and len(group) > 1 else 0
            yield tile, image[:, left : left + width], labels[:, left : left + width].copy()

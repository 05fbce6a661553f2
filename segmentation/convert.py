"""Converts the pairs of image and mask of a raw folder into the arrays of a prepared set."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import cv2
import joblib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segmentation.errors import BadFilesError, UserError
from segmentation.labels import VALUES, count, encode
from segmentation.prepared import ArrayWriter, PrepareOptions
from segmentation.sources import Part, decode, read_bytes, source_name
from segmentation.tiling import cut, positions, shrink_images, shrink_masks

MAX_DEFAULT_WORKERS = 8
"""A worker needs about 60 MB for the largest image of the Dubai set."""

BAND = 256
"""Rows of a mosaic that one worker shrinks at a time, in px of the source image."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Layout:
    """Where the patches of a set lie, and where each part's patches are stored."""

    places: NDArray[np.int64]  # (N, 4): tile, part, row, column of each patch
    first: dict[Part, int]  # index of each part's first patch

    @classmethod
    def of(cls, parts: Sequence[Part], options: PrepareOptions) -> "Layout":
        """The layout of the patches of `parts`, which are sorted."""
        first, start, places = {}, 0, []
        for part in parts:
            corners = positions(part.height, part.width, options.patch_size, options.grid)
            names = np.full((len(corners), 2), (part.tile, part.part))
            places.append(np.column_stack((names, corners)))
            first[part], start = start, start + len(corners)
        return cls(np.concatenate(places), first)


@dataclass(frozen=True)
class MosaicLayout:
    """Where the parts of one mosaic lie, and where its pixels are stored."""

    corners: dict[Part, tuple[int, int]]  # row and column of each part's top-left source pixel
    height: int  # of the stored mosaic in px
    width: int
    first: int  # index of the first stored pixel

    def entry(self) -> dict[str, int]:
        """What the manifest holds."""
        tile = next(iter(self.corners)).tile
        return {"tile": tile, "height": self.height, "width": self.width, "first": self.first}


def mosaic_layouts(parts: Sequence[Part], scale: int) -> list[MosaicLayout]:
    """The layouts of the mosaics of `parts`, which are sorted.

    Pixels at the right and lower edge that fill no block of scale x scale are left out.
    """
    layouts, first = [], 0
    for _, tile in groupby(parts, key=lambda part: part.tile):
        for corners in _arrange(list(tile)):
            height = max(row + part.height for part, (row, _) in corners.items()) // scale
            width = max(column + part.width for part, (_, column) in corners.items()) // scale
            layouts.append(MosaicLayout(corners, height, width, first))
            first += height * width
    return layouts


def _arrange(parts: Sequence[Part]) -> list[dict[Part, tuple[int, int]]]:
    """The parts of each mosaic of one tile, with row and column of their top-left pixel.

    Parts 1 to 9 are one mosaic of 3 x 3, row by row, if their sides fit together. Otherwise each
    part is a mosaic.
    """
    alone = [{part: (0, 0)} for part in parts]
    if [part.part for part in parts] != list(range(1, 10)):
        return alone
    sizes = np.array([(part.height, part.width) for part in parts]).reshape(3, 3, 2)
    heights, widths = sizes[:, 0, 0], sizes[0, :, 1]
    if (sizes[..., 0] != heights[:, None]).any() or (sizes[..., 1] != widths).any():
        return alone
    rows, columns = (np.cumsum(sides) - sides for sides in (heights, widths))
    corners = [(row, column) for row in rows.tolist() for column in columns.tolist()]
    return [dict(zip(parts, corners, strict=True))]


@dataclass(frozen=True)
class PixelCounts:
    """Pixels per class, and of ignore as the seventh."""

    tiles: dict[int, NDArray[np.int64]]  # tile -> (7,), of its whole masks
    patches: NDArray[np.int64]  # (N, 7), of the stored patches


def convert(
    parts: Sequence[Part],
    layout: Layout,
    options: PrepareOptions,
    writers: tuple[ArrayWriter, ArrayWriter],
    workers: int | None = None,
) -> PixelCounts:
    """Decodes, labels, cuts and shrinks all parts, and writes their patches with `writers`.

    Args:
        parts: The parts in the order of `layout`.
        layout: Where their patches are stored.
        options: The options of the set.
        writers: The writers of images and masks.
        workers: Threads. The default is one per core, but at most MAX_DEFAULT_WORKERS.

    Raises:
        BadFilesError: Files are damaged or hold unknown colours. Patches of others may be written.
    """

    def convert_part(part: Part) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _convert_part(part, layout.first[part], options, writers)

    counts, problems = _run_per_part(convert_part, parts, workers)
    if problems:
        raise BadFilesError(problems)
    tiles: dict[int, NDArray[np.int64]] = {}
    for part in parts:
        tiles[part.tile] = tiles.get(part.tile, 0) + counts[part][0]
    return PixelCounts(tiles, np.concatenate([counts[part][1] for part in parts]))


def convert_mosaics(
    layouts: Sequence[MosaicLayout],
    options: PrepareOptions,
    writers: tuple[ArrayWriter, ArrayWriter],
    workers: int | None = None,
) -> None:
    """Decodes, joins and shrinks the parts of each mosaic, and writes its pixels with `writers`.

    Parts are decoded a second time, because `convert` works on parts in any order, and only one
    mosaic at a time fits into little memory.

    Args:
        layouts: The mosaics.
        options: The options of the set.
        writers: The writers of images and masks.
        workers: Threads. See `convert`.

    Raises:
        UserError: A file changed after `convert` had read it.
    """
    with _thread_pool(workers) as pool:
        for layout in tqdm(layouts, desc="mosaics", unit="mosaic", disable=None):
            _convert_mosaic(layout, options, writers, pool)


def decoding_problems(
    parts: Sequence[Part], on_unknown: str, workers: int | None = None
) -> list[str]:
    """One line per problem that only decoding the files can show. Writes nothing."""

    def check(part: Part) -> None:
        decode_pair(part, on_unknown)

    return _run_per_part(check, parts, workers)[1]


def _run_per_part(
    task: Callable[[Part], Result], parts: Sequence[Part], workers: int | None
) -> tuple[dict[Part, Result], list[str]]:
    """Runs `task` on every part in parallel.

    Threads suffice: OpenCV, NumPy and the writes release the interpreter lock. On two cores, two
    threads take the CPU time of one and half its wall time. Nothing is copied between processes.

    Returns:
        Part -> result, and the messages of the UserErrors of the other parts.
    """
    largest_first = sorted(parts, key=lambda part: -part.height * part.width)  # all end together
    results, problems = {}, []
    with _thread_pool(workers) as pool:
        jobs = {pool.submit(task, part): part for part in largest_first}
        done = as_completed(jobs)
        try:
            for job in tqdm(done, total=len(jobs), desc="prepare", unit="part", disable=None):
                try:
                    results[jobs[job]] = job.result()
                except UserError as error:
                    problems.append(error.message)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results, problems


def _thread_pool(workers: int | None) -> ThreadPoolExecutor:
    """A pool of `workers` threads, or of the default number."""
    cv2.setNumThreads(1)  # the pool is the parallelism
    return ThreadPoolExecutor(workers or min(MAX_DEFAULT_WORKERS, joblib.cpu_count()))


def _convert_part(
    part: Part, first: int, options: PrepareOptions, writers: tuple[ArrayWriter, ArrayWriter]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Writes the patches of one part, from index `first` on.

    Returns:
        (7,) pixels per class and of ignore of the whole mask, and (n, 7) those of each patch.
    """
    image, mask = decode_pair(part, options.on_unknown)
    images, _ = cut(image, options.patch_size, options.grid)
    masks, _ = cut(mask, options.patch_size, options.grid)
    images, masks = _shrink(images, masks, options.scale)
    for writer, rows in zip(writers, (images, masks), strict=True):
        writer.write_rows(first, rows)
    return count(mask), np.stack([count(patch) for patch in masks])


def _convert_mosaic(
    layout: MosaicLayout,
    options: PrepareOptions,
    writers: tuple[ArrayWriter, ArrayWriter],
    pool: ThreadPoolExecutor,
) -> None:
    """Writes the pixels of one mosaic."""
    scale = options.scale
    height, width = layout.height * scale, layout.width * scale
    image, mask = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.uint8)

    def place(part: Part) -> None:
        row, column = layout.corners[part]
        pair = decode_pair(part, options.on_unknown)
        for whole, pixels in zip((image, mask), pair, strict=True):
            window = whole[row : row + part.height, column : column + part.width]
            window[:] = pixels[: len(window), : window.shape[1]]

    def write(top: int) -> None:
        band = slice(top, top + rows)
        first = layout.first + top // scale * layout.width
        (colors,), (classes,) = _shrink(image[None, band], mask[None, band], scale)
        writers[0].write_rows(first, colors.reshape(-1, 3))
        writers[1].write_rows(first, classes.reshape(-1))

    rows = BAND // scale * scale
    for task, items in ((place, layout.corners), (write, range(0, height, rows))):
        list(pool.map(task, items))  # the list raises the errors


def _shrink(
    images: NDArray[np.uint8], masks: NDArray[np.uint8], scale: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, h, w, 3) and masks (n, h, w), with height and width divided by `scale`."""
    if scale == 1:
        return images, masks
    return shrink_images(images, scale), shrink_masks(masks, scale, VALUES)


def decode_pair(part: Part, on_unknown: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(h, w, 3) uint8 RGB image and (h, w) uint8 class indices of a part."""
    mask = encode(_decode_file(part.mask, part), source_name(part.mask), on_unknown)
    return _decode_file(part.image, part), mask


def _decode_file(path: Path, part: Part) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB of one of the part's files."""
    name = source_name(path)
    pixels = decode(read_bytes(path, name), name)
    if pixels.shape[:2] != (part.height, part.width):
        raise UserError(f"{name}: it changed while it was being read; run the command again")
    return pixels

"""Converts the pairs of image and mask of a raw folder into the arrays of a prepared set."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
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


def decoding_problems(
    parts: Sequence[Part], on_unknown: str, workers: int | None = None
) -> list[str]:
    """One line per problem that only decoding the files can show. Writes nothing."""

    def check(part: Part) -> None:
        _decode_pair(part, on_unknown)

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
    workers = workers or min(MAX_DEFAULT_WORKERS, joblib.cpu_count())
    cv2.setNumThreads(1)  # the parts are the parallelism
    largest_first = sorted(parts, key=lambda part: -part.height * part.width)  # all end together
    results, problems = {}, []
    with ThreadPoolExecutor(workers) as pool:
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


def _convert_part(
    part: Part, first: int, options: PrepareOptions, writers: tuple[ArrayWriter, ArrayWriter]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Writes the patches of one part, from index `first` on.

    Returns:
        (7,) pixels per class and of ignore of the whole mask, and (n, 7) those of each patch.
    """
    image, mask = _decode_pair(part, options.on_unknown)
    images, _ = cut(image, options.patch_size, options.grid)
    masks, _ = cut(mask, options.patch_size, options.grid)
    if options.scale > 1:
        images = shrink_images(images, options.scale)
        masks = shrink_masks(masks, options.scale, VALUES)
    for writer, rows in zip(writers, (images, masks), strict=True):
        writer.write_rows(first, rows)
    return count(mask), np.stack([count(patch) for patch in masks])


def _decode_pair(part: Part, on_unknown: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
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

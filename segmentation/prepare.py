"""Prepares raw images and masks for training: checks them, cuts them into patches, assigns splits.

    python -m segmentation.prepare RAW OUT

The format of the result is described in `segmentation.prepared`. The same files and options give
the same bytes, whatever the number of workers.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from segmentation import splits
from segmentation.convert import Layout, PixelCounts, convert, decoding_problems
from segmentation.download import download_dubai_set
from segmentation.errors import BadFilesError, UserError, written
from segmentation.files import atomic_folder
from segmentation.prepared import (
    ArrayWriter,
    Manifest,
    PatchTable,
    PreparedSet,
    PrepareOptions,
    data_checksum,
    find_manifest,
    write_description,
)
from segmentation.sources import Part, find_parts, find_root, source_name
from segmentation.tiling import GRIDS


def prepare(
    raw: Path,
    out: Path,
    options: PrepareOptions,
    force: bool = False,
    workers: int | None = None,
) -> bool:
    """Prepares the tiles in `raw` and writes the set to the folder `out`, completely or not at all.

    Args:
        raw: The folder that holds the tiles, or a folder that holds that folder.
        out: The folder to make. A folder that is not a prepared set is never replaced.
        options: The options of the set.
        force: Replace a set that was made with other options or files.
        workers: Threads. See `convert`.

    Returns:
        Whether the set was written. False if `out` holds it already.

    Raises:
        BadFilesError: Files cannot be used. All of them are listed, and nothing is written.
        UserError: `out` cannot be written, or holds something else.
    """
    root = find_root(raw)
    existing = find_manifest(out)
    if existing is None or force:
        _check_writable(out)
    parts, problems = find_parts(root, options.patch_size)
    if not (parts or problems):
        raise UserError(f"{root} holds tiles, but no image in any of them")
    if problems:  # decode the other files as well, so that one run reports every problem
        raise BadFilesError(problems + decoding_problems(parts, options.on_unknown, workers))
    sources = _source_checksums(parts)
    if existing and not force:
        if existing["checksum"] != data_checksum(sources, options):
            raise UserError(
                f"{out} {_difference(existing, options)}; "
                "name another folder, or replace it with --force"
            )
        PreparedSet.open(out)  # raises if the set is damaged
        return False
    with written(out), atomic_folder(out) as folder:
        table, tile_pixels = _write_arrays(folder, parts, options, workers)
        write_description(folder, options, table, tile_pixels, sources)
    return True


def _check_writable(out: Path) -> None:
    """UserError unless the folder `out` can be made. Called before any image is read."""
    with written(out):
        place = out if out.exists() else next(path for path in out.parents if path.exists())
    if not place.is_dir():
        raise UserError(f"cannot write {out}: {place} is not a folder; name another folder")
    parent = out.parent if place == out else place
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {out}: {parent} is not writable; name another folder")


def _difference(existing: Manifest, options: PrepareOptions) -> str:
    """How the set with the manifest `existing` differs from one made with `options`, in words."""
    old, new = existing["options"], asdict(options)
    changed = [
        f"--{name.replace('_', '-')} {old.get(name)}" for name in new if old.get(name) != new[name]
    ]
    if changed:
        return f"was prepared with {' '.join(changed)}"
    return "was prepared from other files or by another version"


def _source_checksums(parts: Sequence[Part]) -> dict[str, str]:
    """Name of each source file -> SHA-256 of its bytes."""
    return {
        source_name(path): checksum
        for part in parts
        for path, checksum in zip((part.image, part.mask), part.checksums, strict=True)
    }


def _write_arrays(
    folder: Path, parts: Sequence[Part], options: PrepareOptions, workers: int | None
) -> tuple[PatchTable, dict[int, NDArray[np.int64]]]:
    """Writes images.npy and masks.npy.

    Returns:
        The patches with their splits, and tile -> (7,) pixels per class and of ignore.
    """
    layout = Layout.of(parts, options)
    shape = (len(layout.places), options.stored_size, options.stored_size)
    _check_space(folder, shape)
    with (
        ArrayWriter(folder / "images.npy", (*shape, 3)) as images,
        ArrayWriter(folder / "masks.npy", shape) as masks,
    ):
        counts = convert(parts, layout, options, (images, masks), workers)
    split = _assign_splits(options.split, layout, counts)
    return PatchTable(layout.places, split, counts.patches), counts.tiles


def _check_space(folder: Path, shape: tuple[int, int, int]) -> None:
    """UserError unless the arrays of (N, p, p) patches fit on the disk of `folder`."""
    needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(folder).free  # 3 + 1 bytes per px
    if needed > free:
        raise UserError(
            f"{shape[0]} patches need {needed / 1e6:.0f} MB, "
            f"and {folder.parent} has {free / 1e6:.0f} MB free"
        )


def _assign_splits(method: str, layout: Layout, counts: PixelCounts) -> list[str]:
    """The split of each patch."""
    if method == "random":
        return splits.at_random(len(layout.places))
    split_of = splits.by_tiles(counts.tiles)
    return [split_of[tile] for tile in layout.places[:, 0].tolist()]


@click.command()
@click.argument("raw", type=click.Path(file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--patch-size",
    type=click.IntRange(8, 4096),
    default=256,
    show_default=True,
    help="Side of a patch, in px of the source image.",
)
@click.option(
    "--grid",
    type=click.Choice(sorted(GRIDS)),
    default="cover",
    show_default=True,
    help="Where patches lie. cover: the patches use every pixel; the last row and column overlap "
    "the ones before. crop: no overlap; what does not fill a patch is dropped. crop is the "
    "published protocol, with 1305 patches of 256 px on the Dubai set.",
)
@click.option(
    "--split",
    type=click.Choice(["tiles", "random"]),
    default="tiles",
    show_default=True,
    help="How patches are assigned to train, val and test. tiles: by whole tiles; tiles that show "
    "the same ground stay together. random: the published protocol, a random fifth of the patches "
    "for val and no test split. random leaks: patches of one image are in both splits. Use it only "
    "to compare with published numbers.",
)
@click.option(
    "--scale",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Shrink each patch by this factor. Grid and field of view stay the same. Images are "
    "averaged. Masks take the most frequent value of each block, ignore included; ties go to the "
    "class that is listed first, and ignore loses every tie.",
)
@click.option(
    "--on-unknown",
    type=click.Choice(["error", "ignore"]),
    default="error",
    show_default=True,
    help="What to do with mask colours that belong to no class. error: stop and list them. "
    "ignore: label their pixels as ignore.",
)
@click.option(
    "--download",
    is_flag=True,
    help="If RAW does not exist, first download the Dubai set from Kaggle into it.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Replace a prepared set in OUT that was made with other options or files.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Number of threads. The result does not depend on it. Default: one per core, at most 8.",
)
def main(
    raw: Path,
    out: Path,
    patch_size: int,
    grid: str,
    split: str,
    scale: int,
    on_unknown: str,
    download: bool,
    force: bool,
    workers: int | None,
) -> None:
    """Prepare the raw tiles in RAW for training, as the new folder OUT.

    RAW holds `Tile N/images/image_part_00K.jpg` and `Tile N/masks/image_part_00K.png`. All bad
    files are listed before anything is written. An EXIF orientation is ignored: pixels are used as
    the file stores them. OUT gets images.npy, masks.npy, patches.csv and manifest.json. An
    interrupted command never leaves a partial set.

    \b
    Examples:
      python -m segmentation.prepare data/raw data/prepared --download
      python -m segmentation.prepare data/raw data/small --scale 4
      python -m segmentation.prepare data/raw data/published --grid crop --split random
    """
    options = PrepareOptions(patch_size, grid, split, scale, on_unknown)
    try:
        exists = raw.exists()
    except OSError as error:  # a name that no file can have
        raise UserError(
            f"RAW cannot be {raw}: {error.strerror}; name the folder of the tiles"
        ) from error
    if download and not exists:
        download_dubai_set(raw)
    if not raw.is_dir():
        raise UserError(f"{raw} does not exist; --download fetches the Dubai set into it")
    out = out.absolute()
    fresh = prepare(raw.absolute(), out, options, force, workers)
    manifest = find_manifest(out)
    assert manifest  # `prepare` wrote or checked it
    number = manifest["patches"]
    click.echo(
        f"{out}: {number['total']} patches of {manifest['patch_size']} px "
        f"(train {number['train']}, val {number['val']}, test {number['test']})"
        + ("" if fresh else "; already prepared, nothing to do")
    )


if __name__ == "__main__":
    main()

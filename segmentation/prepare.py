"""Prepares raw images and masks for training: checks them, cuts them into patches, assigns splits.

    python -m segmentation.prepare RAW OUT

The format of the result is described in `segmentation.prepared`. The same files and options give
the same bytes, whatever the number of workers.
"""

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from segmentation import overview, splits
from segmentation.convert import (
    Layout,
    MosaicLayout,
    PixelCounts,
    convert,
    convert_mosaics,
    decoding_problems,
    mosaic_layouts,
)
from segmentation.download import download_dubai_set
from segmentation.errors import BadFilesError, UserError, written
from segmentation.files import atomic_folder
from segmentation.prepared import (
    MOSAIC_FILES,
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
        UserError: `out` cannot be written, or holds something else. Or a list of tiles names a
            tile that does not exist, or training tiles that do not show all classes.
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
    parts, left_out = _listed(parts, options.split, root)
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
        mosaics = mosaic_layouts(parts, options.scale) if options.mosaics else []
        table, tile_pixels = _write_arrays(folder, parts, mosaics, options, workers)
        entries = [mosaic.entry() for mosaic in mosaics]
        write_description(folder, options, table, tile_pixels, sources, left_out, entries)
    return True


def _listed(parts: list[Part], split: str, root: Path) -> tuple[list[Part], list[int]]:
    """The parts of the tiles that the lists in `split` name, and the tiles that no list names.

    Without lists, all parts and no tile. UserError if a list names a tile that is not in `root`.
    """
    there = {part.tile for part in parts}
    named = there
    if split not in splits.METHODS:
        lists = splits.parse_lists(split)
        for name, tiles in lists.items():
            if absent := sorted(set(tiles) - there):
                raise UserError(
                    f"--{name}: {root} has no tile {', '.join(map(str, absent))}; "
                    f"name tiles that it has: {', '.join(map(str, sorted(there)))}"
                )
        named = set().union(*lists.values())
    return [part for part in parts if part.tile in named], sorted(there - named)


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
    old, new = existing["options"], options.described()
    changed = [_flags(name, old.get(name)) for name in new | old if old.get(name) != new.get(name)]
    if changed:
        return f"was prepared with {' '.join(changed)}"
    return "was prepared from other files or by another version"


def _flags(name: str, value: Any) -> str:
    """The option `name` with this value in a manifest, as the command line sets it."""
    if name == "mosaics":
        return "--mosaics" if value else "no --mosaics"
    if name == "split" and value not in splits.METHODS:
        return splits.as_options(str(value))
    return f"--{name.replace('_', '-')} {value}"


def _source_checksums(parts: Sequence[Part]) -> dict[str, str]:
    """Name of each source file -> SHA-256 of its bytes."""
    return {
        source_name(path): checksum
        for part in parts
        for path, checksum in zip((part.image, part.mask), part.checksums, strict=True)
    }


def _write_arrays(
    folder: Path,
    parts: Sequence[Part],
    mosaics: Sequence[MosaicLayout],
    options: PrepareOptions,
    workers: int | None,
) -> tuple[PatchTable, dict[int, NDArray[np.int64]]]:
    """Writes images.npy and masks.npy, and the same of mosaics where there are any.

    Returns:
        The patches with their splits, and tile -> (7,) pixels per class and of ignore.
    """
    layout = Layout.of(parts, options)
    shape = (len(layout.places), options.stored_size, options.stored_size)
    pixels = sum(mosaic.height * mosaic.width for mosaic in mosaics)
    _check_space(folder, len(layout.places), int(np.prod(shape)) + pixels)
    with (
        ArrayWriter(folder / "images.npy", (*shape, 3)) as images,
        ArrayWriter(folder / "masks.npy", shape) as masks,
    ):
        counts = convert(parts, layout, options, (images, masks), workers)
    split = _assign_splits(options.split, layout, counts)
    if mosaics:
        image_file, mask_file = (folder / name for name in MOSAIC_FILES)
        with (
            ArrayWriter(image_file, (pixels, 3)) as images,
            ArrayWriter(mask_file, (pixels,)) as masks,
        ):
            convert_mosaics(mosaics, options, (images, masks), workers)
    return PatchTable(layout.places, split, counts.patches), counts.tiles


def _check_space(folder: Path, patches: int, pixels: int) -> None:
    """UserError unless arrays of this many pixels fit on the disk of `folder`."""
    needed, free = 4 * pixels, shutil.disk_usage(folder).free  # 3 + 1 bytes per px
    if needed > free:
        raise UserError(
            f"a set of {patches} patches needs {needed / 1e6:.0f} MB, "
            f"and {folder.parent} has {free / 1e6:.0f} MB free"
        )


def _assign_splits(method: str, layout: Layout, counts: PixelCounts) -> list[str]:
    """The split of each patch."""
    if method == "random":
        return splits.at_random(len(layout.places))
    if method == "tiles":
        split_of = splits.by_tiles(counts.tiles)
    else:
        split_of = splits.by_lists(method, counts.tiles)
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
    type=click.Choice(splits.METHODS),
    default="tiles",
    show_default=True,
    help="How patches are assigned to train, val and test. tiles: by whole tiles; tiles that show "
    "the same ground stay together. random: the published protocol, a random fifth of the patches "
    "for val and no test split. random leaks: patches of one image are in both splits. Use it only "
    "to compare with published numbers.",
)
@click.option(
    "--train",
    metavar="TILES",
    default="",
    help="Tiles to train on, for example 4,7,8. Needs --val or --test. With these three lists you "
    "choose the splits yourself. Tiles that show the same ground (in the Dubai set 1 and 3; and 4, "
    "7 and 8) must be in the same list. Tiles in no list are left out of the set.",
)
@click.option("--val", metavar="TILES", default="", help="Tiles to validate on. Needs --train.")
@click.option("--test", metavar="TILES", default="", help="Tiles to test on. Needs --train.")
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
    "--mosaics",
    is_flag=True,
    help="Store each tile as one image too, shrunk by --scale, so that training windows can be "
    "drawn anywhere in it. Cannot be combined with --split random.",
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
    train: str,
    val: str,
    test: str,
    scale: int,
    on_unknown: str,
    mosaics: bool,
    download: bool,
    force: bool,
    workers: int | None,
) -> None:
    """Prepare the raw tiles in RAW for training, as the new folder OUT.

    RAW holds `Tile N/images/image_part_00K.jpg` and `Tile N/masks/image_part_00K.png`. All bad
    files are listed before anything is written. An EXIF orientation is ignored: pixels are used as
    the file stores them. OUT gets images.npy, masks.npy, patches.csv and manifest.json, and with
    --mosaics also mosaic_images.npy and mosaic_masks.npy. An interrupted command never leaves a
    partial set. OUT/overview.png shows the splits, their classes and sample patches; it is no part
    of the set.

    \b
    Examples:
      python -m segmentation.prepare data/raw data/prepared --download
      python -m segmentation.prepare data/raw data/small --scale 4
      python -m segmentation.prepare data/raw data/published --grid crop --split random
      python -m segmentation.prepare data/raw data/half --train 4,7,8 --val 1,3,5 --test 2,6
    """
    if train or val or test:
        lists = f"{train}/{val}/{test}"
        if split == "random":
            raise UserError(
                f"--split random cannot be combined with {splits.as_options(lists)}; "
                "leave out the one or the other"
            )
        split = lists
    options = PrepareOptions(patch_size, grid, split, scale, on_unknown, mosaics)
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
    folder = out.absolute()
    fresh = prepare(raw.absolute(), folder, options, force, workers)
    manifest = find_manifest(folder)
    assert manifest  # `prepare` wrote or checked it
    click.echo(_summary(folder, manifest) + ("" if fresh else "; already prepared, nothing to do"))
    if fresh:
        click.echo(f"\n{overview.share_table(manifest['split']['shares'])}\n")
        click.echo(f"picture: {overview.write(PreparedSet(folder, manifest))}")
    click.echo(f"next: python train.py --data {shlex.quote(str(out))}")


def _summary(out: Path, manifest: Manifest) -> str:
    """What the set in `out` holds, in one line."""
    number, mosaics = manifest["patches"], manifest.get("mosaics")
    text = (
        f"{out}: {number['total']} patches of {manifest['patch_size']} px "
        f"(train {number['train']}, val {number['val']}, test {number['test']})"
    )
    if mosaics:
        text += f" and {len(mosaics)} mosaics"
    if left_out := manifest["split"].get("left_out"):
        text += f"; left out, because no list names them: tiles {', '.join(map(str, left_out))}"
    return text


if __name__ == "__main__":
    main()

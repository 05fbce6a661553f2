"""Raw tiles -> a prepared set: checked, cut into patches, split, and laid out so that training maps it into memory.

    python -m segmentation.prepare RAW OUT

A prepared set is a folder of four files. N patches of p px, ordered by tile, part, row, column:

    images.npy     (N, p, p, 3) uint8 RGB          np.load(path, mmap_mode="r")
    masks.npy      (N, p, p) uint8, class index, 255 = ignore
    patches.csv    index, tile, part, row, column (px in the part, of the patch's top-left corner), split, and the share of
                   the stored patch's pixels per class and of ignore
    manifest.json  format version, options, class and patch counts, how the splits were chosen, the sources' SHA-256, and one
                   checksum over sources and options that names this version of the data;
                   the SHA-256 of each of the other three files, which `PreparedSet.open` compares

The same sources and options give the same bytes, whatever the number of workers.
"""

import csv
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import click
import cv2
import numpy as np
from tqdm import tqdm

from segmentation import splits
from segmentation.errors import UserError, written
from segmentation.labels import CLASSES, COLORS, IGNORE, VALUES, count, encode
from segmentation.prepared import DATA_FILES, FORMAT_VERSION, PreparedSet, checksums
from segmentation.sources import Part, decode, find_parts, find_root, read_bytes
from segmentation.tiling import GRIDS, cut, positions, shrink_images, shrink_masks

DATASET = "humansintheloop/semantic-segmentation-of-aerial-imagery"  # Kaggle, CC0 1.0, 33 MB
FILES = (*DATA_FILES, "manifest.json")
COLUMNS = (*CLASSES, "ignore")


@dataclass(frozen=True)
class Options:
    """What determines a prepared set besides its sources."""

    patch_size: int = 256
    grid: str = "cover"
    split: str = "tiles"
    scale: int = 1
    on_unknown: str = "error"

    def __post_init__(self) -> None:
        if self.patch_size % self.scale:
            raise UserError(
                f"--patch-size {self.patch_size} is no multiple of --scale {self.scale}: a patch shrinks by whole blocks; "
                f"take --patch-size {max(1, round(self.patch_size / self.scale)) * self.scale}"
            )

    @property
    def stored_size(self) -> int:
        """Height and width of a stored patch in px."""
        return self.patch_size // self.scale


class BadInputError(UserError):
    """Files that cannot be used, one line each."""

    def __init__(self, problems: list[str]) -> None:
        noun = "file cannot" if len(problems) == 1 else "files cannot"
        super().__init__("\n  ".join([f"{len(problems)} {noun} be used:", *sorted(problems)]))


def prepare(
    raw: Path, out: Path, options: Options, force: bool = False, workers: int | None = None
) -> bool:
    """Prepare `raw` into the folder `out`; False when it was there already. UserError, one for all bad files, changes nothing.

    The set is written to a hidden folder beside `out` and renamed when it is whole. An existing set made from other sources or
    with other options is replaced only with `force`; a folder that is not a prepared set never is.
    """
    root = find_root(raw)
    existing = _manifest_of(out)
    if existing is None or force:
        _check_place(out)
    parts, problems = find_parts(root, options.patch_size)
    if not (parts or problems):
        raise UserError(f"{root} holds tiles, but no image in any of them")
    if problems:  # the colours of the other files too, so that one run lists all there is to repair
        problems += _convert(parts, options, None, workers)[1]
        raise BadInputError(problems)
    checksum = _checksum(parts, options)
    if existing and not force:
        if existing["checksum"] != checksum:
            raise UserError(
                f"{out} {_difference(existing, options)}; name another folder, or replace it with --force"
            )
        PreparedSet.open(out)  # raises where the set is damaged
        return False
    with written(out), _written_beside(out) as folder:
        _write(parts, options, folder, workers, checksum)
    return True


def _check_place(out: Path) -> None:
    """UserError where the folder `out` cannot be made, before any image is read."""
    with written(out):
        place = out if out.exists() else next(path for path in out.parents if path.exists())
    if not place.is_dir():
        raise UserError(f"cannot write {out}: {place} is not a folder; name another folder")
    parent = out.parent if place == out else place
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {out}: {parent} is not writable; name another folder")


def _manifest_of(out: Path) -> dict | None:
    """The manifest in `out`, None where nothing is there; UserError for a folder that is something else."""
    with written(out), suppress(ValueError):  # not JSON
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return None
        if all((out / name).is_file() for name in FILES):
            manifest = json.loads((out / "manifest.json").read_text())
            if (
                isinstance(manifest, dict)
                and "checksum" in manifest
                and isinstance(manifest.get("options"), dict)
            ):
                return manifest
    raise UserError(f"{out} exists and is not a prepared set; name another folder, or remove it")


def _difference(existing: dict, options: Options) -> str:
    """How the set described by the manifest `existing` differs from what `options` ask for, in words."""
    was, now = existing["options"], asdict(options)
    changed = [
        f"--{name.replace('_', '-')} {was.get(name)}" for name in now if was.get(name) != now[name]
    ]
    if changed:
        return f"was prepared with {' '.join(changed)}"
    return "was prepared from other files or by another version"


def _checksum(parts: list[Part], options: Options) -> str:
    """SHA-256 over everything that determines the set's content: the version of the data, as runs record it."""
    content = [FORMAT_VERSION, asdict(options), CLASSES, COLORS.tolist(), _sources(parts)]
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sources(parts: list[Part]) -> dict[str, str]:
    """Source file -> SHA-256 of its bytes."""
    files = (
        (path, checksum)
        for part in parts
        for path, checksum in zip((part.image, part.mask), part.checksums, strict=True)
    )
    return {_name(path): checksum for path, checksum in files}


@contextmanager
def _written_beside(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that takes its place when the block ends well, and vanishes when it does not.

    What a killed run left there is swept away by the next one. The lock keeps two runs at once from sharing it, and ends with
    its process.
    """
    beside, old = (out.with_name(f".{out.name}.{word}") for word in ("partial", "replaced"))
    beside.mkdir(parents=True, exist_ok=True)
    lock = os.open(beside, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run is preparing {out} just now; wait for it to end"
            ) from None
        for path in beside.iterdir():
            path.unlink()
        shutil.rmtree(old, ignore_errors=True)
        try:
            yield beside
            if out.exists():
                out.rename(old)
            beside.rename(out)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)


class _Store:
    """An uncompressed .npy file that many threads fill: `put` writes rows in place, without ever mapping or holding the whole."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.flush()
        self._start, self._row = self._file.tell(), int(np.prod(shape[1:]))

    def put(self, first: int, rows: np.ndarray) -> None:
        """Write `rows`, (n, ...) uint8, as rows first to first + n."""
        view = memoryview(np.ascontiguousarray(rows)).cast("B")
        offset = self._start + first * self._row
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[written:], offset + written

    def close(self) -> None:
        self._file.close()


@dataclass
class _Converted:
    """What is kept of a part once its patches are stored."""

    raw: np.ndarray  # (7,) int64: pixels per class and of ignore, of the whole mask
    stored: np.ndarray  # (n, 7) int64: the same of each stored patch


def _write(
    parts: list[Part], options: Options, folder: Path, workers: int | None, checksum: str
) -> None:
    """Fill `folder` with the four files of a prepared set."""
    total = sum(
        len(positions(part.height, part.width, options.patch_size, options.grid)) for part in parts
    )
    shape = (total, options.stored_size, options.stored_size)
    needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{total} patches need {needed / 1e6:.0f} MB, and {folder.parent} has {free / 1e6:.0f} MB free"
        )
    stores = _Store(folder / "images.npy", (*shape, 3)), _Store(folder / "masks.npy", shape)
    try:
        converted, problems = _convert(parts, options, stores, workers)
    finally:
        for store in stores:
            store.close()
    if problems:
        raise BadInputError(problems)
    raw: dict[int, np.ndarray] = {}
    for part, result in zip(parts, converted, strict=True):
        raw[part.tile] = raw.get(part.tile, 0) + result.raw
    stored = np.concatenate([result.stored for result in converted])
    where = [
        (part.tile, part.part, *position)
        for part in parts
        for position in positions(
            part.height, part.width, options.patch_size, options.grid
        ).tolist()
    ]
    if options.split == "tiles":
        split_of = splits.by_tiles(raw)
        split = [split_of[tile] for tile, *_ in where]
    else:
        split = splits.at_random(total)
    _write_table(folder / "patches.csv", where, split, stored)
    manifest = _manifest(options, where, split, stored, raw)
    manifest |= {"sources": _sources(parts), "checksum": checksum, "files": checksums(folder)}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _convert(
    parts: list[Part], options: Options, stores: tuple[_Store, _Store] | None, workers: int | None
) -> tuple[list[_Converted], list[str]]:
    """Decode, label, cut, shrink and store every part, in parallel; without stores it only looks for problems.

    Threads, not processes: OpenCV, NumPy and the writes let go of the interpreter lock (on two cores, two threads spend what
    one spends, in half the time), and nothing is copied between processes. One OpenCV thread each: the parts are the parallelism.
    """
    first, start = {}, 0
    for part in parts:
        first[part] = start
        start += len(positions(part.height, part.width, options.patch_size, options.grid))
    results, problems = {}, []
    workers = workers or min(
        8, len(os.sched_getaffinity(0))
    )  # a worker holds about 60 MB of the largest real part
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(workers) as pool:
        by_size = sorted(
            parts, key=lambda part: -part.height * part.width
        )  # the largest first: none is left for the end
        jobs = {
            pool.submit(_convert_part, part, options, stores, first[part]): part for part in by_size
        }
        try:
            for job in tqdm(
                as_completed(jobs), total=len(jobs), desc="prepare", unit="part", disable=None
            ):
                try:
                    results[jobs[job]] = job.result()
                except UserError as error:
                    problems.append(error.message)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [results[part] for part in parts if part in results], problems


def _convert_part(
    part: Part, options: Options, stores: tuple[_Store, _Store] | None, first: int
) -> _Converted:
    """One part, whose first patch is number `first` of the set."""
    mask = encode(_read(part.mask, part), _name(part.mask), options.on_unknown)
    image = _read(part.image, part)
    raw = count(mask)
    if stores is None:
        return _Converted(raw, np.empty((0, len(VALUES)), np.int64))
    masks, _ = cut(mask, options.patch_size, options.grid)
    images, _ = cut(image, options.patch_size, options.grid)
    if options.scale > 1:
        images, masks = (
            shrink_images(images, options.scale),
            shrink_masks(masks, options.scale, VALUES),
        )
    for store, rows in zip(stores, (images, masks), strict=True):
        store.put(first, rows)
    return _Converted(raw, np.stack([count(patch) for patch in masks]))


def _read(path: Path, part: Part) -> np.ndarray:
    """(h, w, 3) uint8 RGB of one of the part's files."""
    name = _name(path)
    pixels = decode(read_bytes(path, name), name)
    if pixels.shape[:2] != (part.height, part.width):
        raise UserError(f"{name}: changed while it was read")
    return pixels


def _name(path: Path) -> str:
    """A source file as messages and the manifest call it: tile, kind and file."""
    return "/".join(path.parts[-3:])


def _write_table(path: Path, where: list[tuple], split: list[str], stored: np.ndarray) -> None:
    """patches.csv: one row a patch, in the order of the arrays."""
    shares = stored / stored.sum(axis=1, keepdims=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["index", "tile", "part", "row", "column", "split", *COLUMNS])
        for index, (place, name, share) in enumerate(
            zip(where, split, shares.tolist(), strict=True)
        ):
            table.writerow([index, *place, name, *(f"{value:.6f}" for value in share)])


def _manifest(
    options: Options,
    where: list[tuple],
    split: list[str],
    stored: np.ndarray,
    raw: dict[int, np.ndarray],
) -> dict:
    """manifest.json, but for the sources and the checksum."""
    split_array = np.array(split)
    pixels = {name: stored[split_array == name].sum(axis=0) for name in splits.SPLITS}
    tiles = {
        name: sorted({tile for (tile, *_), each in zip(where, split, strict=True) if each == name})
        for name in splits.SPLITS
    }
    return {
        "format_version": FORMAT_VERSION,
        "options": asdict(options),
        "classes": list(CLASSES),
        "colors": ["#" + bytes(color).hex().upper() for color in COLORS],
        "ignore": IGNORE,
        "patch_size": options.stored_size,
        "patches": {"total": len(split), **{name: split.count(name) for name in splits.SPLITS}},
        "pixels": {
            "raw": _by_class(sum(raw.values())),
            **{name: _by_class(counts) for name, counts in pixels.items()},
        },
        "split": {
            "method": options.split,
            "tiles": tiles,
            "overlapping": [list(group) for group in splits.groups(sorted(raw)) if len(group) > 1],
            "shares": {
                name: _by_class(counts / max(1, counts.sum())) for name, counts in pixels.items()
            },
        },
        "leaks": options.split == "random",
    }


def _by_class(values: np.ndarray) -> dict[str, int | float]:
    """Seven numbers -> class name -> number, as JSON has them."""
    return dict(zip(COLUMNS, np.round(values, 6).tolist(), strict=True))


def _download(raw: Path) -> None:
    """Fetch the real set from Kaggle into `raw`, through kagglehub, which needs no account for public data sets."""
    try:
        import kagglehub  # only here: its import takes a second that no other use should pay

        kagglehub.dataset_download(DATASET, output_dir=str(raw))
    except Exception as error:  # whatever it was (network, Kaggle, disk), the way out is the same
        raise UserError(
            f"could not download the data set: {' '.join(str(error).split()) or type(error).__name__}\n"
            f"Fetch it by hand from https://www.kaggle.com/datasets/{DATASET}, unpack it as {raw}, and leave --download out."
        ) from error


@click.command()
@click.argument("raw", type=click.Path(file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--patch-size",
    type=click.IntRange(8, 4096),
    default=256,
    show_default=True,
    help="Side of a patch, in px of the source.",
)
@click.option(
    "--grid",
    type=click.Choice(sorted(GRIDS)),
    default="cover",
    show_default=True,
    help="cover: the last row and column shift inwards, every pixel is used. crop: top-left multiples of the patch size, "
    "the published protocol; 1305 patches of 256 px on the real set.",
)
@click.option(
    "--split",
    type=click.Choice(["tiles", "random"]),
    default="tiles",
    show_default=True,
    help="tiles: train, val and test by whole tiles, those that overlap on the ground together. random: the published "
    "protocol, a fifth of the patches with seed 42 to val; it leaks, and is for comparing with published numbers only.",
)
@click.option(
    "--scale",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Shrink each patch by this factor: same grid and field of view, fewer pixels. Images by area average; masks by "
    "majority (ignore counts like a class; ties go to the class that is listed first, and to ignore last).",
)
@click.option(
    "--on-unknown",
    type=click.Choice(["error", "ignore"]),
    default="error",
    show_default=True,
    help="What to do with a mask colour that is no class's: stop and list them, or ignore those pixels.",
)
@click.option(
    "--download",
    is_flag=True,
    help="First fetch the real set from Kaggle into RAW, if RAW does not exist.",
)
@click.option(
    "--force", is_flag=True, help="Replace a prepared set in OUT, whatever it was made from."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Threads; the result is the same. Default: one a core, at most 8.",
)
def main(raw: Path, out: Path, download: bool, force: bool, workers: int | None, **options) -> None:
    """Turn the raw tiles in RAW into a prepared set in the new folder OUT.

    RAW holds `Tile N/images/image_part_00K.jpg` and `Tile N/masks/image_part_00K.png`. Every file is checked first and all bad
    ones are listed at once. Images are taken as their files store them: an EXIF orientation is ignored. OUT gets
    images.npy, masks.npy, patches.csv and manifest.json, all of them or none.

    \b
    Examples:
      python -m segmentation.prepare data/raw data/prepared --download
      python -m segmentation.prepare data/raw data/small --scale 4
      python -m segmentation.prepare data/raw data/published --grid crop --split random
    """
    chosen = Options(**options)
    try:
        there = raw.exists()
    except OSError as error:  # a name that no file can have
        raise UserError(
            f"RAW cannot be {raw}: {error.strerror}; name the folder of the tiles"
        ) from error
    if download and not there:
        _download(raw)
    if not raw.is_dir():
        raise UserError(f"{raw} does not exist; --download fetches the real set there")
    out = out.absolute()
    fresh = prepare(raw.absolute(), out, chosen, force, workers)
    manifest = json.loads((out / "manifest.json").read_text())
    number = manifest["patches"]
    click.echo(
        f"{out}: {number['total']} patches of {manifest['patch_size']} px "
        f"(train {number['train']}, val {number['val']}, test {number['test']})"
        + ("" if fresh else "; already prepared, nothing to do")
    )


if __name__ == "__main__":
    main()

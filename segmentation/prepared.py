"""The format of a prepared set: everything that writes or reads its files.

A prepared set is a folder of four files. It holds N patches of p x p px, in ascending order of
tile, part, row and column:

    images.npy     (N, p, p, 3) uint8 RGB
    masks.npy      (N, p, p) uint8 class indices, 255 = ignore
    patches.csv    one row per patch: index, tile, part, row and column of its top-left pixel in the
                   part, split, and the share of its pixels per class and of ignore
    manifest.json  see `write_description`

The same source files and options give the same bytes. This module needs no OpenCV, so training and
analysis import it quickly.
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from hashlib import file_digest, sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmentation import splits
from segmentation.errors import UserError, written
from segmentation.labels import CLASSES, COLORS, IGNORE

FORMAT_VERSION = 1
"""Stands in manifest.json. A set of another version has to be prepared again."""

DATA_FILES = ("images.npy", "masks.npy", "patches.csv")
"""The files whose SHA-256 the manifest holds."""

MOSAIC_FILES = ("mosaic_images.npy", "mosaic_masks.npy")
"""The same, for the two more files of a set with mosaics."""

FILES = (*DATA_FILES, "manifest.json")

COLUMNS = (*CLASSES, "ignore")
"""Names of the seven pixel counts or shares, in the order of `labels.VALUES`."""

Manifest = dict[str, Any]
"""The contents of manifest.json."""

_KEYS = {"checksum": str, "options": dict, "patch_size": int, "patches": dict, "files": dict}
"""The keys of the manifest that are read, and the type of each value."""


@dataclass(frozen=True)
class PrepareOptions:
    """What determines a prepared set besides its source files.

    Raises:
        UserError: `patch_size` is not a multiple of `scale`.
    """

    patch_size: int = 256  # side of a patch in px of the source image
    grid: str = "cover"  # a key of `tiling.GRIDS`
    split: str = "tiles"  # `tiles` or `random`
    scale: int = 1  # patches are stored at 1 / scale of their size
    on_unknown: str = "error"  # `error` or `ignore`: mask colours that belong to no class

    def __post_init__(self) -> None:
        if self.patch_size % self.scale:
            nearest = max(1, round(self.patch_size / self.scale)) * self.scale
            raise UserError(
                f"--patch-size {self.patch_size} is not a multiple of --scale {self.scale}, "
                f"and patches shrink by whole blocks; take --patch-size {nearest}"
            )

    @property
    def stored_size(self) -> int:
        """Height and width of a stored patch in px."""
        return self.patch_size // self.scale


@dataclass(frozen=True)
class PatchTable:
    """What patches.csv holds, in the order of the arrays. N is the number of patches."""

    places: NDArray[np.int64]  # (N, 4): tile, part, row, column
    split: list[str]  # N names of splits
    pixels: NDArray[np.int64]  # (N, 7): pixels per class and of ignore in the stored patch


@dataclass(frozen=True)
class Mosaic:
    """One image of whole ground at the set's scale: a tile, or a part whose tile has no mosaic."""

    tile: int
    image: NDArray[np.uint8]  # (h, w, 3) RGB, memory-mapped
    mask: NDArray[np.uint8]  # (h, w) class indices, 255 = ignore, memory-mapped


class ArrayWriter:
    """Writes an uncompressed .npy file of uint8, from several threads, without loading the file."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        write_header = np.lib.format.write_array_header_1_0
        write_header(self._file, header)  # type: ignore[no-untyped-call] # NumPy's own omission
        self._file.flush()
        self._start, self._row_bytes = self._file.tell(), int(np.prod(shape[1:]))

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def write_rows(self, first: int, rows: NDArray[np.uint8]) -> None:
        """Writes `rows`, (n, ...) uint8, as rows first to first + n of the array."""
        view = np.ascontiguousarray(rows).data.cast("B")
        offset = self._start + first * self._row_bytes
        while view:
            count = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[count:], offset + count


def write_description(
    folder: Path,
    options: PrepareOptions,
    table: PatchTable,
    tile_pixels: Mapping[int, NDArray[np.int64]],
    sources: Mapping[str, str],
) -> None:
    """Writes patches.csv and manifest.json beside the two arrays, which must be complete.

    The manifest holds:

    - the version of the format, the options, the classes with their colours
    - the numbers of patches and of pixels per class, for the whole set and per split
    - how the splits were chosen, and whether they leak
    - the SHA-256 of each source file, and `checksum`, which names this version of the data
    - the SHA-256 of each of the three other files

    Args:
        folder: The folder of the set.
        options: The options that the set was made with.
        table: The patches.
        tile_pixels: Tile -> (7,) pixels per class and of ignore, of the whole masks.
        sources: Name of each source file -> its SHA-256.
    """
    _write_table(folder / "patches.csv", table)
    manifest = _counts(options, table, tile_pixels)
    manifest |= {
        "sources": dict(sources),
        "checksum": data_checksum(sources, options),
        "files": file_checksums(folder),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _write_table(path: Path, table: PatchTable) -> None:
    """Writes patches.csv."""
    shares = table.pixels / table.pixels.sum(axis=1, keepdims=True)
    rows = zip(table.places.tolist(), table.split, shares.tolist(), strict=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "tile", "part", "row", "column", "split", *COLUMNS])
        for index, (place, split, values) in enumerate(rows):
            writer.writerow([index, *place, split, *(f"{value:.6f}" for value in values)])


def _counts(
    options: PrepareOptions, table: PatchTable, tile_pixels: Mapping[int, NDArray[np.int64]]
) -> Manifest:
    """The manifest without checksums."""
    split, tile = np.array(table.split), table.places[:, 0]
    pixels = {name: table.pixels[split == name].sum(axis=0) for name in splits.SPLITS}
    groups = splits.groups(sorted(tile_pixels))
    return {
        "format_version": FORMAT_VERSION,
        "options": asdict(options),
        "classes": list(CLASSES),
        "colors": ["#" + bytes(color).hex().upper() for color in COLORS],
        "ignore": IGNORE,
        "patch_size": options.stored_size,
        "patches": {
            "total": len(table.split),
            **{name: table.split.count(name) for name in splits.SPLITS},
        },
        "pixels": {
            "raw": _by_class(np.sum(list(tile_pixels.values()), axis=0)),
            **{name: _by_class(counts) for name, counts in pixels.items()},
        },
        "split": {
            "method": options.split,
            "tiles": {name: np.unique(tile[split == name]).tolist() for name in splits.SPLITS},
            "overlapping": [list(group) for group in groups if len(group) > 1],
            "shares": {
                name: _by_class(counts / max(1, counts.sum())) for name, counts in pixels.items()
            },
        },
        "leaks": options.split == "random",
    }


def _by_class(values: NDArray[np.int64] | NDArray[np.float64]) -> dict[str, float]:
    """Seven numbers -> name of class -> number, rounded to six decimals."""
    return dict(zip(COLUMNS, np.round(values, 6).tolist(), strict=True))


def data_checksum(sources: Mapping[str, str], options: PrepareOptions) -> str:
    """SHA-256 over everything that determines the set. Runs record it as the data's version."""
    content = [FORMAT_VERSION, asdict(options), CLASSES, COLORS.tolist(), dict(sources)]
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_checksums(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the set's data files."""
    with ThreadPoolExecutor(len(DATA_FILES)) as pool:  # hashing releases the interpreter lock
        checksums = pool.map(lambda name: _checksum(folder / name), DATA_FILES)
        return dict(zip(DATA_FILES, checksums, strict=True))


def _checksum(path: Path) -> str:
    """SHA-256 of a file, computed once per process as long as the file does not change."""
    state = path.stat()
    return _checksum_of_state(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _checksum_of_state(path: Path, *_state: int) -> str:
    """SHA-256 of a file. Another inode, size or time of change in `_state` misses the cache."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def find_manifest(folder: Path) -> Manifest | None:
    """The manifest of a set of any version in `folder`; None where the folder is absent or empty.

    Raises:
        UserError: `folder` holds something else, or cannot be read.
    """
    with written(folder), suppress(ValueError):  # neither JSON nor UTF-8
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return None
        if all((folder / name).is_file() for name in FILES):
            manifest = json.loads((folder / "manifest.json").read_text())
            if (
                isinstance(manifest, dict)
                and "checksum" in manifest
                and isinstance(manifest.get("options"), dict)
            ):
                return manifest
    raise UserError(f"{folder} exists and is not a prepared set; name another folder, or remove it")


@dataclass(frozen=True)
class PreparedSet:
    """A prepared set, opened for reading."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path | str) -> "PreparedSet":
        """Opens the prepared set in `folder` after comparing its files with the checksums.

        The comparison takes 0.3 s for the 505 MB of the Dubai set, once per process and file.
        Afterwards the arrays and the table hold what `prepare` wrote. Shapes, numbers of rows and
        class indices need no further checks.

        Raises:
            UserError: There is no set, or it is damaged, incomplete or of another version.
        """
        folder = Path(folder)
        file = folder / "manifest.json"
        repair = (
            f"remove {folder} and prepare it again: python -m segmentation.prepare RAW {folder}"
        )
        try:
            if not file.is_file():
                raise UserError(
                    f"{folder} holds no prepared set; "
                    f"make one: python -m segmentation.prepare RAW {folder}"
                )
            manifest = _read_manifest(file, repair)
            for name in DATA_FILES:
                if not (folder / name).is_file():
                    raise UserError(f"{folder / name} is missing; {repair}")
            checksums = file_checksums(folder)
        except OSError as error:
            raise UserError(
                f"{error.filename or folder} cannot be read: {error.strerror}"
            ) from error
        for name in DATA_FILES:
            if checksums[name] != manifest["files"].get(name):
                raise UserError(
                    f"{folder / name} is not the file that was prepared: "
                    f"it is damaged or was replaced; {repair}"
                )
        return cls(folder, manifest)

    @property
    def patch_size(self) -> int:
        """Height and width of a stored patch in px."""
        return int(self.manifest["patch_size"])

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """(N, p, p, 3) uint8 RGB, memory-mapped.

        Never shorten a file of a set in place: a process that has it mapped dies of SIGBUS.
        `prepare` renames whole folders instead, and a mapping outlives the name of its file.
        """
        return self._mapped("images.npy")

    @cached_property
    def masks(self) -> NDArray[np.uint8]:
        """(N, p, p) uint8 class indices, 255 = ignore, memory-mapped."""
        return self._mapped("masks.npy")

    @cached_property
    def patches(self) -> list[dict[str, str]]:
        """The rows of patches.csv: column -> text, one row per patch."""
        with (self.folder / "patches.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    @cached_property
    def tiles(self) -> NDArray[np.int64]:
        """(N,) int64: the tile of each patch."""
        return np.array([int(row["tile"]) for row in self.patches], dtype=np.int64)

    @property
    def places(self) -> list[tuple[int, ...]]:
        """The tiles of the set, grouped by the ground that they show; sorted."""
        return splits.groups(np.unique(self.tiles).tolist())

    def has(self, split: str) -> bool:
        """Whether the split has patches."""
        return any(row["split"] == split for row in self.patches)

    def indices(self, split: str) -> NDArray[np.int64]:
        """(n,) int64: the indices of the split's patches, ascending.

        Raises:
            UserError: The split has no patches.
        """
        chosen = [index for index, row in enumerate(self.patches) if row["split"] == split]
        if not chosen:
            raise UserError(
                f"{self.folder} has no {split} patches; prepare it with another --split"
            )
        return np.array(chosen, dtype=np.int64)

    def indices_of(self, tiles: Sequence[int]) -> NDArray[np.int64]:
        """(n,) int64: the indices of the patches of these tiles in any split, ascending.

        Raises:
            UserError: A tile is not in the set.
        """
        there = np.unique(self.tiles).tolist()
        if unknown := sorted(set(tiles) - set(there)):
            raise UserError(
                f"{self.folder} has no tile {', '.join(map(str, unknown))}; "
                f"name tiles that it has: {', '.join(map(str, there))}"
            )
        return np.flatnonzero(np.isin(self.tiles, list(tiles))).astype(np.int64)

    def mosaics(self, split: str) -> list[Mosaic]:
        """The mosaics of the split's tiles, ascending by tile.

        Raises:
            UserError: The set holds no mosaics, or the split has no patches.
        """
        if "mosaics" not in self.manifest:
            raise UserError(
                f"{self.folder} holds no mosaics; prepare a set that does, with --mosaics"
            )
        tiles = set(self.tiles[self.indices(split)].tolist())
        images, masks = (self._mapped(name) for name in MOSAIC_FILES)
        found = []
        for entry in self.manifest["mosaics"]:
            if entry["tile"] in tiles:
                shape = entry["height"], entry["width"]
                pixels = slice(entry["first"], entry["first"] + shape[0] * shape[1])
                image, mask = images[pixels].reshape(*shape, 3), masks[pixels].reshape(shape)
                found.append(Mosaic(entry["tile"], image, mask))
        return found

    def _mapped(self, name: str) -> NDArray[np.uint8]:
        array: NDArray[np.uint8] = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        return array


def _read_manifest(file: Path, repair: str) -> Manifest:
    """The manifest in `file`.

    Raises:
        UserError: This version cannot read the manifest. The message ends with `repair`.
    """
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # neither JSON nor UTF-8
        manifest = None
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise UserError(f"{file} is damaged; {repair}")
    if manifest["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"{file} has format {manifest['format_version']}, and this version reads format "
            f"{FORMAT_VERSION}; {repair}"
        )
    if "files" not in manifest:
        raise UserError(f"{file} has no checksums: an older version made this set; {repair}")
    if not all(isinstance(manifest.get(key), kind) for key, kind in _KEYS.items()):
        raise UserError(f"{file} is damaged; {repair}")
    return manifest

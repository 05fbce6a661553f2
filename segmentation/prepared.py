"""The prepared set: what `segmentation.prepare` wrote, checked and mapped. Without OpenCV, so importing it is cheap."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import file_digest
from pathlib import Path

import numpy as np

from segmentation.errors import UserError

FORMAT_VERSION = 1  # of the prepared set; `prepare` writes the same number into manifest.json
DATA_FILES = ("images.npy", "masks.npy", "patches.csv")
"""The files of a prepared set whose SHA-256 the manifest holds."""

_KEYS = {"checksum": str, "options": dict, "patch_size": int, "patches": dict, "files": dict}
"""What is read of the manifest, and the type of each value."""


@dataclass(frozen=True)
class PreparedSet:
    """What `segmentation.prepare` made. Patches are mapped when first used."""

    folder: Path
    manifest: dict

    @classmethod
    def open(cls, folder: Path | str) -> "PreparedSet":
        """The prepared set in `folder`, after all of its files were compared with the SHA-256 in the manifest.

        The comparison takes 0.3 s for the 505 MB of the real set, once per process and file. With it arrays and table
        hold what `prepare` wrote, so shapes, numbers of rows and class indices need no further checks.

        Raises:
            UserError: There is no set, or it is damaged, incomplete or of another version.
        """
        folder = Path(folder)
        file = folder / "manifest.json"
        again = f"remove {folder} and prepare it again: python -m segmentation.prepare RAW {folder}"
        try:
            if not file.is_file():
                raise UserError(
                    f"{folder} holds no prepared set; make one: python -m segmentation.prepare RAW {folder}"
                )
            manifest = _manifest(file, again)
            for name in DATA_FILES:
                if not (folder / name).is_file():
                    raise UserError(f"{folder / name} is missing; {again}")
            found = checksums(folder)
        except OSError as error:
            raise UserError(
                f"{error.filename or folder} cannot be read: {error.strerror}"
            ) from error
        for name in DATA_FILES:
            if found[name] != manifest["files"].get(name):
                raise UserError(
                    f"{folder / name} is not the file that was prepared: damaged or exchanged; {again}"
                )
        return cls(folder, manifest)

    @property
    def patch_size(self) -> int:
        """Height and width of a stored patch in pixels."""
        return self.manifest["patch_size"]

    @cached_property
    def images(self) -> np.ndarray:
        """(patches, h, w, 3) uint8 RGB, memory-mapped.

        A file that is shortened in place while it is mapped kills the process with SIGBUS. `prepare` never does that:
        it renames whole folders, and a mapped file outlives its name. Reading without a map would copy every patch
        that the figures only look at.
        """
        return np.load(self.folder / "images.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def masks(self) -> np.ndarray:
        """(patches, h, w) uint8 class indices, 255 = ignore, memory-mapped."""
        return np.load(self.folder / "masks.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def patches(self) -> list[dict[str, str]]:
        """The rows of patches.csv, one per patch: where it lies, its split, its class shares."""
        with (self.folder / "patches.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def indices(self, split: str) -> np.ndarray:
        """Ascending int64 indices of the split's patches. UserError where it has none."""
        found = np.array(
            [i for i, row in enumerate(self.patches) if row["split"] == split], dtype=np.int64
        )
        if not len(found):
            raise UserError(
                f"{self.folder} has no {split} patches; prepare it with another --split"
            )
        return found


def checksums(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the set's data files."""
    with ThreadPoolExecutor(len(DATA_FILES)) as pool:  # hashing runs outside the interpreter lock
        return dict(
            zip(
                DATA_FILES, pool.map(lambda name: _checksum(folder / name), DATA_FILES), strict=True
            )
        )


def _checksum(path: Path) -> str:
    state = path.stat()
    return _checksum_of_state(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _checksum_of_state(path: Path, *_state: int) -> str:
    """SHA-256 of a file, computed once per process unless the file's inode, size or time of change differ."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _manifest(file: Path, again: str) -> dict:
    """The manifest in `file`. UserError, which ends with the next step `again`, where this version cannot read it."""
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # neither JSON nor UTF-8
        manifest = None
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise UserError(f"{file} is damaged; {again}")
    if manifest["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"{file} is of format {manifest['format_version']}, this version reads {FORMAT_VERSION}; {again}"
        )
    if "files" not in manifest:
        raise UserError(
            f"{file} has no checksums of the arrays: an older version made this set; {again}"
        )
    if not all(isinstance(manifest.get(key), kind) for key, kind in _KEYS.items()):
        raise UserError(f"{file} is damaged; {again}")
    return manifest

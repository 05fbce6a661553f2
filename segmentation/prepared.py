"""The prepared set, read: what `segmentation.prepare` wrote, opened without loading it. NumPy only, so that it costs nothing."""

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

FORMAT_VERSION = 1  # of the prepared set; `prepare` writes the same number into manifest.json


@dataclass(frozen=True)
class PreparedSet:
    """What `segmentation.prepare` made. Opening it reads the manifest alone; patches are mapped when first used."""

    folder: Path
    manifest: dict

    @classmethod
    def open(cls, folder: Path | str) -> "PreparedSet":
        """The prepared set in `folder`; FileNotFoundError or ValueError with the way out where there is none or another one."""
        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            raise FileNotFoundError(f"{folder} holds no prepared set; make one: python -m segmentation.prepare RAW {folder}")
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"{folder} is of format {manifest['format_version']}, this version reads {FORMAT_VERSION}; "
                f"prepare it again: python -m segmentation.prepare RAW {folder} --force"
            )
        return cls(folder, manifest)

    @property
    def patch_size(self) -> int:
        """Height and width of a stored patch in pixels."""
        return self.manifest["patch_size"]

    @cached_property
    def images(self) -> np.ndarray:
        """(patches, h, w, 3) uint8 RGB, memory-mapped."""
        return np.load(self.folder / "images.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def masks(self) -> np.ndarray:
        """(patches, h, w) uint8 class indices, 255 = ignore, memory-mapped."""
        return np.load(self.folder / "masks.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def patches(self) -> list[dict[str, str]]:
        """The rows of patches.csv, one a patch: where it lies, its split, its class shares."""
        with (self.folder / "patches.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def indices(self, split: str) -> np.ndarray:
        """Ascending int64 indices of the split's patches; ValueError where it has none."""
        found = np.array([i for i, row in enumerate(self.patches) if row["split"] == split], dtype=np.int64)
        if not len(found):
            raise ValueError(f"{self.folder} has no {split} patches; prepare it with another --split")
        return found

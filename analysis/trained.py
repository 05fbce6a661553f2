"""Trained models: finds the weights that a user names, and opens them as functions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis import reader, weights
from analysis.blending import Model
from analysis.results import Results
from analysis.runs import Run
from segmentation import model_facts
from segmentation.errors import UserError
from segmentation.labels import NUM_CLASSES
from segmentation.prepared import PreparedSet

SIZE = 256
"""Side in px of the patches of a model that takes any size, if its run is not known."""


@dataclass(frozen=True)
class Weights:
    """A .keras file, and what is known about its training."""

    file: Path
    scale: int | None = None  # factor by which the training images were shrunk; None if unknown
    size: int | None = None  # side of the training patches or windows in px; None if unknown
    checksum: str | None = None  # of the prepared set; None if unknown
    split: str = ""  # option of the prepared set; empty if unknown
    epoch: int | None = None  # after which the weights were saved; None if unknown

    @classmethod
    def of_run(cls, file: Path, run: Run, kind: str = "best") -> "Weights":
        """The `kind` weights in `file`, which `run` trained.

        The facts in the file count. A file of an older version has none: then those of the run.
        """
        if facts := model_facts.read(file):
            return cls(file, facts.scale, facts.size, facts.checksum, facts.split, facts.epoch)
        options = run.data_options
        scale, patch = options.get("scale"), options.get("patch_size")
        size = run.config.get("window") or (int(patch) // int(scale or 1) if patch else None)
        return cls(
            file,
            int(scale) if scale else None,
            size,
            run.data.get("checksum"),
            str(options.get("split", "")),
            run.best_epoch if kind == "best" else run.config.get("keep_epoch"),
        )

    def __str__(self) -> str:
        """The file, its epoch, and the resolution at which the model was trained."""
        epoch = f"epoch {self.epoch}" if self.epoch else "epoch unknown"
        scale = f"scale {self.scale}" if self.scale else "scale unknown"
        size = f"patches of {self.size} px" if self.size else "patch size unknown"
        return f"{self.file}: {epoch}, {scale}, {size}"

    def training_tiles(self, prepared: PreparedSet) -> list[int]:
        """The tiles on which the model was trained; empty if that is unknown.

        They are known if `prepared` is the run's set, or if the run's set names its tiles.
        """
        if self.checksum == prepared.manifest["checksum"]:
            return list(prepared.manifest["split"]["tiles"]["train"])
        # lists of tiles are "TRAIN/VAL/TEST", for example "4,7,8/1,3,5/2,6"
        return [int(tile) for tile in re.findall(r"\d+", self.split.partition("/")[0])]


def find(source: str, kind: str, folder: Path, checkpoints: Path) -> Weights:
    """The weights that `source` names.

    Args:
        source: Results folder, .keras file, folder of a checkpoint such as runs/ID, or the path of
            a run or an artifact in W&B.
        kind: `best` or `kept`.
        folder: Folder whose `cache` keeps what is fetched from W&B.
        checkpoints: Folder in which train.py made one folder per run id.

    Raises:
        UserError: There are no such weights.
    """
    path = Path(source)
    if (path / "state.json").is_file():
        return Weights.of_run(weights.of_checkpoint(path, kind), reader.read_checkpoint(path), kind)
    if path.is_dir():
        results = Results.open(path, checkpoints=checkpoints)
        return Weights.of_run(results.weights("best", kind), results.best, kind)
    if path.suffix == ".keras":
        if not path.is_file():
            raise UserError(f"{path} does not exist")
        return Weights.of_run(path, Run(path.stem), kind)
    return Weights.of_run(*weights.find_by_path(source, kind, folder / "cache", checkpoints), kind)


def open_model(file: Path) -> tuple[Model, int | None]:
    """The model in a .keras file as a function, and the size of its patches in px.

    The size is None for a model that takes patches of any size.

    Raises:
        UserError: The file holds no model, or one of another number of classes.
    """
    from analysis.evaluations import load_model  # imports Keras, which takes seconds

    model: Any = load_model(file)
    classes = model.output_shape[-1]
    if classes != NUM_CLASSES:
        raise UserError(f"{file} predicts {classes} classes, but this project has {NUM_CLASSES}")
    return lambda patches: np.asarray(model.predict_on_batch(patches)), model.input_shape[1]


def open_models(found: Sequence[Weights], patch_size: int | None = None) -> tuple[list[Model], int]:
    """The models as functions, and the side in px of the patches that all of them predict.

    A model that takes any size gets patches as large as in its training, or of SIZE px if that is
    not known.

    Args:
        found: The weights, at least one.
        patch_size: Side that the patches have in any case. None: what suits the models.

    Raises:
        UserError: The models need patches of different sizes, or of another size than `patch_size`.
    """
    models, sizes = [], []
    for entry in found:
        model, fixed = open_model(entry.file)
        models.append(model)
        sizes.append(fixed or patch_size or entry.size or SIZE)
    listed = ", ".join(f"{entry.file}: {size} px" for entry, size in zip(found, sizes, strict=True))
    if len(set(sizes)) > 1:
        raise UserError(
            f"the models need patches of different sizes ({listed}); "
            "name models that were trained on patches of one size"
        )
    if patch_size and sizes[0] != patch_size:
        raise UserError(
            f"the set has patches of {patch_size} px, but the models need another size ({listed}); "
            "name the set that they were trained on with --data"
        )
    return models, sizes[0]

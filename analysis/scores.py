"""Tables of scores per place and pooled, from confusion matrices: printed, or written to a folder.

Pooled means that the confusion matrices of all places are added, and each score is computed once.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from analysis import weights
from analysis.evaluations import Place
from analysis.sections import Table
from segmentation import metrics
from segmentation.errors import UserError, written
from segmentation.labels import CLASSES

HEADER = (
    *("predicted by", "tiles", "pixels", "accuracy", "mean_iou", "mean_iou_labeled"),
    *(f"iou/{name}" for name in CLASSES),
)


@dataclass(frozen=True)
class Score:
    """The scores of one model on one place, or on several places pooled."""

    model: str
    tiles: str
    confusion: NDArray[np.int64]
    """(classes, classes), row = truth, column = prediction."""

    def row(self) -> tuple[str | int | float, ...]:
        """The cells of HEADER. Undefined scores are NaN."""
        return (
            self.model,
            self.tiles,
            int(self.confusion.sum()),
            metrics.accuracy(self.confusion),
            metrics.mean_iou(self.confusion),
            metrics.mean_iou(self.confusion, unlabeled=False),
            *metrics.iou(self.confusion).tolist(),
        )

    def record(self) -> dict[str, Any]:
        """The row as a JSON object, with the confusion matrix. Undefined scores are null."""
        cells = [
            None if isinstance(cell, float) and math.isnan(cell) else cell for cell in self.row()
        ]
        return dict(zip(HEADER, cells, strict=True)) | {"confusion": self.confusion.tolist()}


def per_place(model: str, confusions: Mapping[Place, NDArray[np.int64]]) -> Iterator[Score]:
    """One Score per place, then one of all places pooled if there are several."""
    for place, confusion in confusions.items():
        yield Score(model, ", ".join(map(str, place)), confusion)
    if len(confusions) > 1:
        yield Score(model, "pooled", np.sum(list(confusions.values()), axis=0))


def show(scores: Sequence[Score], caption: str, folder: Path | None, name: str) -> None:
    """Prints the scores as a table. With a folder, also writes NAME.json, NAME.csv and NAME.md.

    Each file is written atomically.

    Raises:
        UserError: The folder cannot be written.
    """
    table = Table(Path(name), caption, HEADER, [score.row() for score in scores])
    click.echo(table.markdown())
    if folder is None:
        return
    records = {"caption": caption, "classes": CLASSES, "scores": [s.record() for s in scores]}
    texts = {
        "json": json.dumps(records, indent=1) + "\n",
        "csv": table.csv(),
        "md": table.markdown(),
    }
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for ending, text in texts.items():
            file = folder / f"{name}.{ending}"
            weights.write_atomically(file, text.encode())
            click.echo(file)


def tile_numbers(text: str | None) -> list[int] | None:
    """The tiles in a text such as "1,3,5", ascending; None without a text.

    Raises:
        UserError: The text is not a list of numbers.
    """
    if text is None:
        return None
    numbers = [number.strip() for number in text.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f"{text!r} is not a list of tiles; separate numbers by commas, as in 1,3,5")
    return sorted(set(map(int, numbers)))

"""Predicts whole images of any size with the weights of a run: class mask, overlay and areas.

python -m analysis.predict IMAGE.jpg --weights results/demo --out results/demo/tile1
"""

import os
from collections.abc import Sequence
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from analysis import blending, weights
from analysis.cli import checkpoints_option, print_section, results_option
from analysis.evaluations import Model
from analysis.results import Results
from analysis.runs import Run
from analysis.sections import Note, Section, Table
from segmentation import sources
from segmentation.errors import UserError, written
from segmentation.labels import CLASSES, COLORS, NUM_CLASSES, decode

TINT = 0.45  # weight of the class colour in the overlay
SMALLEST_SHARE = 0.0005  # of the image; smaller classes are not named in the note

Image = NDArray[np.uint8]


@click.command(context_settings={"max_content_width": 120})
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path)
)
@click.option(
    "--weights",
    "source",
    required=True,
    help="Results folder, .keras file, entity/project/run_id or entity/project/model:v0.",
)
@results_option
@checkpoints_option
@click.option(
    "--scale",
    type=click.IntRange(1, 64),
    help="Shrink images by this factor first. Default: that of the run's data; 1 for a file.",
)
@click.option(
    "--role",
    "kind",
    type=click.Choice(["best", "kept"]),
    default="best",
    show_default=True,
    help="Which weights of the run.",
)
def main(
    images: tuple[Path, ...],
    source: str,
    folder: Path,
    checkpoints: Path,
    scale: int | None,
    kind: str,
) -> None:
    """Predict the classes of whole images of any size, down to one pixel.

    The image is shrunk and scaled as the training data was. Overlapping patches are predicted and
    blended with a smooth window. For each IMAGE, OUT receives NAME_mask.png (class colours, the
    image's size), NAME_overlay.png and NAME_areas.csv. Pixels are used as stored: an EXIF
    orientation is ignored, as in prepared sets. An image that cannot be read is reported and
    skipped; the exit code is then 1.
    """
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"cannot write {folder}: it is not writable; name another folder")
    file, trained_scale = find_weights(source, kind, folder, checkpoints)
    model, size = open_model(file)
    failed = 0
    for image, name in zip(images, names(images), strict=True):
        try:
            section = make(read(image), name, folder, size, model, scale or trained_scale)
        except UserError as error:
            failed += 1
            click.echo(error.message, err=True)
        else:
            print_section(section)
    if failed:
        raise UserError(f"{failed} of {len(images)} images could not be predicted")


def find_weights(source: str, kind: str, folder: Path, checkpoints: Path) -> tuple[Path, int]:
    """The .keras file that `source` names, and the factor by which its training data was shrunk.

    Args:
        source: Results folder, .keras file, or the path of a run or an artifact in W&B.
        kind: `best` or `kept`.
        folder: Folder whose `cache` keeps what is fetched from W&B.
        checkpoints: Folder in which train.py made one folder per run id.

    Raises:
        UserError: There are no such weights.
    """
    path = Path(source)
    if path.is_dir():
        results = Results.open(path, checkpoints=checkpoints)
        return results.weights("best", kind), scale_of(results.best)
    if path.suffix == ".keras":
        if not path.is_file():
            raise UserError(f"{path} does not exist")
        return path, 1
    file, run = weights.find_by_path(source, kind, folder / "cache", checkpoints)
    return file, scale_of(run)


def open_model(file: Path) -> tuple[Model, int]:
    """The model in a .keras file as a function, and the size of its patches in pixels.

    Raises:
        UserError: The file holds no model, or one of another number of classes.
    """
    from analysis.evaluations import load_model  # imports Keras, which takes seconds

    model = load_model(file)
    classes = model.output_shape[-1]
    if classes != NUM_CLASSES:
        raise UserError(f"{file} predicts {classes} classes, but this project has {NUM_CLASSES}")
    return lambda patches: np.asarray(model.predict_on_batch(patches)), model.input_shape[1]


def names(images: Sequence[Path]) -> list[str]:
    """A name per image for its results: the stem of its file.

    If files of different folders share a stem, the last three parts of each path instead.
    """
    stems = [image.stem for image in images]
    paths = ["_".join((*image.parts[-3:-1], image.stem)).replace(" ", "_") for image in images]
    return paths if len(set(stems)) < len(set(images)) else stems


def read(file: Path) -> Image:
    """(h, w, 3) uint8 RGB pixels of an image file.

    Raises UserError if it is damaged, too large or no image.
    """
    return sources.decode(sources.read_bytes(file, str(file)), str(file))


def segment(image: Image, size: int, model: Model, scale: int = 1) -> NDArray[np.uint8]:
    """(h, w) class indices of an image, predicted at 1/scale of its size and enlarged again."""
    small = blending.shrink(image, scale) if scale > 1 else image
    bands = [band.argmax(-1).astype(np.uint8) for band in blending.blend(small, size, model)]
    height, width = image.shape[:2]
    mask = np.concatenate(bands).repeat(scale, axis=0).repeat(scale, axis=1)
    return np.asarray(mask[:height, :width])


def make(image: Image, name: str, folder: Path, size: int, model: Model, scale: int) -> Section:
    """Writes mask, overlay and areas of one image into `folder`. Raises UserError if it cannot."""
    mask = segment(image, size, model, scale)
    colors = decode(mask)
    overlay = np.rint((1 - TINT) * image + TINT * colors).astype(np.uint8)
    files = {folder / f"{name}_mask.png": colors, folder / f"{name}_overlay.png": overlay}
    counts = np.bincount(mask.ravel(), minlength=NUM_CLASSES)
    rows = [
        (label, "#" + bytes(color).hex().upper(), int(count), float(count / mask.size))
        for label, color, count in zip(CLASSES, COLORS, counts, strict=True)
    ]
    header = ("class", "color", "pixels", "share")
    table = Table(folder / f"{name}_areas", f"Areas in {name}", header, rows, ("csv",))
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file, pixels in files.items():
            png = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
            weights.write_atomically(file, png)
        table.write()
    shares = ", ".join(
        f"{label} {share:.1%}"
        for label, _, _, share in sorted(rows, key=lambda row: -row[2])
        if share >= SMALLEST_SHARE
    )
    texts = [f"{name}, {image.shape[1]} x {image.shape[0]} px: {shares}", *map(str, files)]
    return Section(f"Prediction of {name}", notes=[Note(t) for t in texts], tables=[table])


def scale_of(run: Run) -> int:
    """The factor by which the run's training data was shrunk."""
    return int(run.data_options.get("scale", 1))


if __name__ == "__main__":
    main()

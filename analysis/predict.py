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

from analysis import blending, trained, weights
from analysis.blending import Model
from analysis.cli import (
    checkpoints_option,
    print_section,
    results_option,
    role_option,
    symmetries_option,
)
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
    "weight_sources",
    required=True,
    multiple=True,
    help="Results folder, .keras file, runs/ID, entity/project/run_id or entity/project/model:v0. "
    "Given several times: the mean of the models' probabilities.",
)
@results_option
@checkpoints_option
@click.option(
    "--scale",
    type=click.IntRange(1, 64),
    help="Shrink images by this factor first. Default: that of the run's data; 1 for a file or "
    "runs/ID.",
)
@role_option
@symmetries_option
def main(
    images: tuple[Path, ...],
    weight_sources: tuple[str, ...],
    folder: Path,
    checkpoints: Path,
    scale: int | None,
    kind: str,
    symmetries: bool,
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
    found = [trained.find(source, kind, folder, checkpoints) for source in weight_sources]
    if scale is None:
        scale = common_scale(found)
    models, size = trained.open_models(found)
    model = blending.mean_of(models)
    if symmetries:
        model = blending.with_symmetries(model)
    failed = 0
    for image, name in zip(images, names(images), strict=True):
        try:
            section = make(read(image), name, folder, size, model, scale)
        except UserError as error:
            failed += 1
            click.echo(error.message, err=True)
        else:
            print_section(section)
    if failed:
        raise UserError(f"{failed} of {len(images)} images could not be predicted")


def common_scale(found: Sequence[trained.Weights]) -> int:
    """The factor by which all models' training images were shrunk. UserError if it differs."""
    scales = sorted({entry.scale for entry in found})
    if len(scales) > 1:
        raise UserError(
            f"the models were trained at the scales {', '.join(map(str, scales))}; "
            "name models of one scale, or set it with --scale"
        )
    return scales[0]


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


if __name__ == "__main__":
    main()

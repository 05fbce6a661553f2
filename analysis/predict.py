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

from analysis import blending, style, trained, weights
from analysis.blending import Model
from analysis.cli import (
    checkpoints_option,
    print_section,
    results_option,
    role_option,
    symmetries_option,
)
from analysis.sections import Note, Picture, Section, Table
from segmentation import sources
from segmentation.errors import UserError, written
from segmentation.labels import CLASSES, COLORS, NUM_CLASSES, decode

TINT = 0.45  # weight of the class colour in the overlay
DRAWN = 1200  # px: most rows or columns of an image in the figure
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
    help="Shrink images by this factor first. Default: the scale at which the model was trained, "
    "which its file says.",
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
    image's size), NAME_overlay.png, NAME_figure.png (image, classes and overlay with a legend) and
    NAME_areas.csv. Pixels are used as stored: an EXIF orientation is ignored, as in prepared sets.
    An image that cannot be read is reported and skipped; the exit code is then 1.
    """
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"cannot write {folder}: it is not writable; name another folder")
    found = [trained.find(source, kind, folder, checkpoints) for source in weight_sources]
    for entry in found:
        click.echo(entry)
    scale = scale_for(found, scale)
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


def scale_for(found: Sequence[trained.Weights], asked: int | None = None) -> int:
    """The factor by which images are shrunk: `asked`, else the one of the models' training.

    Prints a warning if a model was trained at another scale, or at one that is not known.

    Raises:
        UserError: The models were trained at different scales, and `asked` is None.
    """
    known = sorted({entry.scale for entry in found if entry.scale})
    if asked is None and len(known) > 1:
        raise UserError(
            f"the models were trained at the scales {', '.join(map(str, known))}; "
            "name models of one scale, or set it with --scale"
        )
    scale = asked or next(iter(known), 1)
    for entry in found:
        if entry.scale and entry.scale != scale:
            click.echo(
                f"Warning: {entry.file} was trained on images shrunk by {entry.scale}, and these "
                f"are shrunk by {scale}. It sees objects at a size that it does not know: expect "
                f"a wrong map. Leave out --scale, or use --scale {entry.scale}",
                err=True,
            )
        elif not entry.scale and asked is None:
            click.echo(
                f"Warning: {entry.file} does not say at which scale it was trained, and {scale} is "
                "used. At another scale the map is wrong: set the one of `prepare` with --scale",
                err=True,
            )
    return scale


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
    """Writes mask, overlay, figure and areas of one image into `folder`.

    Raises UserError if it cannot.
    """
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
        figure = _draw(image, colors, overlay, folder / f"{name}_figure.png")
        table.write()
    shares = ", ".join(
        f"{label} {share:.1%}"
        for label, _, _, share in sorted(rows, key=lambda row: -row[2])
        if share >= SMALLEST_SHARE
    )
    resolution = f", predicted at 1/{scale} of the resolution" if scale > 1 else ""
    text = f"{name}, {image.shape[1]} x {image.shape[0]} px{resolution}: {shares}"
    notes = [Note(line) for line in (text, *map(str, files))]
    return Section(f"Prediction of {name}", "", notes, [Picture(figure, text)], [table])


def _draw(image: Image, colors: Image, overlay: Image, file: Path) -> Path:
    """Draws image, predicted classes and overlay side by side, with a legend. Returns `file`."""
    height = 2.6 * min(2.0, image.shape[0] / image.shape[1]) + 0.7
    figure, (row,) = style.figure(1, 3, height=height)
    step = -(-max(image.shape) // DRAWN)
    layers = {"image": image, "prediction": colors, "overlay": overlay}
    for axes, (title, layer) in zip(row, layers.items(), strict=True):
        axes.imshow(layer[::step, ::step])
        axes.axis("off")
        axes.set_title(title)
    figure.legend(handles=style.class_legend(), loc="outside lower center", ncols=6, fontsize=8)
    return style.save(figure, file)


if __name__ == "__main__":
    main()

"""A whole image, of any size, through the weights of a run: class mask, overlay and areas.

python -m analysis.predict "data/raw/Tile 1/images/image_part_001.jpg" --weights results/demo --out results/demo/tile1
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import cv2
import numpy as np

from analysis import blending, runs
from analysis.sections import Section, Table
from analysis.waist import Waist, results_option, runs_option, tell
from segmentation import sources
from segmentation.errors import UserError, written
from segmentation.labels import CLASSES, COLORS, NUM_CLASSES, decode

TINT = 0.45  # of the class colour in the overlay


@click.command(context_settings={"max_content_width": 120})
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path)
)
@click.option(
    "--weights",
    required=True,
    help="Results folder, .keras file, entity/project/run_id or entity/project/model:v0.",
)
@results_option
@runs_option
@click.option(
    "--scale",
    type=click.IntRange(1, 64),
    help="Shrink by this first. Default: as the run's data was, 1 for a file.",
)
@click.option(
    "--role",
    type=click.Choice(["best", "kept"]),
    default="best",
    show_default=True,
    help="Which weights of the run.",
)
def main(
    images: tuple[Path, ...], weights: str, folder: Path, local: Path, scale: int | None, role: str
) -> None:
    """Predict the classes of whole images: any size, down to one pixel.

    Overlapping patches are blended by a smooth window; the image is shrunk and scaled as the training data was. Writes for
    each IMAGE into OUT: NAME_mask.png (class colours, the image's size), NAME_overlay.png and NAME_areas.csv. The pixels are
    those that the file stores: an EXIF orientation is ignored, as in prepared sets. An image that cannot be read is reported
    and skipped; the exit code is then 1.
    """
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"cannot write {folder}: it is not writable; name another folder")
    file, recorded = find_weights(weights, role, folder, local)
    answer, size = answering(file)
    failed = 0
    for image, name in zip(images, names(images), strict=True):
        try:
            tell(make(read(image), name, folder, size, answer, scale or recorded))
        except UserError as error:
            failed += 1
            click.echo(error.message, err=True)
    if failed:
        raise UserError(f"{failed} of {len(images)} images could not be predicted")


def find_weights(weights: str, role: str, folder: Path, local: Path) -> tuple[Path, int]:
    """The .keras file that `weights` names, and by how much its training data was shrunk."""
    path = Path(weights)
    if path.is_dir():
        waist = Waist.open(path)
        run = waist.roles()["best"]
        return runs.weights(run, role, waist.sweep.path, waist.cache, local), _scale(run)
    if path.suffix == ".keras":
        if not path.is_file():
            raise UserError(f"{path} does not exist")
        return path, 1
    file, run = runs.model_of(weights, role, folder / "cache", local)
    return file, _scale(run)


def answering(file: Path) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """The weights in a file as a function from patches to probabilities, and the size of its patches."""
    from analysis.predictions import (
        load,
    )  # Keras, and with it seconds: after the weights are known to be there

    model = load(file)
    if model.output_shape[-1] != NUM_CLASSES:
        raise UserError(
            f"{file} tells {model.output_shape[-1]} classes apart, this project has {NUM_CLASSES}"
        )
    return lambda patches: np.asarray(model.predict_on_batch(patches)), model.input_shape[1]


def names(images: Sequence[Path]) -> list[str]:
    """A name for each image's results: the file's, or, where files of different folders share one, its path's last three."""
    stems = [image.stem for image in images]
    paths = ["_".join((*image.parts[-3:-1], image.stem)).replace(" ", "_") for image in images]
    return paths if len(set(stems)) < len(set(images)) else stems


def read(file: Path) -> np.ndarray:
    """An image file as (h, w, 3) uint8 RGB. UserError where it is damaged, too large or not an image."""
    return sources.decode(sources.read_bytes(file, str(file)), str(file))


def segment(image: np.ndarray, size: int, answer: Callable, scale: int = 1) -> np.ndarray:
    """Class indices of an image: (h, w, 3) uint8 RGB -> (h, w) uint8; predicted at 1/scale and enlarged again."""
    small = blending.shrink(image, scale) if scale > 1 else image
    mask = np.concatenate(
        [band.argmax(-1).astype(np.uint8) for band in blending.blend(small, size, answer)]
    )
    height, width = image.shape[:2]
    return mask.repeat(scale, axis=0).repeat(scale, axis=1)[:height, :width]


def make(
    image: np.ndarray, name: str, folder: Path, size: int, answer: Callable, scale: int
) -> Section:
    """Mask, overlay and areas of one image."""
    mask = segment(image, size, answer, scale)
    colors = decode(mask)
    overlay = np.rint((1 - TINT) * image + TINT * colors).astype(np.uint8)
    files = {f"{name}_mask.png": colors, f"{name}_overlay.png": overlay}
    counts = np.bincount(mask.ravel(), minlength=NUM_CLASSES)
    rows = [
        (label, "#" + bytes(color).hex().upper(), int(count), float(count / mask.size))
        for label, color, count in zip(CLASSES, COLORS, counts, strict=True)
    ]
    table = Table(
        folder / f"{name}_areas",
        f"Areas in {name}",
        ("class", "color", "pixels", "share"),
        rows,
        ("csv",),
    )
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file, pixels in files.items():
            runs.write_whole(folder / file, cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
        table.write()
    shares = ", ".join(
        f"{label} {share:.1%}"
        for label, _, _, share in sorted(rows, key=lambda row: -row[2])
        if share >= 0.0005
    )
    words = [
        f"{name}, {image.shape[1]} x {image.shape[0]} px: {shares}",
        *(str(folder / file) for file in files),
    ]
    return Section(f"Prediction of {name}", notes=words, tables=[table])


def _scale(run) -> int:
    return int(run.recorded("data", "options", {}).get("scale", 1))


if __name__ == "__main__":
    main()

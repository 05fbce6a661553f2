"""Our preparation beside the published one and beside bare decoding, in one go, on the same files.

    python -m benchmarks.prepare RAW

Each way runs in processes of its own, one after another, and so has its own peak memory (`ru_maxrss`, mapped pages included):

    floor      decode every JPEG and PNG with OpenCV and drop it, with as many threads as ours
    ours       segmentation.prepare with the published protocol's grid and split, to a folder that is thrown away
    published  the approach of the published notebooks, written anew from its description: one loop over files and patches,
               min-max scaling of each patch to floats, six comparisons of whole patches for the classes, one-hot masks in float32

Time is the work's own, after the imports: the best of `--repeats` runs, and one run of the published way.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import click
import cv2
import numpy as np
from patchify import patchify

from segmentation.labels import COLORS, NUM_CLASSES
from segmentation.prepare import prepare
from segmentation.prepared import PrepareOptions
from segmentation.sources import Part, find_parts, find_root

SIZE = 256
WORKERS = len(os.sched_getaffinity(0))


def floor(parts: list[Part]) -> None:
    """Decode everything, keep nothing."""

    def decode(path: Path) -> None:
        assert cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB) is not None

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(WORKERS) as pool:
        by_size = sorted(parts, key=lambda part: -part.height * part.width)
        list(pool.map(decode, (path for part in by_size for path in (part.mask, part.image))))


def ours(root: Path) -> None:
    """The whole of `segmentation.prepare`, checks and writing included."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(
            root,
            Path(folder) / "set",
            PrepareOptions(patch_size=SIZE, grid="crop", split="random"),
            workers=WORKERS,
        )


def published(parts: list[Part]) -> None:
    """Float images and one-hot masks of all patches, in memory, as the notebooks have them before they train."""
    images, masks = [], []
    for part in parts:
        height, width = part.height // SIZE * SIZE, part.width // SIZE * SIZE
        image = cv2.cvtColor(cv2.imread(str(part.image)), cv2.COLOR_BGR2RGB)[:height, :width]
        mask = cv2.cvtColor(cv2.imread(str(part.mask)), cv2.COLOR_BGR2RGB)[:height, :width]
        image_patches = patchify(image, (SIZE, SIZE, 3), step=SIZE)
        mask_patches = patchify(mask, (SIZE, SIZE, 3), step=SIZE)
        for row, column in np.ndindex(image_patches.shape[:2]):
            images.append(_min_max(image_patches[row, column, 0]))
            masks.append(mask_patches[row, column, 0])
    images, masks = np.array(images), np.array(masks)
    labels = np.array([_six_comparisons(mask) for mask in masks])
    categorical = _one_hot(labels)
    assert images.shape == (*labels.shape, 3) and categorical.shape == (*labels.shape, NUM_CLASSES)


def _min_max(patch: np.ndarray) -> np.ndarray:
    """Each channel of a patch to 0..1, (p, p, 3) float64, as scikit-learn's MinMaxScaler does to its rows."""
    rows = patch.reshape(-1, 3).astype(np.float64)
    low, span = rows.min(axis=0), np.ptp(rows, axis=0)
    return ((rows - low) / np.where(span == 0, 1, span)).reshape(patch.shape)


def _six_comparisons(mask: np.ndarray) -> np.ndarray:
    """(p, p) uint8 class indices of an RGB patch; what matches no colour stays 0."""
    labels = np.zeros(mask.shape[:2], np.uint8)
    for index, color in enumerate(COLORS):
        labels[np.all(mask == color, axis=-1)] = index
    return labels


def _one_hot(labels: np.ndarray) -> np.ndarray:
    """(..., 6) float32, as keras.utils.to_categorical makes it."""
    flat = labels.reshape(-1).astype(np.int64)
    categorical = np.zeros((len(flat), NUM_CLASSES), np.float32)
    categorical[np.arange(len(flat)), flat] = 1
    return categorical.reshape(*labels.shape, NUM_CLASSES)


WAYS = {"floor": floor, "ours": ours, "published": published}


def measure(way: str, raw: Path) -> dict[str, float]:
    """Seconds and peak MiB of one way, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.prepare", str(raw.absolute()), "--only", way]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    return json.loads(done.stdout)


@click.command()
@click.argument("raw", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Runs of the two short ways; the best counts.",
)
@click.option("--only", type=click.Choice(list(WAYS)), hidden=True)
def main(raw: Path, repeats: int, only: str | None) -> None:
    """Time the preparation of the tiles in RAW three ways and print the ratios."""
    if only:
        root = find_root(raw)
        argument = root if only == "ours" else find_parts(root, SIZE)[0]
        start = perf_counter()
        WAYS[only](argument)
        seconds = perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        click.echo(json.dumps({"seconds": seconds, "mib": peak}))
        return
    ways = [
        *("floor", "ours") * repeats,
        "published",
    ]  # in turn, so that a busy minute falls on both
    runs = [(way, measure(way, raw)) for way in ways]
    result = {
        way: {key: min(run[key] for name, run in runs if name == way) for key in ("seconds", "mib")}
        for way in WAYS
    }
    for way, numbers in result.items():
        click.echo(f"{way:<10} {numbers['seconds']:7.2f} s {numbers['mib']:8.0f} MiB peak")
    mine, theirs = result["ours"], result["published"]
    click.echo(
        f"published / ours, time:        {theirs['seconds'] / mine['seconds']:6.1f}   (at least 10)"
    )
    click.echo(
        f"ours / published, peak memory: {mine['mib'] / theirs['mib']:6.3f}   (at most 0.100)"
    )
    click.echo(
        f"ours / bare decoding, time:    {mine['seconds'] / result['floor']['seconds']:6.2f}   (aim: under 2)"
    )


if __name__ == "__main__":
    main()

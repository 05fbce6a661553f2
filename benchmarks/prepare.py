"""Compares our data preparation with the published one and with bare decoding, on the same files.

    python -m benchmarks.prepare RAW

Three ways are measured:

    floor      decode every JPEG and PNG with OpenCV and drop it, with as many threads as ours
    ours       segmentation.prepare with the published grid and split, to a temporary folder
    published  the method of the published notebooks, written from its description: one loop over
               files and patches, min-max scaling of each patch to floats, six comparisons of whole
               patches for the classes, one-hot masks in float32

Each run is a process, and runs do not overlap, so peak memory is measured per run (`ru_maxrss`,
which includes mapped pages). Time is measured after the imports: the best of `--repeats` runs, and
one run of the published way.
"""

import json
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import click
import cv2
import joblib
import numpy as np
from numpy.typing import NDArray
from patchify import patchify

from segmentation.labels import COLORS, NUM_CLASSES
from segmentation.prepare import prepare
from segmentation.prepared import PrepareOptions
from segmentation.sources import Part, find_parts, find_root

SIZE = 256
WORKERS = joblib.cpu_count()


def floor(parts: list[Part]) -> None:
    """Decodes every file and keeps nothing."""

    def decode(path: Path) -> None:
        assert cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB) is not None

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(WORKERS) as pool:
        by_size = sorted(parts, key=lambda part: -part.height * part.width)
        list(pool.map(decode, (path for part in by_size for path in (part.mask, part.image))))


def ours(parts: list[Part]) -> None:
    """Runs `segmentation.prepare`, including its checks and writing."""
    root = parts[0].image.parents[2]
    with tempfile.TemporaryDirectory() as folder:
        prepare(
            root,
            Path(folder) / "set",
            PrepareOptions(patch_size=SIZE, grid="crop", split="random"),
            workers=WORKERS,
        )


def published(parts: list[Part]) -> None:
    """Makes float images and one-hot masks of all patches, as the notebooks do before training."""
    image_list, mask_list = [], []
    for part in parts:
        height, width = part.height // SIZE * SIZE, part.width // SIZE * SIZE
        image = cv2.cvtColor(cv2.imread(str(part.image)), cv2.COLOR_BGR2RGB)[:height, :width]
        mask = cv2.cvtColor(cv2.imread(str(part.mask)), cv2.COLOR_BGR2RGB)[:height, :width]
        image_patches = patchify(image, (SIZE, SIZE, 3), step=SIZE)
        mask_patches = patchify(mask, (SIZE, SIZE, 3), step=SIZE)
        for row, column in np.ndindex(image_patches.shape[:2]):
            image_list.append(_min_max(image_patches[row, column, 0]))
            mask_list.append(mask_patches[row, column, 0])
    images, masks = np.array(image_list), np.array(mask_list)
    labels = np.array([_six_comparisons(mask) for mask in masks])
    categorical = _one_hot(labels)
    assert images.shape == (*labels.shape, 3) and categorical.shape == (*labels.shape, NUM_CLASSES)


def _min_max(patch: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(p, p, 3) float64: each channel of a patch scaled to 0..1, as by sklearn's MinMaxScaler."""
    rows = patch.reshape(-1, 3).astype(np.float64)
    low, span = rows.min(axis=0), np.ptp(rows, axis=0)
    scaled: NDArray[np.float64] = (rows - low) / np.where(span == 0, 1, span)
    return scaled.reshape(patch.shape)


def _six_comparisons(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(p, p) uint8: class indices of an RGB patch. Pixels of other colours get 0."""
    labels = np.zeros(mask.shape[:2], np.uint8)
    for index, color in enumerate(COLORS):
        labels[np.all(mask == color, axis=-1)] = index
    return labels


def _one_hot(labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(..., 6) float32: one-hot labels, as by keras.utils.to_categorical."""
    flat = labels.reshape(-1).astype(np.int64)
    categorical = np.zeros((len(flat), NUM_CLASSES), np.float32)
    categorical[np.arange(len(flat)), flat] = 1
    return categorical.reshape(*labels.shape, NUM_CLASSES)


WAYS = {"floor": floor, "ours": ours, "published": published}


def measure(way: str, raw: Path) -> dict[str, float]:
    """Seconds and peak memory in MiB of one way, run in a new process."""
    command = [sys.executable, "-m", "benchmarks.prepare", str(raw.absolute()), "--only", way]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


@click.command()
@click.argument("raw", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Runs of floor and ours; the best one counts.",
)
@click.option("--only", type=click.Choice(list(WAYS)), hidden=True)
def main(raw: Path, repeats: int, only: str | None) -> None:
    """Measure three ways of preparing the tiles in RAW, and print the ratios."""
    if only:
        parts, _ = find_parts(find_root(raw), SIZE)
        start = perf_counter()
        WAYS[only](parts)
        seconds = perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        click.echo(json.dumps({"seconds": seconds, "mib": peak}))
        return
    # In turn, so that a busy minute of the machine affects both.
    ways = [*("floor", "ours") * repeats, "published"]
    runs = [(way, measure(way, raw)) for way in ways]
    result = {
        way: {key: min(run[key] for name, run in runs if name == way) for key in ("seconds", "mib")}
        for way in WAYS
    }
    for way, numbers in result.items():
        click.echo(f"{way:<10} {numbers['seconds']:7.2f} s {numbers['mib']:8.0f} MiB peak")
    (floor_time, _), (our_time, our_memory), (published_time, published_memory) = (
        (result[way]["seconds"], result[way]["mib"]) for way in WAYS
    )
    click.echo(f"published / ours, time:        {published_time / our_time:6.1f}   (at least 10)")
    click.echo(
        f"ours / published, peak memory: {our_memory / published_memory:6.3f}   (at most 0.1)"
    )
    click.echo(f"ours / bare decoding, time:    {our_time / floor_time:6.2f}   (aim: under 2)")


if __name__ == "__main__":
    main()

"""From process start to the first train step: what of it is ours.

    python -m benchmarks.startup data/prepared

Imports of TensorFlow, Keras, wandb and the libraries they bring are timed first and left out; so is compiling the first step,
which comes after the point where this stops. What remains is reading options and manifest, opening the run, building the
model, mapping the data and making the first batch.
"""

import tempfile
import time
from pathlib import Path


def main() -> None:
    begun = time.perf_counter()
    import cv2  # noqa: F401
    import keras
    import tensorflow  # noqa: F401
    import wandb

    imported = time.perf_counter()

    import click

    import train
    from segmentation.ending import RunEnded, Signals

    marks = {"libraries imported": imported - begun}

    def fit(model, data, **_):
        data[0]
        marks["ours, to the first batch"] = time.perf_counter() - imported
        raise RunEnded("interrupted", "the first step is next")

    @click.command()
    @click.argument("folder", type=click.Path(path_type=Path, exists=True))
    def command(folder: Path) -> None:
        """Time the start of a run on the prepared set FOLDER."""
        keras.Model.fit = fit
        with tempfile.TemporaryDirectory() as scratch:
            settings = wandb.setup().settings
            settings.root_dir = scratch
            settings.mode = "offline"
            train.run({}, folder, Path(scratch), Signals())
        for name, seconds in marks.items():
            print(f"{name:26} {seconds:6.2f} s")

    command()


if __name__ == "__main__":
    main()

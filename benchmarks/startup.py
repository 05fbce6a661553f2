"""Time from the start of the process to the first train step, apart from the libraries' share.

    python -m benchmarks.startup data/prepared

Two times are printed. The first is the import of TensorFlow, Keras, wandb and the libraries they
need. The second is our code: reading options and manifest, opening the run, building the model,
mapping the data and making the first batch. Compiling the first step comes later and is not
measured.
"""

import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock


def main() -> None:
    """Imports the libraries, then runs the command, which times the rest."""
    started = time.perf_counter()
    import cv2  # noqa: F401
    import keras
    import tensorflow  # noqa: F401
    import wandb

    imported = time.perf_counter()

    import click

    import train
    from segmentation.ending import RunEnded, Signals

    seconds = {"libraries": imported - started}

    def first_batch_only(model: keras.Model, data: Any, **_: Any) -> None:
        data[0]
        seconds["our code, to the first batch"] = time.perf_counter() - imported
        raise RunEnded("interrupted", "the first step is next")

    @click.command()
    @click.argument("folder", type=click.Path(path_type=Path, exists=True))
    def command(folder: Path) -> None:
        """Time the start of a run on the prepared set FOLDER."""
        with (
            mock.patch.object(keras.Model, "fit", first_batch_only),
            tempfile.TemporaryDirectory() as scratch,
        ):
            settings = wandb.setup().settings
            settings.root_dir = scratch
            settings.mode = "offline"
            train.run({}, folder, Path(scratch), Signals())
        for name, value in seconds.items():
            print(f"{name:28} {value:6.2f} s")

    command()


if __name__ == "__main__":
    main()

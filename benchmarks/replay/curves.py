"""Real learning curves for the replay: train.py over a grid of configurations, into one CSV file.

    python -m segmentation.prepare six_tiles data/table --grid cover --patch-size 480 --scale 30
    python -m benchmarks.replay.curves data/table benchmarks/replay/dubai.csv --jobs 2

`six_tiles` holds Tile 1 to Tile 6 of the real set: 162 patches of 16 px for training, 81 for
validation. The file grows run by run. Runs that it holds are skipped, so an interrupted command
continues when it is repeated. Columns: the configuration, `repeat` (the seed), `status` as train.py
reports it, `seconds` (median duration of an epoch), and val_loss after each epoch.
"""

import contextlib
import csv
import itertools
import json
import os
import random
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import click
from tqdm import tqdm

from segmentation.prepared import PreparedSet

EPOCHS = 27
RUNS_PER_PROCESS = 10  # then a new process, because TensorFlow keeps about 80 MB of each run
GRID = {
    "batch_size": (1, 2, 4, 8, 16, 32),
    "learning_rate": tuple(float(f"{10 ** (k / 2 - 4):.6g}") for k in range(7)),
    "activation": ("relu", "tanh", "swish", "linear"),
}
COLUMNS = [*GRID, "repeat", "status", "seconds", *(str(epoch) for epoch in range(1, EPOCHS + 1))]


def configurations() -> list[dict[str, Any]]:
    """The runs to make: the grid in a random order, then the first tenth of it with another seed.

    The order is random so that an unfinished file covers the whole space.
    """
    grid = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    random.Random(0).shuffle(grid)  # noqa: S311  no secret
    repeated = grid[: -(-len(grid) // 10)]
    return [one | {"repeat": 0} for one in grid] + [one | {"repeat": 1} for one in repeated]


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file of curves; none if the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def one_thread() -> None:
    """Train on one core, so that parallel jobs do not wait for each other."""
    quiet = {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    os.environ.update(
        quiet
        | {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    )


def curve(data: Path, configuration: dict[str, Any]) -> dict[str, Any]:
    """Train one run with train.py and return its row."""
    import keras

    import train
    from segmentation.ending import Signals

    keras.utils.clear_session()
    options = {name: value for name, value in configuration.items() if name != "repeat"}
    options |= {"epochs": EPOCHS, "seed": configuration["repeat"]}
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        os.environ["WANDB_DIR"] = folder
        with contextlib.redirect_stdout(nowhere), Signals() as signals:
            status = train.run(options, data, Path(folder), signals)
        made = [
            row
            for path in Path(folder).glob("*/state.json")
            for row in json.loads(path.read_text())["rows"]
        ]
    seconds = f"{median(row['seconds'] for row in made):.3g}" if made else ""
    return (
        configuration
        | {"status": status, "seconds": seconds}
        | {str(row["epoch"]): f"{row['val_loss']:.5f}" for row in made}
    )


@click.command(context_settings={"show_default": True})
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--jobs", default=1, help="Number of processes, one core each.")
def main(data: Path, out: Path, jobs: int) -> None:
    """Train the runs that OUT lacks on the prepared set DATA."""
    PreparedSet.open(data)  # reports an unusable set before any process starts
    names = [*GRID, "repeat"]
    done = {tuple(row[name] for name in names) for row in rows(out)}
    missing = [
        one for one in configurations() if tuple(str(one[name]) for name in names) not in done
    ]
    if not out.exists():
        out.write_text(",".join(COLUMNS) + "\n")
    with (
        ProcessPoolExecutor(
            jobs, get_context("spawn"), one_thread, max_tasks_per_child=RUNS_PER_PROCESS
        ) as pool,
        out.open("a", newline="") as file,
        tqdm(total=len(missing), unit="run", dynamic_ncols=True) as bar,
    ):
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        for future in as_completed([pool.submit(curve, data, one) for one in missing]):
            writer.writerow(future.result())
            file.flush()
            bar.update()


if __name__ == "__main__":
    main()

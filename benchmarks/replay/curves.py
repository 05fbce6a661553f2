"""Real learning curves for the replay: train.py itself over a grid of configurations, as one CSV file that grows run by run.

    python -m segmentation.prepare six_tiles data/table --grid cover --patch-size 480 --scale 30
    python -m benchmarks.replay.curves data/table benchmarks/replay/dubai.csv --jobs 2

`six_tiles` holds Tile 1 to Tile 6 of the real set: 162 patches of 16 px to train on, 81 to validate. A run that is in the file is
not made again, so the command goes on where it was ended. Columns: the configuration, `repeat` (the seed), `status` as train.py
says it, `seconds` of a middling epoch, and val_loss after each epoch.
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

import click
from tqdm import tqdm

from segmentation.prepared import PreparedSet

EPOCHS = 27
RUNS_A_PROCESS = 10  # TensorFlow keeps some 80 MB of each run
GRID = {
    "batch_size": (1, 2, 4, 8, 16, 32),
    "learning_rate": tuple(float(f"{10 ** (k / 2 - 4):.6g}") for k in range(7)),
    "activation": ("relu", "tanh", "swish", "linear"),
}
COLUMNS = [*GRID, "repeat", "status", "seconds", *(str(epoch) for epoch in range(1, EPOCHS + 1))]


def configurations() -> list[dict]:
    """The runs to make, in a shuffled order so that an unfinished file covers the space; then a tenth of them once more."""
    grid = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    random.Random(0).shuffle(grid)  # noqa: S311  no secret
    repeated = grid[: -(-len(grid) // 10)]
    return [one | {"repeat": 0} for one in grid] + [one | {"repeat": 1} for one in repeated]


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file of curves; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def one_thread() -> None:
    """A process trains on one core, so that the curves of a job do not wait for another's."""
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


def curve(data: Path, configuration: dict) -> dict:
    """One run of train.py, as a row."""
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
@click.option("--jobs", default=1, help="Processes, one core each.")
def main(data: Path, out: Path, jobs: int) -> None:
    """Train what OUT still lacks on the prepared set DATA."""
    PreparedSet.open(data)  # tells what is wrong with it before any process starts
    names = [*GRID, "repeat"]
    there = {tuple(row[name] for name in names) for row in rows(out)}
    missing = [
        one for one in configurations() if tuple(str(one[name]) for name in names) not in there
    ]
    if not out.exists():
        out.write_text(",".join(COLUMNS) + "\n")
    with (
        ProcessPoolExecutor(
            jobs, get_context("spawn"), one_thread, max_tasks_per_child=RUNS_A_PROCESS
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

"""Time of a train step and memory of each variant of the training, compared with the baseline.

    python -m benchmarks.variants [--size 64] [--batch-size 16] [--steps 20] [--repeats 3]

Each variant has its own process, because the largest memory of a process never decreases. It trains
on random patches. After its memory is read, it takes turns with the baseline, so that a machine
that becomes slower slows both.
"""

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from segmentation.config import Config
from segmentation.errors import UserError
from segmentation.pretrained import LITE0

VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "batch normalisation": {"normalization": "batch"},
    "group normalisation": {"normalization": "group"},
    "24 filters": {"filters": 24},
    "32 filters": {"filters": 32},
    "no dropout": {"dropout": "none"},
    "averaged weights": {"ema": 0.99},
    "weight decay": {"weight_decay": 0.01},
    "clipping": {"clip_norm": 1.0},
    "loss ce_dice": {"loss": "ce_dice"},
    "windows x 1.5": {"window": 1.5},
    "windows x 2": {"window": 2.0},
    "EfficientNet-Lite0": {"backbone": LITE0},
}
"""Name -> hyperparameters. Here `window` is a multiple of the baseline's patch size."""


@dataclass(frozen=True)
class Measured:
    """What one process measured."""

    wall: float  # seconds per step, as a share of the baseline's
    cpu: float  # the same in seconds of all processor cores
    memory: float  # bytes that the training needed


def measure(
    variant: Mapping[str, Any], size: int, batch_size: int, steps: int, repeats: int
) -> Measured | str:
    """Trains one variant in this process. A string says why it cannot be built.

    Args:
        variant: A value of VARIANTS.
        size: Side of the baseline's patches in px.
        batch_size: Patches per step.
        steps: Steps per measurement.
        repeats: Measurements; their median counts.
    """
    from benchmarks.epoch import ratio, timed
    from segmentation import device, models

    device.set_precision("auto")
    side = round(size * variant.get("window", 1))
    values = {**variant, "batch_size": batch_size}
    if "window" in variant:
        values["window"] = side
    before = peak_memory()
    try:
        config = Config.from_mapping(values)
        config.check_patch_size(size)
        model = models.compiled(config, side, steps)
    except UserError as error:
        return str(error)
    data = random_batches(side, batch_size, steps)
    timed(model, data)  # compiles
    memory = peak_memory() - before
    baseline = models.compiled(Config(batch_size=batch_size), size, steps)
    its_data = random_batches(size, batch_size, steps)
    timed(baseline, its_data)
    rounds = [(timed(model, data), timed(baseline, its_data)) for _ in range(repeats)]
    return Measured(*ratio(*zip(*rounds, strict=True)), memory)


def random_batches(size: int, batch_size: int, steps: int) -> Any:
    """A tf.data.Dataset of one random batch, `steps` times."""
    import numpy as np
    import tensorflow as tf

    from segmentation.labels import NUM_CLASSES

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    masks = random.integers(0, NUM_CLASSES, (batch_size, size, size), dtype=np.uint8)
    return tf.data.Dataset.from_tensors((tf.constant(images), tf.constant(masks))).repeat(steps)


def peak_memory() -> int:
    """Largest memory of this process so far in bytes: of the GPU if there is one, else resident."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    # not `resource.getrusage`: a new process starts with the largest value of its parent there
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@click.command()
@click.option("--size", default=64, show_default=True, help="Side of the patches in px.")
@click.option("--batch-size", default=16, show_default=True)
@click.option("--steps", default=20, show_default=True, help="Train steps per measurement.")
@click.option("--repeats", default=3, show_default=True, help="Measurements per variant.")
def main(**options: int) -> None:
    """Print step time and memory of each variant as a share of the baseline's."""
    processes = multiprocessing.get_context("spawn")
    print(f"{'variant':22} {'step':>7} {'cpu':>7} {'memory':>7}", flush=True)
    memory = None
    for name, variant in VARIANTS.items():
        with ProcessPoolExecutor(1, mp_context=processes) as process:
            result = process.submit(measure, variant, **options).result()
        if isinstance(result, str):
            print(f"{name:22} {result}", flush=True)
            continue
        memory = memory or result.memory  # the baseline is the first
        print(
            f"{name:22} {result.wall:7.2f} {result.cpu:7.2f} {result.memory / memory:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Runs and sweeps that never were, for the tests of analysis: a cache written by hand, without W&B."""

import json
from dataclasses import asdict
from pathlib import Path

from analysis import best_run
from analysis.records import Run, Sweep
from analysis.waist import Waist
from segmentation.config import OBJECTIVE, Config

SWEEP = "someone/city/abc123"


def rows(losses, start: float = 1000.0) -> list[dict]:
    """A history with these validation losses, one a second from `start`."""
    best, made = float("inf"), []
    for epoch, loss in enumerate(losses, 1):
        best = min(best, loss)
        row = {
            "_step": epoch,
            "_timestamp": start + epoch,
            "epoch": epoch,
            "loss": 1.1 * loss,
            "val_loss": loss,
            OBJECTIVE: best,
        }
        row |= {"mean_iou": 1 - loss, "val_mean_iou": 1 - loss, "val_accuracy": 1 - loss}
        made.append(row)
    return made


def run(
    name: str,
    losses=(),
    status: str = "finished",
    state: str = "finished",
    checksum: str = "c",
    **more,
) -> Run:
    """A run with a history; what is not a field of Run is a hyperparameter."""
    history = more.pop("history", None) or rows(losses, more.pop("start", 1000.0))
    tags = tuple(more.pop("tags", ()))
    config = (
        asdict(Config())
        | {"data": {"checksum": checksum, "leaks": False, "options": {"scale": 1}}}
        | more
    )
    summary = {"status": status} | ({OBJECTIVE: history[-1].get(OBJECTIVE)} if history else {})
    return Run(
        name,
        f"run-{name}",
        state,
        f"http://localhost/{name}",
        tags=tags,
        config=config,
        summary=summary,
        history=history,
    )


def sweep(
    *runs: Run, others: tuple[Run, ...] = (), wandb_best: str | None = None, **config
) -> Sweep:
    """A finished sweep of these runs, by the objective."""
    config = {"method": "bayes", "metric": {"name": OBJECTIVE, "goal": "minimize"}} | config
    return Sweep(
        SWEEP, "city search", "FINISHED", "http://localhost/s", config, wandb_best, runs, others
    )


def keep(found: Sweep, folder: Path) -> Path:
    """Write the sweep into the cache of `folder`, as if it had been read; the folder."""
    file = folder / "cache" / "sweeps" / f"{found.path.replace('/', '.')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(found)))
    return folder


def waist(found: Sweep, folder: Path) -> Waist:
    """The results folder of a sweep, its best run chosen."""
    keep(found, folder)
    best_run.write(found, folder)
    return Waist.open(folder)

"""Invented runs and sweeps for the tests of analysis: results folders without W&B."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from analysis import best_run
from analysis.evaluations import CONFIDENT, Evaluation
from analysis.results import Results
from analysis.runs import Run, Sweep
from segmentation import metrics
from segmentation.config import OBJECTIVE, Config
from segmentation.labels import IGNORE, NUM_CLASSES
from segmentation.prepared import PreparedSet

SWEEP = "someone/city/abc123"
DAMAGED = ["", "{", "[]", "5", "null", "{}", '{"path": "x"}']
"""Texts that are no file of ours: no JSON, or JSON of another shape."""


BY_ERROR = {"name": "best_val_error", "goal": "minimize"}
"""The metric of a sweep that ranks by the other objective."""


def rows(losses, start: float = 1000.0, errors=()) -> list[dict]:
    """A history with these validation losses, one row per second from `start`.

    With `errors`, one per loss, it has the rows of the other objective too, as train.py logs them.
    """
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
    for i, error in enumerate(errors):
        made[i] |= {"val_error": error, "best_val_error": min(errors[: i + 1])}
    return made


def run(
    name: str,
    losses=(),
    status: str = "finished",
    state: str = "finished",
    checksum: str = "c",
    **more,
) -> Run:
    """A run with a history. Keyword arguments that are not fields of Run become hyperparameters."""
    start, errors = more.pop("start", 1000.0), more.pop("errors", ())
    history = more.pop("history", None) or rows(losses, start, errors)
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
    """A finished sweep of these runs, ranked by the objective."""
    config = {"method": "bayes", "metric": {"name": OBJECTIVE, "goal": "minimize"}} | config
    return Sweep(
        SWEEP, "city search", "FINISHED", "http://localhost/s", config, wandb_best, runs, others
    )


def results(found: Sweep, folder: Path) -> Results:
    """The results folder of a sweep, with its best run chosen."""
    best_run.write(found, folder)
    return Results.open(folder)


def evaluated(
    prepared: PreparedSet, split: str, random: np.random.Generator, right: float
) -> Evaluation:
    """An evaluation of made-up predictions: about a fraction `right` of the pixels is right."""
    indices = prepared.indices(split)
    masks = prepared.masks[indices]
    guesses = random.integers(0, NUM_CLASSES, masks.shape).astype(np.uint8)
    aims = np.where((random.random(masks.shape) < right) & (masks != IGNORE), masks, guesses)
    probabilities = random.random((*masks.shape, NUM_CLASSES)) + 2 * np.eye(NUM_CLASSES)[aims]
    probabilities /= probabilities.sum(-1, keepdims=True)
    predictions = probabilities.argmax(-1).astype(np.uint8)
    confusions = [metrics.confusion_matrix(*pair) for pair in zip(masks, predictions, strict=True)]
    labelled = masks != IGNORE
    truth, sample = masks[labelled], probabilities[labelled]
    hits = np.count_nonzero(sample[np.arange(len(truth)), truth] > CONFIDENT)
    confident = np.array([hits, np.count_nonzero(sample > CONFIDENT)])
    return Evaluation(
        indices, predictions, np.array(confusions), confident, truth, sample.astype(np.float32)
    )


def evaluated_results(
    data: Path, folder: Path, right: dict[str, float], splits: tuple[str, ...] = ("val", "test")
) -> Results:
    """A results folder with a best run and a baseline, and evaluations without any model.

    Args:
        data: A prepared set.
        folder: The results folder to make.
        right: Role -> about which fraction of the pixels is right. Other roles have no weights.
        splits: The splits that are evaluated.
    """
    prepared = PreparedSet.open(data)
    checksum = prepared.manifest["checksum"]
    best, base = (
        run("best", (0.4, 0.3), checksum=checksum, learning_rate=0.002),
        run("base", (0.5, 0.4), checksum=checksum),
    )
    made = results(sweep(best, base), folder)
    made.data, made.checkpoints = data, folder / "no"
    random = np.random.default_rng(1)
    for role, fraction in right.items():
        for split in splits:
            made._evaluations[role, split, "best"] = evaluated(prepared, split, random, fraction)
    return made

"""WRITES to W&B: the only file of the package that imports wandb. It gets arrays, dicts and paths; nothing calls back.

`_step` of a row is its epoch, counted from 1, so Hyperband's iterations, a pruner's steps and epochs are one number.
"""

import netrc
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import requests
import wandb

from segmentation.config import BASELINE, Config
from segmentation.ending import RunEnded
from segmentation.labels import CLASSES, IGNORE
from segmentation.prepared import PreparedSet

PROJECT = "aerial-sweeps"
RECORDS = ("data", "environment")  # what a run's config holds beside its hyperparameters
CURVE_POINTS = 101  # of a precision-recall curve on the run's page: enough to draw, small enough for a table


def mode() -> str:
    """`online` where W&B or a server of its kind can be reached with a key, else `offline`; WANDB_MODE has the last word."""
    chosen = os.environ.get("WANDB_MODE")
    return chosen or ("online" if _api_key() else "offline")


def _base_url() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


def _api_key() -> str | None:
    if os.environ.get("WANDB_API_KEY"):
        return os.environ["WANDB_API_KEY"]
    file = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        login = netrc.netrc(file).authenticators(urlparse(_base_url()).hostname)
    except (OSError, netrc.NetrcParseError):
        return None
    return login[2] if login else None


def start(given: Mapping, prepared: PreparedSet) -> tuple[wandb.Run, Config]:
    """Open the run, or go on with it where WANDB_RUN_ID names one, and settle its hyperparameters.

    A sweep's values win over `given`, those over the defaults. ValueError or TypeError on values that no run may have.
    """
    where = mode()
    if where == "offline":
        print(
            "W&B: offline, for no API key is set (`wandb login` sets one); `wandb sync` uploads the run later",
            flush=True,
        )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        mode=where,
        resume="allow",
        config=dict(given),
        settings=wandb.Settings(quiet=True),
    )
    try:
        config = Config.from_mapping({name: value for name, value in dict(run.config).items() if name not in RECORDS})
        config.check_patch_size(prepared.patch_size)
    except (TypeError, ValueError):
        run.finish(exit_code=2)
        raise
    data = {name: prepared.manifest[name] for name in ("checksum", "leaks", "options")}
    defaults = {name: value for name, value in asdict(config).items() if name not in run.config}  # a sweep's values are locked
    run.config.update(defaults | {"data": data}, allow_val_change=True)
    if BASELINE.items() <= asdict(config).items() and "baseline" not in run.tags:
        run.tags = (*run.tags, "baseline")
    run.define_metric("*", step_metric="epoch")
    _use_data(run, prepared)
    return run, config


def status_of(run: wandb.Run, ended: RunEnded) -> str:
    """How an early ending is recorded: a signal means `stopped` where W&B asked for it, else `preempted` or `interrupted`."""
    if ended.status in ("terminated", "interrupted") and _asked_to_stop(run):
        return "stopped"
    return {"terminated": "preempted"}.get(ended.status, ended.status)


def finish(run: wandb.Run, status: str, exit_code: int) -> None:
    """Close the run as finished, stopped, diverged, oom, interrupted or preempted; a preempted one goes back to its sweep."""
    run.summary["status"] = status
    if status == "preempted":
        run.mark_preempting()
    run.finish(exit_code=exit_code)


def log_rows(run: wandb.Run, rows: list[dict]) -> None:
    """One history row an epoch, `_step` = epoch. Rows that the server already holds are left out, so sending again is safe."""
    for row in rows:
        if row["epoch"] >= run.step:
            run.log(row, step=row["epoch"], commit=True)


def log_environment(run: wandb.Run, device: str, precision: str) -> None:
    """Record what a number depends on beside the configuration: git commit (+ if changed since), device and precision."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "HEAD") or "unknown"
    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    environment = {"commit": commit + changed, "device": device, "precision": precision}
    run.config.update({"environment": environment}, allow_val_change=True)


def _use_data(run: wandb.Run, prepared: PreparedSet) -> None:
    """Record the prepared set as the run's input: its manifest, and references to the arrays, which stay where they are."""
    manifest, folder = prepared.manifest, prepared.folder
    artifact = wandb.Artifact("prepared", type="dataset", metadata={"checksum": manifest["checksum"]} | manifest["options"])
    artifact.add_file(str(folder / "manifest.json"))
    for name in ("images.npy", "masks.npy", "patches.csv"):
        artifact.add_reference((folder / name).resolve().as_uri(), name=name, checksum=False)
    if run.offline:  # the client refuses use_artifact there; logged, it is uploaded by `wandb sync`
        run.log_artifact(artifact)
    else:
        run.use_artifact(artifact)


def save_model(run: wandb.Run, files: Mapping[str, Path], metadata: Mapping) -> None:
    """Upload weights as the artifact `model`, aliases `best` and the run id; `files` maps names inside it to .keras files."""
    artifact = wandb.Artifact("model", type="model", metadata=dict(metadata))
    for name, path in files.items():
        artifact.add_file(str(path), name=name)
    run.log_artifact(artifact, aliases=["best", run.id])


def log_pictures(
    run: wandb.Run, images: np.ndarray, masks: np.ndarray, predictions: np.ndarray, captions: list[str], panel: Path
) -> None:
    """Patches with truth and prediction as overlays to switch on and off, and one picture of them all in the class colours.

    Images are (n, h, w, 3) uint8 RGB, masks and predictions (n, h, w) uint8 class indices; `panel` is a PNG file.
    """
    names = dict(enumerate(CLASSES)) | {IGNORE: "ignore"}

    def picture(image, mask, prediction, caption):
        layers = {"truth": mask, "prediction": prediction}
        masks = {name: {"mask_data": values, "class_labels": names} for name, values in layers.items()}
        return wandb.Image(image, masks=masks, caption=caption)

    run.summary["predictions"] = list(map(picture, images, masks, predictions, captions))
    run.summary["panel"] = wandb.Image(str(panel), caption="image | truth | prediction")


def log_confusion(run: wandb.Run, confusion: np.ndarray) -> None:
    """The validation confusion matrix as a table: one row a pair of truth and predicted class, with its pixels."""
    rows = [[CLASSES[i], CLASSES[j], int(count)] for (i, j), count in np.ndenumerate(confusion)]
    run.summary["confusion"] = wandb.Table(columns=["truth", "prediction", "pixels"], data=rows)


def log_curves(run: wandb.Run, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Precision-recall curves, name -> (recall, precision), thinned to CURVE_POINTS, as a table."""
    rows = []
    for name, (recall, precision) in curves.items():
        for i in np.linspace(0, len(recall) - 1, CURVE_POINTS).astype(int):
            rows.append([name, float(recall[i]), float(precision[i])])
    run.summary["precision_recall"] = wandb.Table(columns=["class", "recall", "precision"], data=rows)


def log_figures(entity: str, project: str, name: str, figures: Mapping[str, Path]) -> str:
    """Figures, name -> PNG file, as pictures `figures/<name>` of a run of their own; its id, which is `name`."""
    settings = wandb.Settings(quiet=True, silent=True, disable_git=True)
    with wandb.init(
        entity=entity, project=project, id=name, name=name, job_type="report", resume="allow", settings=settings
    ) as run:
        run.log({f"figures/{key}": wandb.Image(str(path)) for key, path in figures.items()})
    return name


def _asked_to_stop(run: wandb.Run) -> bool:
    """Whether W&B wants this run stopped (Hyperband, a cancelled sweep, the stop button), rather than the machine being taken.

    Both reach the process as the same signal, so ask the server, by W&B's GraphQL: it is the only one who knows.
    """
    query = """query RunStopped($entity: String, $project: String!, $run: String!) {
        project(name: $project, entityName: $entity) { run(name: $run) { stopped shouldStop } }
    }"""
    variables = {"entity": run.entity, "project": run.project, "run": run.id}
    key = _api_key()
    if not key:
        return False
    try:
        reply = requests.post(
            f"{_base_url()}/graphql", json={"query": query, "variables": variables}, auth=("api", key), timeout=5
        )
        found = reply.json()["data"]["project"]["run"]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return False
    return bool(found["stopped"] or found["shouldStop"])

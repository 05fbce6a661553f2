"""Writes to W&B: opens, resumes and finishes runs, and logs their rows, tables, pictures and files.

`_step` of a row is its epoch, counted from 1. So Hyperband's iterations, a pruner's steps and
epochs are the same number.
"""

import os
import re
import secrets
import string
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import requests
import wandb
from numpy.typing import NDArray
from wandb.apis.public.runs import RunNotFoundError

from segmentation import account, windows
from segmentation.checkpoint import PACKED, Checkpoint, Row
from segmentation.config import NOT_HYPERPARAMETERS, STATUSES, Config, is_baseline, settle
from segmentation.ending import RunEnded
from segmentation.errors import UserError
from segmentation.labels import CLASSES, IGNORE
from segmentation.metrics import Curves
from segmentation.prepared import PreparedSet

PROJECT = "aerial-sweeps"
"""Used if neither WANDB_PROJECT nor W&B's settings file names a project."""

RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")

CURVE_POINTS = 101
"""Points per precision-recall curve on the run's page: enough to draw, few enough for a table."""

Answer = TypeVar("Answer")
Run: TypeAlias = wandb.Run


def run_id() -> str:
    """The run's id: WANDB_RUN_ID, or a new one.

    Raises:
        UserError: W&B or a file system would refuse the id.
    """
    name = os.environ.get("WANDB_RUN_ID") or "".join(
        secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8)
    )
    if not RUN_ID.fullmatch(name):
        raise UserError(
            f"WANDB_RUN_ID={name!r} is not a run id; "
            "use at most 128 letters, digits, '-', '_' and '.' (not first)"
        )
    return name


def start(
    api: wandb.Api | None, given: Mapping[str, Any], prepared: PreparedSet, checkpoint: Checkpoint
) -> tuple[Run, Config]:
    """Opens a new run or resumes an earlier one, and resolves its hyperparameters.

    The run's id is the name of the checkpoint's folder. A sweep's values override `given`, and
    those override the defaults.

    If the server holds more epochs than the checkpoint, the uploaded checkpoint replaces it. If
    that has fewer epochs too, the run's history is started over with the rows of the checkpoint:
    one history is one training.

    Args:
        api: What `connect` returned.
        given: Hyperparameters given by the user.
        prepared: The set to train on.
        checkpoint: The state of the run on this machine; may be empty.

    Raises:
        UserError: The run or its sweep was trained on other data; nothing was sent then. Or a
            value is not allowed, for example one of a sweep; then the run is marked as failed.
    """
    name = checkpoint.folder.name
    start_over = False
    if api is not None:
        owner = api.settings["entity"] or api.default_entity
        project = "/".join(filter(None, (owner, _project())))
        _check_sweep_data(api, project, prepared)
        earlier = _earlier_run(api, f"{project}/{name}")
        if earlier is not None:
            _check_data(f"run {name}", earlier.config, prepared)
            if not _continues(earlier, checkpoint):
                start_over = True
                given = _hyperparameters(earlier.config) | dict(given)
    run = _init(name, given, start_over)
    try:
        config = settle(_hyperparameters(dict(run.config)), prepared.patch_size)
        windows.check(config, prepared)
    except UserError:
        run.finish(exit_code=1)
        raise
    data = {key: prepared.manifest[key] for key in ("checksum", "leaks", "options")}
    # the other values are there already, and a sweep's may not be written again
    defaults = {key: value for key, value in asdict(config).items() if key not in run.config}
    _update_config(run, defaults | {"data": data})
    tags = run.tags or ()
    if is_baseline(asdict(config)) and "baseline" not in tags:
        run.tags = (*tags, "baseline")
    run.define_metric("*", step_metric="epoch")
    _use_data(run, prepared)
    return run, config


def _hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters in a run's config."""
    return {key: value for key, value in config.items() if key not in NOT_HYPERPARAMETERS}


def _project() -> str:
    return account.settings().project or PROJECT


def _earlier_run(api: wandb.Api, path: str) -> "wandb.apis.public.Run | None":
    """The run of this path as the server has it, or None if the server has no such run.

    Raises:
        UserError: The server does not say whether it has the run. Treated as new, its history
            would mix two trainings.
    """
    if not os.environ.get("WANDB_RUN_ID"):
        return None
    return _answer(f"run {path}", lambda: api.run(path))


def _check_data(owner: str, config: Mapping[str, Any], prepared: PreparedSet) -> None:
    """Raises UserError if `owner`, whose config this is, was trained on another prepared set."""
    data = config.get("data")
    trained = data.get("checksum") if isinstance(data, Mapping) else None
    here = prepared.manifest["checksum"]
    if trained and trained != here:
        raise UserError(
            f"{owner} was trained on the data set {trained[:12]}, and {prepared.folder} holds "
            f"{here[:12]}; name the first one with --data or AERIAL_DATA, or start a new run or "
            "sweep"
        )


def _check_sweep_data(api: wandb.Api, project: str, prepared: PreparedSet) -> None:
    """Raises UserError if this run's sweep has runs on other data: they cannot be compared."""
    sweep = os.environ.get("WANDB_SWEEP_ID")
    if not sweep:
        return

    def configs() -> list[Mapping[str, Any]]:
        runs = api.runs(
            project, filters={"sweep": sweep}, order="+created_at", per_page=10, lazy=False
        )
        return [runs[i].config for i in range(min(10, len(runs)))]

    for config in _answer(f"sweep {sweep}", configs) or []:
        _check_data(f"sweep {sweep}", config, prepared)


def _answer(what: str, ask: Callable[[], Answer]) -> Answer | None:
    """What `ask` returns, or None if W&B says that there is no `what`.

    Raises:
        UserError: W&B does not answer.
    """
    try:
        return ask()
    except (ValueError, wandb.errors.Error, requests.RequestException) as error:
        # For a run or project that does not exist, the client raises a ValueError, bare or as
        # CommError.exc.
        if type(getattr(error, "exc", error)) in (ValueError, RunNotFoundError):
            return None
        raise UserError(
            f"W&B does not answer for {what} ({account.first_line(error)}); start the command again"
        ) from error


def _continues(earlier: "wandb.apis.public.Run", checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint holds the training whose rows the server has.

    If it does not, the uploaded checkpoint replaces it first, if there is one. The run is resumed
    from the resulting checkpoint in either case.
    """
    epochs = max(0, int(earlier.lastHistoryStep))
    loss = earlier.summary_metrics.get("loss")
    if checkpoint.agrees(epochs, loss):
        return True
    uploaded = next(iter(earlier.files([PACKED])), None)
    if uploaded is not None:
        with tempfile.TemporaryDirectory() as folder:
            uploaded.download(root=folder, replace=True)
            checkpoint.unpack(Path(folder) / PACKED)
        print(f"resuming from the uploaded checkpoint of epoch {checkpoint.epoch}", flush=True)
    if checkpoint.agrees(epochs, loss):
        return True
    print(
        f"the run's history has {epochs} epochs, and the only available checkpoint has "
        f"{checkpoint.epoch}: the history is started over, and training resumes after epoch "
        f"{checkpoint.epoch}",
        flush=True,
    )
    return False


def _init(name: str, config: Mapping[str, Any], start_over: bool) -> Run:
    """The open W&B run.

    Args:
        name: The run's id.
        config: Its hyperparameters.
        start_over: Whether to delete the rows that the server has of the run.

    Raises:
        UserError: The server refuses the run.
    """
    if start_over:
        os.environ.pop("WANDB_RESUME", None)  # the client refuses it together with resume_from
    try:
        return wandb.init(
            project=_project(),
            id=name,
            config=dict(config),
            resume=None if start_over else "allow",
            resume_from=f"{name}?_step=0" if start_over else None,
            settings=wandb.Settings(quiet=True, silent=False, mode=account.mode()),
        )
    except wandb.errors.Error as error:
        way_out = "choose another WANDB_RUN_ID, or train without the server: WANDB_MODE=offline"
        if start_over:
            way_out = (
                f"resume on the machine that has runs/{name}, share that folder (AERIAL_RUNS), "
                "or start a new run"
            )
        raise UserError(
            f"W&B refuses to open run {name} ({account.first_line(error)}); {way_out}"
        ) from error


def status_of(run: Run, ended: RunEnded) -> str:
    """The final status of a run that ended early, a key of STATUSES.

    A signal means `stopped` if W&B sent it. Otherwise the status is that of `ended`.
    """
    by_signal = ended.status in ("preempted", "interrupted")
    return "stopped" if by_signal and _asked_to_stop(run) else ended.status


def finish(run: Run, status: str | None) -> None:
    """Closes the run. A preempted run returns to its sweep's queue.

    Args:
        status: A key of STATUSES, or None if an error ended the run: W&B shows it as failed.
    """
    if status is None:
        run.finish(exit_code=1)
        return
    run.summary["status"] = status
    if status == "preempted":
        run.mark_preempting()
    run.finish(exit_code=STATUSES[status])


def log_rows(run: Run, rows: list[Row]) -> None:
    """Logs one history row per epoch, `_step` = epoch. Skips rows that the server already has."""
    for row in rows:
        if row["epoch"] >= max(run.step, run.starting_step):
            run.log(row, step=int(row["epoch"]), commit=True)


class CheckpointUpload:
    """Uploads the checkpoint to the run's page, so that another machine can resume the run.

    The page keeps one version.
    """

    def __init__(self, run: Run, checkpoint: Checkpoint, minutes: float) -> None:
        """Uploads at most once per `minutes`; with 0, or offline, never."""
        self.run, self.checkpoint, self.seconds = run, checkpoint, 60 * minutes
        self.enabled = minutes > 0 and not run.offline
        self.sent_at, self.sent_epoch = time.monotonic(), 0

    def if_due(self) -> None:
        """Starts an upload if the last one was long enough ago."""
        if time.monotonic() - self.sent_at >= self.seconds:
            self.now()

    def now(self) -> None:
        """Starts an upload in the background; `wandb.Run.finish` waits for it."""
        if self.enabled and self.checkpoint.epoch > self.sent_epoch:
            packed = self.checkpoint.pack()
            self.run.save(str(packed), base_path=str(packed.parent), policy="now")
            self.sent_at, self.sent_epoch = time.monotonic(), self.checkpoint.epoch


def log_environment(run: Run, device: str, precision: str) -> None:
    """Logs what results depend on beside the hyperparameters: git commit, device and precision.

    The commit ends in "+" if files were changed since.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "HEAD") or "unknown"
    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    environment = {"commit": commit + changed, "device": device, "precision": precision}
    _update_config(run, {"environment": environment})


def stored(run: Run) -> dict[str, Any]:
    """The run's name, address, tags and config, as W&B's reading client returns them."""
    return {
        "name": run.name or "",
        "url": "" if run.offline or run.disabled else run.url or "",
        "tags": sorted(run.tags or ()),
        "config": dict(run.config),
    }


def _update_config(run: Run, values: dict[str, Any]) -> None:
    """Writes values to the run's config, also over those of an earlier process of this run."""
    # type: the client does not annotate this method
    run.config.update(values, allow_val_change=True)  # type: ignore[no-untyped-call]  # see above


def _use_data(run: Run, prepared: PreparedSet) -> None:
    """Logs the prepared set as the run's input, by its manifest.

    The same set is the same artifact version on every machine.
    """
    manifest, folder = prepared.manifest, prepared.folder
    artifact = wandb.Artifact(
        "prepared",
        type="dataset",
        metadata={"checksum": manifest["checksum"]} | manifest["options"],
    )
    artifact.add_file(str(folder / "manifest.json"))
    if run.offline:  # the client refuses use_artifact offline; `wandb sync` uploads what is logged
        run.log_artifact(artifact)
    else:
        run.use_artifact(artifact)


def save_model(run: Run, files: Mapping[str, Path], metadata: Mapping[str, Any]) -> None:
    """Uploads weights as the artifact `model`, with the run id as alias.

    Args:
        files: Name inside the artifact -> .keras file.
        metadata: Shown beside the artifact: the row of the best epoch.
    """
    artifact = wandb.Artifact("model", type="model", metadata=dict(metadata))
    for name, path in files.items():
        artifact.add_file(str(path), name=name)
    run.log_artifact(artifact, aliases=[run.id])


def log_pictures(
    run: Run,
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    predictions: NDArray[np.uint8],
    captions: list[str],
    panel: Path,
) -> None:
    """Logs patches with truth and prediction as overlays, and one picture of all of them.

    Args:
        images: (n, h, w, 3) RGB.
        masks: (n, h, w) class indices of the truth.
        predictions: (n, h, w) predicted class indices.
        captions: n texts.
        panel: PNG file with all patches in the class colours.
    """
    names = dict(enumerate(CLASSES)) | {IGNORE: "ignore"}

    def picture(i: int) -> wandb.Image:
        layers = {"truth": masks[i], "prediction": predictions[i]}
        overlays = {
            name: {"mask_data": values, "class_labels": names} for name, values in layers.items()
        }
        return wandb.Image(images[i], masks=overlays, caption=captions[i])

    run.summary["predictions"] = [picture(i) for i in range(len(images))]
    run.summary["panel"] = wandb.Image(str(panel), caption="image | truth | prediction")


def log_confusion(run: Run, confusion: NDArray[np.int64]) -> None:
    """Logs the validation confusion matrix as a table.

    It has one row per pair of true and predicted class, with its number of pixels.
    """
    rows = [[CLASSES[i], CLASSES[j], int(count)] for (i, j), count in np.ndenumerate(confusion)]
    run.summary["confusion"] = wandb.Table(columns=["truth", "prediction", "pixels"], data=rows)


def log_curves(run: Run, curves: Curves) -> None:
    """Logs precision-recall curves as a table, with CURVE_POINTS points per curve."""
    rows = []
    for name, (recall, precision) in curves.items():
        for i in np.linspace(0, len(recall) - 1, CURVE_POINTS).astype(int):
            rows.append([name, float(recall[i]), float(precision[i])])
    run.summary["precision_recall"] = wandb.Table(
        columns=["class", "recall", "precision"], data=rows
    )


def log_figures(entity: str, project: str, name: str, figures: Mapping[str, Path]) -> str:
    """Logs figures as pictures `figures/<name>` of a separate run. Used by `analysis.publish`.

    Args:
        entity: Owner of the project.
        project: The project.
        name: Id and name of the run. An earlier run of this id gets new pictures.
        figures: Name -> PNG file.

    Returns:
        The run's id.
    """
    settings = wandb.Settings(quiet=True, silent=True, disable_git=True)
    with wandb.init(
        entity=entity,
        project=project,
        id=name,
        name=name,
        job_type="report",
        resume="allow",
        settings=settings,
    ) as run:
        run.log({f"figures/{key}": wandb.Image(str(path)) for key, path in figures.items()})
    return name


def _asked_to_stop(run: Run) -> bool:
    """Whether W&B wants this run stopped: by Hyperband, a cancelled sweep or the stop button.

    The process gets the same signal as from a machine that is preempted. Only the server knows the
    difference, so this asks it through W&B's GraphQL.
    """
    query = """query RunStopped($entity: String, $project: String!, $run: String!) {
        project(name: $project, entityName: $entity) { run(name: $run) { stopped shouldStop } }
    }"""
    variables = {"entity": run.entity, "project": run.project, "run": run.id}
    chosen = account.settings()
    if run.offline or not chosen.api_key:
        return False
    try:
        reply = requests.post(
            f"{chosen.base_url.rstrip('/')}/graphql",
            json={"query": query, "variables": variables},
            auth=("api", chosen.api_key),
            timeout=5,
        )
        answer = reply.json()["data"]["project"]["run"]
        return bool(answer["stopped"] or answer["shouldStop"])
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return False

"""WRITES to W&B: the only file of the package that imports wandb. It gets arrays, dicts and paths; nothing calls back.

`_step` of a row is its epoch, counted from 1, so Hyperband's iterations, a pruner's steps and epochs are one number.
"""

import os
import re
import secrets
import string
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import requests
import wandb
from wandb.apis.public.runs import RunNotFoundError

from segmentation.checkpoint import PACKED, Checkpoint
from segmentation.config import BASELINE, NOT_HYPERPARAMETERS, Config
from segmentation.ending import RunEnded
from segmentation.errors import UserError
from segmentation.labels import CLASSES, IGNORE
from segmentation.prepared import PreparedSet

PROJECT = "aerial-sweeps"  # where neither WANDB_PROJECT nor W&B's settings file names one
ANSWER_SECONDS = 4  # a W&B server that does not answer for so long counts as not reachable
RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
CURVE_POINTS = (
    101  # of a precision-recall curve on the run's page: enough to draw, small enough for a table
)


def settings() -> wandb.Settings:
    """W&B's own settings: environment, settings files, and the key that `wandb login` stored.

    The client is asked for address and key, so every way of logging in that it knows works here too.
    Raises UserError where the key cannot be one.
    """
    singleton = wandb.setup(wandb.Settings(silent=True))  # else it prints where it found the key
    try:
        wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        raise UserError(f"{_first_line(error)}; log in again: wandb login --relogin") from error
    return singleton.settings


def mode() -> str:
    """`online` where the client has credentials, else `offline`; WANDB_MODE and `wandb offline` decide first."""
    chosen = settings()
    if os.environ.get("WANDB_MODE") or chosen.mode != "online":
        return chosen.mode
    return "online" if _has_credentials(chosen) else "offline"


def connect() -> wandb.Api | None:
    """W&B's reading client, or None where runs stay on this machine.

    Raises UserError within about five seconds where the server does not answer or refuses the login.
    """
    chosen = settings()
    if mode() != "online":
        return None
    if not _has_credentials(chosen):
        raise UserError(
            "WANDB_MODE=online needs a W&B account: run `wandb login`, or set WANDB_API_KEY"
        )
    try:
        ping(chosen)
        return wandb.Api(timeout=ANSWER_SECONDS)
    except (wandb.errors.Error, requests.RequestException) as error:
        raise UserError(
            f"W&B at {chosen.base_url} does not accept this login ({_first_line(error)}); check the network and the key "
            "(wandb login --relogin), or train without it: WANDB_MODE=offline"
        ) from error


def ping(chosen: wandb.Settings) -> None:
    """Raises requests.RequestException where no server answers at the client's address within ANSWER_SECONDS.

    Asked without the client: its service process retries for minutes, and Python waits for that process at exit.
    """
    named = {"http": chosen.http_proxy, "https": chosen.https_proxy}
    proxies = {
        scheme: proxy for scheme, proxy in named.items() if proxy
    }  # None would hide HTTPS_PROXY
    # an SSL error comes from a server that answers; the client checks it with its own certificates
    with suppress(requests.exceptions.SSLError):
        requests.get(
            f"{chosen.base_url.rstrip('/')}/healthz", proxies=proxies, timeout=ANSWER_SECONDS
        )


def run_id() -> str:
    """The run's id: WANDB_RUN_ID, or a new one. Raises UserError for an id that W&B or a file system refuses."""
    name = os.environ.get("WANDB_RUN_ID") or "".join(
        secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8)
    )
    if not RUN_ID.fullmatch(name):
        raise UserError(
            f"WANDB_RUN_ID={name!r} is not a run id; use letters, digits, '-', '_' and '.' (not first), 128 at most"
        )
    return name


def start(
    api: wandb.Api | None, given: Mapping, prepared: PreparedSet, checkpoint: Checkpoint
) -> tuple[wandb.Run, Config]:
    """Opens the run, or resumes the one that the checkpoint's folder is named after, and settles its hyperparameters.

    A sweep's values win over `given`, and those win over the defaults. If the server holds more epochs than the
    checkpoint, the uploaded checkpoint replaces it. If that has fewer epochs too, the run's history is started over
    with the rows of the checkpoint: one history is one training.

    `api` is what `connect` returned. Raises UserError, before anything is sent, for a run or sweep that was trained on
    other data, and for values that no run may have.
    """
    where, name = mode(), checkpoint.folder.name
    options: dict = {"resume": "allow"}
    given = dict(given)
    if api is not None:
        project = "/".join(filter(None, (api.settings["entity"] or api.default_entity, _project())))
        _check_sweep_data(api, project, prepared)
        earlier = _earlier_run(api, f"{project}/{name}")
        if earlier is not None:
            _check_data(f"run {name}", earlier.config, prepared)
            if not _continues(earlier, checkpoint):
                options = {"resume_from": f"{name}?_step=0"}
                stored = {
                    key: value
                    for key, value in earlier.config.items()
                    if key not in NOT_HYPERPARAMETERS
                }
                given = stored | given
    elif where == "offline" and not os.environ.get("WANDB_MODE") and settings().mode == "online":
        print(
            "W&B: offline, because nobody is logged in (`wandb login`); `wandb sync` uploads the run later",
            flush=True,
        )
    run = _init(where, name, given, options)
    try:
        config = Config.from_mapping(
            {
                key: value
                for key, value in dict(run.config).items()
                if key not in NOT_HYPERPARAMETERS
            }
        )
        config.check_patch_size(prepared.patch_size)
    except UserError:
        run.finish(exit_code=1)
        raise
    data = {key: prepared.manifest[key] for key in ("checksum", "leaks", "options")}
    defaults = {
        key: value for key, value in asdict(config).items() if key not in run.config
    }  # a sweep's values are locked
    run.config.update(defaults | {"data": data}, allow_val_change=True)
    if BASELINE.items() <= asdict(config).items() and "baseline" not in run.tags:
        run.tags = (*run.tags, "baseline")
    run.define_metric("*", step_metric="epoch")
    _use_data(run, prepared)
    return run, config


def _has_credentials(chosen: wandb.Settings) -> bool:
    return bool(chosen.api_key or chosen.identity_token_file)


def _project() -> str:
    return settings().project or PROJECT


def _first_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def _earlier_run(api: wandb.Api, path: str) -> "wandb.apis.public.Run | None":
    """The run of this path as the server has it, or None where it has none yet.

    Raises UserError where the server does not say which: a run that is taken for a new one would mix two trainings.
    """
    if not os.environ.get("WANDB_RUN_ID"):
        return None
    with _answered(f"run {path}"):
        return api.run(path)
    return None


def _check_data(owner: str, config: Mapping, prepared: PreparedSet) -> None:
    """Raises UserError where the owner of this config was trained on another prepared set."""
    data = config.get("data")
    trained, here = (
        isinstance(data, Mapping) and data.get("checksum"),
        prepared.manifest["checksum"],
    )
    if trained and trained != here:
        raise UserError(
            f"{owner} was trained on the data set {trained[:12]}, and {prepared.folder} holds {here[:12]}; "
            "name the first one with --data or AERIAL_DATA, or start a new run or sweep"
        )


def _check_sweep_data(api: wandb.Api, project: str, prepared: PreparedSet) -> None:
    """Raises UserError where this run's sweep holds runs of other data: their objectives cannot be compared."""
    sweep = os.environ.get("WANDB_SWEEP_ID")
    if not sweep:
        return
    configs = []
    with _answered(f"sweep {sweep}"):
        runs = api.runs(
            project, filters={"sweep": sweep}, order="+created_at", per_page=10, lazy=False
        )
        configs = [runs[i].config for i in range(min(10, len(runs)))]
    for config in configs:
        _check_data(f"sweep {sweep}", config, prepared)


@contextmanager
def _answered(what: str) -> Iterator[None]:
    """Ends the block early where W&B says that there is no `what`. Raises UserError where it does not answer."""
    try:
        yield
    except (ValueError, wandb.errors.Error, requests.RequestException) as error:
        # For a run or project that does not exist, the client raises a ValueError, bare or as CommError.exc.
        if type(getattr(error, "exc", error)) in (ValueError, RunNotFoundError):
            return
        raise UserError(
            f"W&B does not answer for {what} ({_first_line(error)}); start the command again"
        ) from error


def _continues(earlier: "wandb.apis.public.Run", checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint holds the training whose rows the server has; it is fetched where it does not.

    A checkpoint that was fetched, or that stays, is the one to resume from in any case.
    """
    epochs = max(0, int(earlier.lastHistoryStep))
    val_loss = earlier.summary_metrics.get("val_loss")
    if checkpoint.agrees(epochs, val_loss):
        return True
    uploaded = next(iter(earlier.files([PACKED])), None)
    if uploaded is not None:
        with tempfile.TemporaryDirectory() as folder:
            uploaded.download(root=folder, replace=True)
            checkpoint.unpack(Path(folder) / PACKED)
        print(f"resuming from the uploaded checkpoint of epoch {checkpoint.epoch}", flush=True)
    if checkpoint.agrees(epochs, val_loss):
        return True
    print(
        f"the run's history has {epochs} epochs, and the only checkpoint to be had holds {checkpoint.epoch}: "
        f"the history is started over, and training resumes after epoch {checkpoint.epoch}",
        flush=True,
    )
    return False


def _init(where: str, name: str, config: dict, options: dict) -> wandb.Run:
    """The open W&B run. Raises UserError where the server refuses it."""
    if "resume_from" in options:
        os.environ.pop("WANDB_RESUME", None)  # the client refuses both
    try:
        return wandb.init(
            project=_project(),
            id=name,
            mode=where,
            config=config,
            settings=wandb.Settings(quiet=True, silent=False),
            **options,
        )
    except wandb.errors.Error as error:
        way_out = "choose another WANDB_RUN_ID, or train without the server: WANDB_MODE=offline"
        if "resume_from" in options:
            way_out = f"resume on the machine that has runs/{name}, share that folder (AERIAL_RUNS), or start a new run"
        raise UserError(
            f"W&B refuses to open run {name} ({_first_line(error)}); {way_out}"
        ) from error


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
    """One history row per epoch, `_step` = epoch. Rows that the server already holds are left out."""
    for row in rows:
        if row["epoch"] >= max(run.step, run.starting_step):
            run.log(row, step=row["epoch"], commit=True)


class CheckpointUpload:
    """Sends the checkpoint to the run's page, so that another machine can resume the run. One version is kept there."""

    def __init__(self, run: wandb.Run, checkpoint: Checkpoint, minutes: float):
        """Uploads at most every `minutes`; with 0, or offline, never."""
        self.run, self.checkpoint, self.seconds = run, checkpoint, 60 * minutes
        self.enabled = minutes > 0 and not run.offline
        self.sent_at, self.sent_epoch = time.monotonic(), 0

    def if_due(self) -> None:
        """Uploads in the background where the last upload is old enough."""
        if time.monotonic() - self.sent_at >= self.seconds:
            self.now()

    def now(self) -> None:
        """Starts an upload; `wandb.Run.finish` waits for it."""
        if self.enabled and self.checkpoint.epoch > self.sent_epoch:
            packed = self.checkpoint.pack()
            self.run.save(str(packed), base_path=str(packed.parent), policy="now")
            self.sent_at, self.sent_epoch = time.monotonic(), self.checkpoint.epoch


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
    """Record the prepared set as the run's input, by its manifest. The same set is the same version on every machine."""
    manifest, folder = prepared.manifest, prepared.folder
    artifact = wandb.Artifact(
        "prepared",
        type="dataset",
        metadata={"checksum": manifest["checksum"]} | manifest["options"],
    )
    artifact.add_file(str(folder / "manifest.json"))
    if run.offline:  # the client refuses use_artifact there; logged, it is uploaded by `wandb sync`
        run.log_artifact(artifact)
    else:
        run.use_artifact(artifact)


def save_model(run: wandb.Run, files: Mapping[str, Path], metadata: Mapping) -> None:
    """Upload weights as the artifact `model` with the run id as alias; `files` maps names inside it to .keras files."""
    artifact = wandb.Artifact("model", type="model", metadata=dict(metadata))
    for name, path in files.items():
        artifact.add_file(str(path), name=name)
    run.log_artifact(artifact, aliases=[run.id])


def log_pictures(
    run: wandb.Run,
    images: np.ndarray,
    masks: np.ndarray,
    predictions: np.ndarray,
    captions: list[str],
    panel: Path,
) -> None:
    """Patches with truth and prediction as overlays to switch on and off, and one picture of them all in the class colours.

    Images are (n, h, w, 3) uint8 RGB, masks and predictions (n, h, w) uint8 class indices; `panel` is a PNG file.
    """
    names = dict(enumerate(CLASSES)) | {IGNORE: "ignore"}

    def picture(image, mask, prediction, caption):
        layers = {"truth": mask, "prediction": prediction}
        masks = {
            name: {"mask_data": values, "class_labels": names} for name, values in layers.items()
        }
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
    run.summary["precision_recall"] = wandb.Table(
        columns=["class", "recall", "precision"], data=rows
    )


def log_figures(entity: str, project: str, name: str, figures: Mapping[str, Path]) -> str:
    """Figures, name -> PNG file, as pictures `figures/<name>` of a run of their own; its id, which is `name`."""
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


def _asked_to_stop(run: wandb.Run) -> bool:
    """Whether W&B wants this run stopped (Hyperband, a cancelled sweep, the stop button), rather than the machine being taken.

    Both reach the process as the same signal, so ask the server, by W&B's GraphQL: it is the only one who knows.
    """
    query = """query RunStopped($entity: String, $project: String!, $run: String!) {
        project(name: $project, entityName: $entity) { run(name: $run) { stopped shouldStop } }
    }"""
    variables = {"entity": run.entity, "project": run.project, "run": run.id}
    chosen = settings()
    if run.offline or not chosen.api_key:
        return False
    try:
        reply = requests.post(
            f"{chosen.base_url.rstrip('/')}/graphql",
            json={"query": query, "variables": variables},
            auth=("api", chosen.api_key),
            timeout=5,
        )
        found = reply.json()["data"]["project"]["run"]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return False
    return bool(found["stopped"] or found["shouldStop"])

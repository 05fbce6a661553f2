"""Trains one model: options, configuration, W&B run, model, data, fit, evaluation.

python train.py --data data/prepared --epochs 5 --learning-rate 0.002
"""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segmentation import tensorflow_log, windows
from segmentation.checkpoint import Checkpoint
from segmentation.config import OBJECTIVES, STATUSES, Config, settle
from segmentation.ending import RunEnded, Signals, out_of_memory_caught
from segmentation.model_facts import ModelFacts
from segmentation.options import config_options, given
from segmentation.prepared import PreparedSet
from segmentation.splits import SPLITS

if TYPE_CHECKING:
    from segmentation.tracking import CheckpointUpload, Run


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default="data/prepared",
    envvar="AERIAL_DATA",
    show_envvar=True,
    help="Prepared set to train on.",
)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default="runs",
    envvar="AERIAL_RUNS",
    show_envvar=True,
    help="Folder for checkpoints and weights, with one sub-folder per run id. On a shared disk, "
    "every machine can resume every run.",
)
@click.option(
    "--upload-minutes",
    type=click.FloatRange(0, 1440),
    default=5.0,
    envvar="AERIAL_UPLOAD_MINUTES",
    show_envvar=True,
    help="Minimum time between two uploads of the checkpoint; 0 for none. With an upload, another "
    "machine can resume the run.",
)
@config_options
@click.pass_context
def main(
    context: click.Context, /, data: Path, runs: Path, upload_minutes: float, **_: Any
) -> None:
    """Train one model on a prepared set and log it as one W&B run.

    Without a W&B login, the run stays on this machine. In a sweep, the sweep's values override
    these options. Set WANDB_RUN_ID to resume an interrupted run.
    """
    with Signals() as signals:
        sys.exit(STATUSES[run(given(context), data, runs, signals, upload_minutes)])


def run(
    options: Mapping[str, Any],
    data: Path,
    runs: Path,
    signals: Signals,
    upload_minutes: float = 5.0,
) -> str:
    """Checks the input, starts one W&B run, trains, and finishes the run.

    Args:
        options: Hyperparameters that were given; the others have their defaults.
        data: Folder of the prepared set.
        runs: Folder for checkpoints, one sub-folder per run id.
        signals: How the process is asked to end.
        upload_minutes: Minimum time between two uploads of the checkpoint; 0 for none.

    Returns:
        The final status, a key of STATUSES.

    Raises:
        UserError: A file, option or environment variable does not allow the run.
    """
    prepared = PreparedSet.open(data)
    windows.check(settle(options, prepared.patch_size), prepared)
    # W&B, and Keras below, are imported here: bad options are reported before these slow imports
    from segmentation import account, tracking

    run_id, api = tracking.run_id(), account.connect()
    with Checkpoint(runs / run_id) as checkpoint:
        wandb_run, config = tracking.start(api, options, prepared, checkpoint)
        folder = Path(wandb_run.dir).parent
        upload = tracking.CheckpointUpload(wandb_run, checkpoint, upload_minutes)
        status = None
        try:
            status = train(wandb_run, config, prepared, checkpoint, signals, upload)
        except RunEnded as ended:
            status = tracking.status_of(wandb_run, ended)
            if status == "preempted":
                upload.now()
            print(
                f"run {run_id} {status}: {ended}; "
                f"resume it with WANDB_RUN_ID={run_id} python train.py ...",
                flush=True,
            )
        finally:
            signals.limit_finish(folder)
            tracking.finish(wandb_run, status)
        checkpoint.end(status)
    if not wandb_run.disabled:
        print(f"W&B run:  {folder if wandb_run.offline else wandb_run.url}", flush=True)
    if checkpoint.epoch:
        report = ("python", "-m", "analysis.run", str(checkpoint.folder), "--data", str(data))
        print(f"report:   {shlex.join(report)}", flush=True)
    return status


def train(
    wandb_run: "Run",
    config: Config,
    prepared: PreparedSet,
    checkpoint: Checkpoint,
    signals: Signals,
    upload: "CheckpointUpload",
) -> str:
    """Trains the model from its last finished epoch and evaluates the best weights.

    Returns:
        "finished".

    Raises:
        RunEnded: The run ends before its last epoch.
    """
    with tensorflow_log.filtered():
        import keras

        from segmentation import account, callbacks, datasets, evaluation, losses, models, tracking
        from segmentation.device import set_precision

        keras.utils.set_random_seed(config.seed)
        # a resumed run keeps its number format, even if another one is faster on this device
        resumed_with = checkpoint.precision if config.precision == "auto" else None
        device, precision = set_precision(resumed_with or config.precision)

    checkpoint.identify(_identity(config, prepared, precision))
    tracking.log_environment(wandb_run, device, precision)
    checkpoint.describe(ModelFacts.of_training(config, prepared), tracking.stored(wandb_run))
    tracking.log_rows(wandb_run, checkpoint.rows)

    train_data = datasets.training(prepared, config, checkpoint.epoch)
    val_data = None
    if prepared.has("val"):
        val_data = datasets.Patches(prepared, "val", config.val_batch_size)
    if checkpoint.epoch:
        model = checkpoint.load()
    else:
        model = models.compiled(config, prepared.patch_size, len(train_data))
    print(description(device, precision, model.count_params(), prepared), flush=True)
    if account.is_logged_out():
        print(
            "W&B: offline, because nobody is logged in (`wandb login`); "
            "`wandb sync` uploads the run later",
            flush=True,
        )
    try:
        with out_of_memory_caught():
            model.fit(
                train_data,
                initial_epoch=checkpoint.epoch,
                epochs=config.epochs,
                callbacks=[
                    keras.callbacks.LambdaCallback(on_train_batch_end=signals.check),
                    callbacks.Reseed(config.seed),
                    callbacks.Progress(config.epochs, len(train_data)),
                    callbacks.EpochLogger(
                        checkpoint,
                        config,
                        val_data,
                        train_data.images_per_epoch,
                        check=signals.check,
                        log=lambda row: tracking.log_rows(wandb_run, [row]),
                    ),
                    keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: upload.if_due()),
                ],
                shuffle=False,  # the training data shuffles itself, by seed and epoch
                verbose=0,
            )
    except RunEnded as ended:
        if ended.status in ("diverged", "oom") and not checkpoint.epoch and val_data is not None:
            # the run reached no value; see OBJECTIVES
            worst = dict(zip(OBJECTIVES, (losses.LOSSES[config.loss].worst, 1.0), strict=True))
            tracking.log_rows(wandb_run, [{"epoch": 1, **worst}])
        raise
    evaluation.log_best_weights(wandb_run, config, checkpoint, prepared, val_data)
    return "finished"


def _identity(config: Config, prepared: PreparedSet, precision: str) -> dict[str, Any]:
    """What all epochs of a run have in common. See `Checkpoint.identify`."""
    values = asdict(config) | {"data": prepared.manifest["checksum"], "precision": precision}
    if config.schedule == "constant":  # more epochs continue the same training
        del values["epochs"]
    return values


def description(device: str, precision: str, parameters: int, prepared: PreparedSet) -> str:
    """One line: device, precision, number of parameters, and patches per split."""
    patches = ", ".join(f"{prepared.manifest['patches'][split]:,} {split}" for split in SPLITS)
    return f"{device}, {precision}, {parameters:,} parameters; patches: {patches}"


if __name__ == "__main__":
    main()

"""One training run: settle the input, start the W&B run, train, finish.

python train.py --data data/prepared --epochs 5 --learning-rate 0.002
"""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from segmentation.config import OBJECTIVE, STATUSES, Config
from segmentation.ending import RunEnded, Signals, memory_watched
from segmentation.options import config_options, given
from segmentation.prepared import PreparedSet


@click.command(context_settings={"show_default": True, "max_content_width": 120})
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
    help="Checkpoints and weights, one folder per run id; on a shared disk, every machine can resume every run.",
)
@click.option(
    "--upload-minutes",
    type=click.FloatRange(0, 1440),
    default=5.0,
    envvar="AERIAL_UPLOAD_MINUTES",
    show_envvar=True,
    help="Least time between two uploads of the checkpoint, from which another machine resumes the run; 0 for none.",
)
@config_options
@click.pass_context
def main(context: click.Context, data: Path, runs: Path, upload_minutes: float, **_) -> None:
    """Train one model on a prepared set and record it as one W&B run.

    Without a W&B login the run is kept on this machine. In a sweep the sweep's values win over these options. An
    interrupted run is resumed when WANDB_RUN_ID names it.
    """
    with Signals() as signals:
        sys.exit(STATUSES[run(given(context), data, runs, signals, upload_minutes)])


def run(
    options: dict, data: Path, runs: Path, signals: Signals, upload_minutes: float = 5.0
) -> str:
    """One W&B run from start to finish. Returns how it ended, a key of STATUSES."""
    prepared = PreparedSet.open(data)
    Config.from_mapping(options).check_patch_size(prepared.patch_size)

    from segmentation import (
        tracking,
    )  # late, as Keras in `train`: a wrong option is reported before seconds of importing
    from segmentation.checkpoint import Checkpoint

    run_id, api = tracking.run_id(), tracking.connect()
    with Checkpoint(runs / run_id) as checkpoint:
        wandb_run, config = tracking.start(api, options, prepared, checkpoint)
        upload = tracking.CheckpointUpload(wandb_run, checkpoint, upload_minutes)
        try:
            status = train(wandb_run, config, prepared, checkpoint, signals, upload)
        except RunEnded as ended:
            status = tracking.status_of(wandb_run, ended)
            if status == "preempted":
                upload.now()
            resume = f"resume it with WANDB_RUN_ID={wandb_run.id} python train.py ..."
            print(f"run {wandb_run.id} {status}: {ended}; {resume}", flush=True)
        except BaseException:
            signals.limit_finish(Path(wandb_run.dir).parent)
            wandb_run.finish(exit_code=1)
            raise
        signals.limit_finish(Path(wandb_run.dir).parent)
        tracking.finish(wandb_run, status, STATUSES[status])
    if not wandb_run.disabled:
        print(
            f"W&B run:  {Path(wandb_run.dir).parent if wandb_run.offline else wandb_run.url}",
            flush=True,
        )
    return status


def train(
    wandb_run, config: Config, prepared: PreparedSet, checkpoint, signals: Signals, upload
) -> str:
    """Data, model, fit, evaluation of the best weights. Returns "finished", or raises RunEnded."""
    import keras

    from segmentation import callbacks, datasets, losses, models, record, tracking

    keras.utils.set_random_seed(config.seed)
    resumed_with = checkpoint.precision if config.precision == "auto" else None
    device, precision = models.set_precision(resumed_with or config.precision)
    hyperparameters = {name: value for name, value in asdict(config).items() if name != "epochs"}
    checkpoint.identify(
        hyperparameters | {"data": prepared.manifest["checksum"], "precision": precision}
    )
    tracking.log_environment(wandb_run, device, precision)
    model = checkpoint.load() if checkpoint.epoch else models.build(config, prepared.patch_size)
    tracking.log_rows(wandb_run, checkpoint.rows)

    train_data = datasets.Patches(
        prepared, "train", config.batch_size, config.seed, config.augment, checkpoint.epoch
    )
    val_data = datasets.Patches(prepared, "val", config.val_batch_size)
    loss = losses.LOSSES[config.loss]()
    if not checkpoint.epoch:
        model.compile(
            keras.optimizers.Adam(config.learning_rate), loss, metrics=[losses.SplitSums(loss)]
        )
        model.optimizer.build(
            model.trainable_variables
        )  # variables made in the first step would have it traced twice
    patches = len(train_data.indices)
    watch = [
        keras.callbacks.LambdaCallback(
            on_train_batch_end=signals.check, on_test_batch_end=signals.check
        ),
        callbacks.Reseed(config.seed),
        callbacks.Progress(config.epochs, len(train_data)),
        callbacks.EpochLogger(
            checkpoint, patches, config.keep_epoch, lambda row: tracking.log_rows(wandb_run, [row])
        ),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: upload.if_due()),
    ]
    try:
        with memory_watched():
            model.fit(
                train_data,
                validation_data=val_data,
                initial_epoch=checkpoint.epoch,
                epochs=config.epochs,
                callbacks=watch,
                shuffle=False,  # the data shuffles itself, by seed and epoch
                verbose=0,
            )
    except RunEnded as ended:
        if ended.status in ("diverged", "oom") and not checkpoint.epoch:
            tracking.log_rows(
                wandb_run, [{"epoch": 1, OBJECTIVE: loss.worst}]
            )  # finite, and ranked last by every search
        raise
    record.best_weights(wandb_run, checkpoint, prepared, val_data)
    return "finished"


if __name__ == "__main__":
    main()

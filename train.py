"""One run, told top to bottom: options, config, data, model, fit, record.

python train.py --data data/prepared --epochs 5 --learning-rate 0.002
"""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from segmentation.config import OBJECTIVE, STATUSES, Config
from segmentation.ending import BadInput, RunEnded, Signals, input_checked, memory_watched
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
@click.option("--runs", type=click.Path(path_type=Path), default="runs", help="Checkpoints and weights, a folder a run id.")
@config_options
@click.pass_context
def main(context: click.Context, data: Path, runs: Path, **_) -> None:
    """Train one model on a prepared set and record it as one W&B run.

    Without a W&B key the run is kept on this machine. In a sweep the sweep's values win over these options. A run goes on where
    it stopped when WANDB_RUN_ID names it.
    """
    with Signals() as signals:
        try:
            status = run(given(context), data, runs, signals)
        except BadInput as error:
            raise click.ClickException(str(error)) from error
    sys.exit(STATUSES[status])


def run(options: dict, data: Path, runs: Path, signals: Signals) -> str:
    """One W&B run from its first to its last word; how it ended is a key of STATUSES."""
    with input_checked():
        prepared = PreparedSet.open(data)
        Config.from_mapping(options).check_patch_size(prepared.patch_size)

        from segmentation import tracking  # late, as Keras in `train`: a wrong option is told before seconds of importing

        wandb_run, config = tracking.start(options, prepared)
    try:
        status = train(wandb_run, config, prepared, runs / wandb_run.id, signals)
    except RunEnded as ended:
        status = tracking.status_of(wandb_run, ended)
        print(f"run {wandb_run.id} {status}: {ended}; go on with WANDB_RUN_ID={wandb_run.id} python train.py ...", flush=True)
    except BaseException:
        wandb_run.finish(exit_code=1)
        raise
    tracking.finish(wandb_run, status, STATUSES[status])
    print(f"W&B run:  {Path(wandb_run.dir).parent if wandb_run.offline else wandb_run.url}", flush=True)
    return status


def train(wandb_run, config: Config, prepared: PreparedSet, folder: Path, signals: Signals) -> str:
    """Data, model, fit, record. Returns "finished", or raises RunEnded."""
    import keras

    from segmentation import callbacks, datasets, losses, models, record, tracking

    keras.utils.set_random_seed(config.seed)
    device, precision = models.set_precision(config.precision)
    tracking.log_environment(wandb_run, device, precision)
    identity = {name: value for name, value in asdict(config).items() if name != "epochs"}
    with input_checked():
        checkpoint = callbacks.Checkpoint(folder, identity | {"data": prepared.manifest["checksum"]})
        model = checkpoint.load() if checkpoint.epoch else models.build(config, prepared.patch_size)
    tracking.log_rows(wandb_run, checkpoint.rows)

    train_data = datasets.Patches(prepared, "train", config.batch_size, config.seed, config.augment, checkpoint.epoch)
    val_data = datasets.Patches(prepared, "val", config.val_batch_size)
    loss = losses.LOSSES[config.loss]()
    if not checkpoint.epoch:
        model.compile(keras.optimizers.Adam(config.learning_rate), loss, metrics=[losses.SplitSums(loss)])
        model.optimizer.build(model.trainable_variables)  # variables made in the first step would have it traced twice
    patches = len(train_data.indices)
    watch = [
        keras.callbacks.LambdaCallback(on_train_batch_end=signals.check, on_test_batch_end=signals.check),
        callbacks.Reseed(config.seed),
        callbacks.Progress(config.epochs, len(train_data)),
        callbacks.Record(checkpoint, patches, config.keep_epoch, lambda row: tracking.log_rows(wandb_run, [row])),
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
        if ended.status in ("diverged", "oom"):  # a finite, worst-ranked objective: the search learns from it and goes on
            tracking.log_rows(wandb_run, [{"epoch": checkpoint.epoch + 1, OBJECTIVE: loss.worst}])
        raise
    record.best_weights(wandb_run, checkpoint, prepared, val_data)
    return "finished"


if __name__ == "__main__":
    main()

"""One run, told top to bottom: options, config, data, model, fit, record.

python train.py --data data/prepared --epochs 5 --learning-rate 0.002
"""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from segmentation.config import OBJECTIVE, Config
from segmentation.ending import BadInput, RunEnded, Signals, input_checked, memory_watched
from segmentation.options import config_options, given
from segmentation.prepared import PreparedSet

EXIT_CODES = {
    "finished": 0,
    "stopped": 0,
    "diverged": 0,
    "oom": 0,
    "interrupted": 130,
    "preempted": 143,
}  # 128 + signal
PICTURES = 6


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
    sys.exit(EXIT_CODES[status])


def run(options: dict, data: Path, runs: Path, signals: Signals) -> str:
    """One W&B run from its first to its last word; how it ended is a key of EXIT_CODES."""
    with input_checked():
        prepared = PreparedSet.open(data)
        Config.from_mapping(options).check_patch_size(prepared.patch_size)

        from segmentation import tracking  # late, as Keras in `train`: a wrong option is told before seconds of importing

        wandb_run, config = tracking.start(options, prepared)
    folder = runs / wandb_run.id
    try:
        status = train(wandb_run, config, prepared, folder, signals)
    except RunEnded as ended:
        status = ended.status
        if status in ("terminated", "interrupted") and tracking.asked_to_stop(wandb_run):
            status = "stopped"
        status = {"terminated": "preempted"}.get(status, status)
        print(
            f"run {wandb_run.id} {status}: {ended}; go on with WANDB_RUN_ID={wandb_run.id} python train.py ...",
            flush=True,
        )
    except BaseException:
        wandb_run.finish(exit_code=1)
        raise
    tracking.finish(wandb_run, status, EXIT_CODES[status])
    print(f"W&B run:  {Path(wandb_run.dir).parent if wandb_run.offline else wandb_run.url}", flush=True)
    return status


def train(wandb_run, config, prepared: PreparedSet, folder: Path, signals: Signals) -> str:
    """Data, model, fit, record. Returns "finished", or raises RunEnded."""
    import keras

    from segmentation import callbacks, datasets, losses, models, tracking

    keras.utils.set_random_seed(config.seed)
    device, precision = models.set_precision(config.precision)
    tracking.log_environment(wandb_run, device, precision)
    identity = asdict(config) | {"data": prepared.manifest["checksum"]}
    with input_checked():
        checkpoint = callbacks.Checkpoint(folder, {name: value for name, value in identity.items() if name != "epochs"})
        model = checkpoint.load() if checkpoint.epoch else models.build(config, prepared.patch_size)
    tracking.log_rows(wandb_run, checkpoint.rows)

    train_data = datasets.Patches(prepared, "train", config.batch_size, config.seed, config.augment, checkpoint.epoch)
    val_data = datasets.Patches(prepared, "val", config.val_batch_size)
    loss = losses.LOSSES[config.loss]()
    try:
        with memory_watched():
            if not checkpoint.epoch:
                model.compile(keras.optimizers.Adam(config.learning_rate), loss, metrics=[losses.SplitSums(loss)])
            watch = [
                keras.callbacks.LambdaCallback(on_train_batch_end=signals.check, on_test_batch_end=signals.check),
                callbacks.Reseed(config.seed),
                callbacks.Progress(config.epochs, len(train_data)),
                callbacks.Record(
                    checkpoint,
                    len(train_data.indices),
                    config.keep_epoch,
                    lambda row: tracking.log_rows(wandb_run, [row]),
                ),
            ]
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
        if ended.status in (
            "diverged",
            "oom",
        ):  # a finite, worst-ranked objective: the search learns from it and goes on
            tracking.log_rows(wandb_run, [{"epoch": checkpoint.epoch + 1, OBJECTIVE: loss.worst}])
        raise
    record(wandb_run, checkpoint, prepared, val_data)
    return "finished"


def record(wandb_run, checkpoint, prepared: PreparedSet, val_data) -> None:
    """What the best weights say on the validation split, into W&B and into the run's folder."""
    import cv2
    import keras
    import numpy as np

    from segmentation import datasets, metrics, tracking
    from segmentation.labels import decode

    best = keras.saving.load_model(checkpoint.path("best"), safe_mode=True)
    confusion, truth, probabilities = metrics.pool(datasets.predict(best, val_data), pixels_a_batch=20_000)
    tracking.log_confusion(wandb_run, confusion)
    tracking.log_curves(wandb_run, metrics.precision_recall_curves(truth, probabilities))

    chosen = val_data.indices[np.linspace(0, len(val_data.indices) - 1, PICTURES).astype(int)]
    images, masks = prepared.images[chosen], prepared.masks[chosen]
    predictions = np.asarray(best.predict_on_batch(images)).argmax(-1).astype(np.uint8)
    captions = ["tile {tile} part {part} row {row} column {column}".format(**prepared.patches[i]) for i in chosen]
    tracking.log_pictures(wandb_run, images, masks, predictions, captions)
    rows = [
        np.hstack([image, decode(mask), decode(guess)]) for image, mask, guess in zip(images, masks, predictions, strict=True)
    ]
    cv2.imwrite(str(checkpoint.folder / "predictions.png"), np.vstack(rows)[..., ::-1])

    row = min(checkpoint.rows, key=lambda row: row["val_loss"])
    tracking.save_model(wandb_run, {f"{role}.keras": checkpoint.path(role) for role in checkpoint.files if role != "last"}, row)
    wandb_run.summary["best_epoch"] = row["epoch"]
    print(f"best epoch {row['epoch']}: {OBJECTIVE} {row[OBJECTIVE]:.4f}, val mean IoU {row['val_mean_iou']:.3f}")
    print(f"numbers:  {checkpoint.folder / 'state.json'}")
    print(f"pictures: {checkpoint.folder / 'predictions.png'} (image | truth | prediction)")


if __name__ == "__main__":
    main()

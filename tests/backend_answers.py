"""What one Keras backend computes for the files of a folder. test_backends.py compares backends.

    KERAS_BACKEND=jax python tests/backend_answers.py FOLDER

FOLDER holds inputs.npz (images, masks and probabilities) and model.keras. The answers are written
to FOLDER/BACKEND.npz.
"""

import sys
from itertools import product
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from segmentation.losses import LOSSES
from segmentation.optimizers import averaged_weights
from segmentation.split_sums import SplitSums


def answers(folder: Path) -> dict[str, NDArray]:
    """Every loss, the sums of a split, and predictions before and after steps, also averaged."""
    inputs = np.load(folder / "inputs.npz")
    images, masks, probabilities = (inputs[name] for name in ("images", "masks", "probabilities"))
    found = {}
    for name, smoothing, unlabeled in product(LOSSES, (0.0, 0.1), ("class", "ignore")):
        loss = LOSSES[name](name, smoothing, unlabeled)
        found[f"{name} {smoothing} {unlabeled}"] = loss(masks, probabilities)
    metric = SplitSums(loss)
    metric.update_state(masks, probabilities)
    metric.update_state(masks[:1], probabilities[:1])
    found |= metric.result()
    model = keras.saving.load_model(folder / "model.keras")
    found["before"] = model.predict_on_batch(images)
    step = model.train_on_batch(images, masks, return_dict=True)
    found |= {f"step {name}": value for name, value in step.items()}
    found["after"] = model.predict_on_batch(images)
    model.save(folder / f"{keras.backend.backend()}.keras")

    def judge(epoch: int, _: dict) -> None:
        with averaged_weights(model):
            logs = model.evaluate(images, masks, verbose=0, return_dict=True)
        found.update({f"averaged {name} {epoch}": value for name, value in logs.items()})

    judging = keras.callbacks.LambdaCallback(on_epoch_end=judge)  # as in a run of train.py
    model.fit(images, masks, epochs=2, shuffle=False, verbose=0, callbacks=[judging])
    return {name: np.asarray(value) for name, value in found.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    np.savez(folder / f"{keras.backend.backend()}.npz", **answers(folder))

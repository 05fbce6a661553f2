"""Losses, counts, one training step and saved models are the same with JAX as with TensorFlow."""

import os
import subprocess
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from backend_answers import answers
from keras import layers
from project_helpers import ROOT

from segmentation.labels import IGNORE, NUM_CLASSES
from segmentation.losses import LOSSES
from segmentation.split_sums import SplitSums

SIZE = 16


def tiny_unet(learning_rate: float) -> keras.Model:
    """A compiled U-Net of one level, without dropout, whose draws differ between backends."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    skip = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.Rescaling(1 / 255)(image))
    low = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.MaxPooling2D()(skip))
    high = layers.Conv2DTranspose(8, 2, strides=2, padding="same")(low)
    scores = layers.Conv2D(NUM_CLASSES, 1)(layers.Concatenate()([high, skip]))
    model = keras.Model(image, layers.Softmax(dtype="float32")(scores))
    loss = LOSSES["ce_dice"]("ce_dice", 0.1, "ignore")
    optimizer = keras.optimizers.Adam(
        learning_rate, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=None
    )
    model.compile(optimizer, loss, metrics=[SplitSums(loss)])
    model.run_eagerly = True
    return model


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares with TensorFlow")
def test_jax_and_tensorflow_agree_and_open_the_models_of_each_other(tmp_path, random):
    images = random.integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    masks = random.choice([*range(NUM_CLASSES), IGNORE], (4, SIZE, SIZE)).astype(np.uint8)
    probabilities = random.dirichlet(np.ones(NUM_CLASSES), masks.shape).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", images=images, masks=masks, probabilities=probabilities)
    tiny_unet(learning_rate=0.01).save(tmp_path / "model.keras")
    ours = answers(tmp_path)
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "backend_answers.py", tmp_path],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not done.returncode, done.stderr
    theirs = np.load(tmp_path / "jax.npz")
    assert set(theirs) == set(ours)
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    assert not np.allclose(ours["before"], ours["after"], atol=1e-3)  # the step did something
    np.testing.assert_array_equal(theirs["confusion"], ours["confusion"])
    opened = keras.saving.load_model(tmp_path / "jax.keras")
    np.testing.assert_allclose(opened.predict_on_batch(images), theirs["after"], atol=1e-4)

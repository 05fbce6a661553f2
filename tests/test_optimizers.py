"""Optimizers: schedule, averaged weights, clipping and the encoder's rate, and that all resume."""

import math

import keras
import numpy as np
import pytest

from segmentation import models, optimizers
from segmentation.checkpoint import Checkpoint
from segmentation.config import Config
from segmentation.errors import UserError

SIZE, STEPS = 16, 3
RECIPE = {
    "schedule": "cosine",
    "warmup_epochs": 1,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "ema": 0.9,
    "filters": 4,
    "dropout": "none",
    "epochs": 4,
    "learning_rate": 0.01,
}


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    return images, random.integers(0, 6, (4, SIZE, SIZE), np.uint8)


def model_of(**changes) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = models.compiled(Config(**RECIPE | changes), SIZE, STEPS)
    model.run_eagerly = True
    return model


def train(model: keras.Model, batch, steps: int) -> list[list[np.ndarray]]:
    """The weights after each of some steps on the same batch."""
    weights = []
    for _ in range(steps):
        model.train_on_batch(*batch)
        weights.append([np.array(weight) for weight in model.trainable_variables])
    return weights


def equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def values(model: keras.Model) -> list[np.ndarray]:
    return [np.array(weight) for weight in model.trainable_variables]


def test_the_schedule_rises_linearly_then_follows_half_a_cosine():
    rate = optimizers.learning_rate(Config(**RECIPE), STEPS)
    total, warmup = 4 * STEPS, STEPS
    for step in range(total + 1):
        if step <= warmup:
            expected = 0.01 * step / warmup
        else:
            expected = 0.01 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
        assert float(rate(step)) == pytest.approx(expected, abs=1e-9)


def test_averaged_weights_follow_their_formula(batch):
    model = model_of()
    history = train(model, batch, 5)
    average = history[0]
    for weights in history[1:]:
        average = [0.9 * a + 0.1 * w for a, w in zip(average, weights, strict=True)]
    with optimizers.averaged_weights(model):
        for value, expected in zip(values(model), average, strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-6)


def test_after_averaged_weights_the_model_has_its_own_bit_for_bit(batch):
    model = model_of()
    own = train(model, batch, 3)[-1]
    with pytest.raises(ZeroDivisionError), optimizers.averaged_weights(model):
        assert not equal(values(model), own)
        raise ZeroDivisionError
    assert equal(values(model), own)


def test_without_averages_nothing_is_exchanged(batch):
    model = model_of(ema=0.0)
    own = train(model, batch, 2)[-1]
    with optimizers.averaged_weights(model):
        assert equal(values(model), own)


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_a_resumed_training_equals_an_uninterrupted_one(batch, tmp_path, normalization):
    """Weights, averages, momenta and the step of the schedule are all in the checkpoint."""
    whole = model_of(normalization=normalization)
    train(whole, batch, 7)
    first = model_of(normalization=normalization)
    train(first, batch, 4)
    checkpoint = Checkpoint(tmp_path)
    checkpoint.identify({"precision": "float32"})
    checkpoint.save(first, {"epoch": 1, "loss": 1.0}, best=True, keep=False)
    resumed = Checkpoint(tmp_path).load()
    resumed.run_eagerly = True
    assert float(resumed.optimizer.learning_rate) == float(first.optimizer.learning_rate)
    train(resumed, batch, 3)
    assert equal(values(resumed), values(whole))
    with optimizers.averaged_weights(resumed), optimizers.averaged_weights(whole):
        assert equal(values(resumed), values(whole))


def test_the_best_weights_are_averaged_and_the_resumable_ones_are_not(batch, tmp_path):
    model = model_of()
    own = train(model, batch, 4)[-1]
    checkpoint = Checkpoint(tmp_path)
    checkpoint.identify({"precision": "float32"})
    checkpoint.save(model, {"epoch": 1, "loss": 1.0}, best=True, keep=True)
    assert equal(values(checkpoint.load()), own)
    with optimizers.averaged_weights(model):
        average = values(model)
    for role in ("best", "kept"):
        saved = keras.saving.load_model(checkpoint.path(role))
        assert equal(values(saved), average) and not equal(values(saved), own)


def test_the_norm_of_all_gradients_together_is_limited(batch):
    """Without momentum or scaling, a step's length is the learning rate times the clipped norm."""
    config = Config(clip_norm=0.001, learning_rate=0.5)
    clip = optimizers.make(config, STEPS).global_clipnorm
    sgd = keras.optimizers.SGD(0.5, global_clipnorm=clip)
    weights = [keras.Variable(np.zeros(3)), keras.Variable(np.zeros(2))]
    sgd.apply([np.full(3, 7.0, np.float32), np.full(2, -9.0, np.float32)], weights)
    length = math.sqrt(sum(float((np.array(weight) ** 2).sum()) for weight in weights))
    assert length == pytest.approx(0.5 * 0.001, rel=1e-5)


def test_weights_decay_in_proportion_to_the_learning_rate():
    options = {"learning_rate": 0.01}
    decayed, plain = (
        optimizers.make(Config(weight_decay=decay, **options), STEPS) for decay in (0.1, 0.0)
    )
    weights = [keras.Variable(np.array([2.0, -3.0], np.float32)) for _ in range(2)]
    gradient = np.array([0.3, 0.4], np.float32)
    for optimizer, weight in zip((decayed, plain), weights, strict=True):
        optimizer.apply([gradient], [weight])
    difference = np.array(weights[0]) - np.array(weights[1])
    np.testing.assert_allclose(difference, -0.01 * 0.1 * np.array([2.0, -3.0]), rtol=1e-4)


def test_the_encoder_moves_slower_by_its_rate(tmp_path):
    """Adam's first step has the length of the learning rate, whatever the gradient."""

    def moved(rate: float) -> dict[str, float]:
        inputs = keras.Input((2,))
        outputs = keras.layers.Dense(1, name="encoder_layer", kernel_initializer="ones")(inputs)
        outputs = keras.layers.Dense(1, name="decoder_layer", kernel_initializer="ones")(outputs)
        model = keras.Model(inputs, outputs)
        config = Config(
            backbone="efficientnet-lite0", pretrained=True, encoder_rate=rate, learning_rate=0.01
        )
        model.compile(optimizers.make(config, STEPS), "mse", run_eagerly=True)
        model.train_on_batch(np.ones((1, 2), np.float32), np.zeros((1, 1), np.float32))
        model.save(tmp_path / "model.keras")
        saved = keras.saving.load_model(tmp_path / "model.keras")
        assert getattr(saved.optimizer, "encoder_rate", 1.0) == rate
        return {layer.name: 1.0 - float(np.array(layer.kernel)[0, 0]) for layer in model.layers[1:]}

    for rate in (1.0, 0.1, 0.0):
        steps = moved(rate)
        assert steps["decoder_layer"] == pytest.approx(0.01, rel=1e-3)
        assert steps["encoder_layer"] == pytest.approx(0.01 * rate, rel=1e-3, abs=1e-7)


def test_a_warm_up_longer_than_the_training_is_refused():
    with pytest.raises(UserError, match="warmup_epochs=4 leaves nothing of epochs=4"):
        Config(schedule="cosine", warmup_epochs=4, epochs=4)
    with pytest.raises(UserError, match="no influence without schedule=cosine"):
        Config(warmup_epochs=1)

"""The U-Net's options: normalisation, dropout, filters, and windows of another size."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from segmentation import models
from segmentation.config import Config


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def kinds(model: keras.Model) -> list[type]:
    return [type(layer) for layer in model.layers]


def normalised(x: np.ndarray, kind: str) -> np.ndarray:
    """Batch and group normalisation as their papers define them, without scale and offset."""
    if kind == "batch":  # Ioffe and Szegedy 2015: per channel, over batch and pixels
        axes, groups = (0, 1, 2), x
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        return (groups - mean) / np.sqrt(variance + 1e-3)
    b, h, w, channels = x.shape  # Wu and He 2018: per image and group of channels, over pixels
    grouped = x.reshape(b, h, w, 8, channels // 8)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = grouped.var((1, 2, 4), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + 1e-3)).reshape(x.shape)


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_normalisation_follows_its_formula_and_precedes_the_activation(images, kind):
    keras.utils.set_random_seed(0)
    config = Config(normalization=kind, activation="tanh")
    inputs = keras.Input((32, 32, 3))
    outputs = models._convolution(inputs, 16, config)
    network = keras.Model(inputs, outputs)
    x = images.astype(np.float32) / 255
    convolution = next(layer for layer in network.layers if isinstance(layer, layers.Conv2D))
    assert not convolution.use_bias  # the normalisation would remove it
    plain = np.array(ops.conv(x, convolution.kernel, padding="same"))
    result = np.array(network(x, training=True))
    np.testing.assert_allclose(result, np.tanh(normalised(plain, kind)), atol=2e-4)


@pytest.mark.parametrize(
    ("dropout", "rates"),
    [("published", [0.2] * 4 + [0.3] + [0.2] * 4), ("bottom", [0.3]), ("none", [])],
)
def test_dropout_is_only_where_it_is_asked_for(dropout, rates):
    model = models.build(Config(dropout=dropout, filters=4), 16)
    assert [layer.rate for layer in model.layers if isinstance(layer, layers.Dropout)] == rates


@pytest.mark.parametrize("filters", [4, 12, 16, 24])
def test_each_level_doubles_the_filters(filters):
    model = models.build(Config(filters=filters, normalization="group"), 16)
    widths = [layer.filters for layer in model.layers if type(layer) is layers.Conv2D]
    down = [filters * 2**depth for depth in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)]
    assert widths == [*down, *sorted(down[:8], reverse=True), 6]


def test_a_model_trained_on_windows_takes_patches_of_any_size(images):
    model = models.build(Config(window=64, filters=4), 16)
    for side in (16, 32):
        probabilities = np.array(model(images[:, :side, :side]))
        assert probabilities.shape == (3, side, side, 6)
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


def test_by_default_no_layer_is_added_to_the_published_network():
    assert not {layers.BatchNormalization, layers.GroupNormalization} & set(
        kinds(models.build(Config(), 16))
    )

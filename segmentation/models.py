"""architecture x backbone x activation -> keras.Model: uint8 RGB in, class probabilities out.

Pixels are scaled by the model's first layer. So training, validation and prediction cannot scale
differently, and a batch travels to the device as bytes. Models consist of Keras' own layers only: a
saved one opens anywhere without this package.
"""

import math

import keras
import numpy as np
from keras import layers

from segmentation import backbones, optimizers
from segmentation.config import Config
from segmentation.labels import NUM_CLASSES
from segmentation.losses import Tensor, make
from segmentation.split_sums import SplitSums

# red, green and blue of ImageNet, as torchvision and most other libraries use them
PIXEL_MEAN = 255 * np.array([0.485, 0.456, 0.406])
PIXEL_STD = 255 * np.array([0.229, 0.224, 0.225])


DROPOUT = {"published": (0.2, 0.3), "bottom": (0.0, 0.3), "none": (0.0, 0.0)}
"""Config.dropout -> the rate at every level of the U-Net, and the rate at its bottom."""

GROUPS = 8  # of channels, in group normalisation (Wu and He 2018)
LEVELS = 4  # of the published U-Net, above its bottom


def compiled(config: Config, patch_size: int, steps_per_epoch: int) -> keras.Model:
    """A new model with its loss, its metric and a built optimizer. See `build`."""
    model = build(config, patch_size)
    loss = make(config)
    model.compile(optimizers.make(config, steps_per_epoch), loss, metrics=[SplitSums(loss)])
    # otherwise the first step creates the optimizer's variables, and Keras traces it twice
    model.optimizer.build(model.trainable_variables)
    return model


def build(config: Config, patch_size: int) -> keras.Model:
    """A new model with random or, if `config.pretrained`, ImageNet weights.

    Input: (b, patch_size, patch_size, 3) uint8 RGB. A model that is trained on windows takes any
    size that its architecture can process.
    Output: (b, patch_size, patch_size, classes) float32 that sums to 1 over the classes.
    """
    side = None if config.window else patch_size
    image = keras.Input((side, side, 3), dtype="uint8", name="image")
    if config.backbone is None:
        scaled = backbones.scale_pixels(image, 1 / PIXEL_STD, -PIXEL_MEAN / PIXEL_STD)
        hidden = unet(scaled, config)
        scores = layers.Conv2D(NUM_CLASSES, 1, name="scores")(hidden)
    else:
        scores = backbones.scores(image, config)
    # float32 under mixed precision too
    probabilities = layers.Softmax(dtype="float32", name="probabilities")(scores)
    return keras.Model(image, probabilities, name=config.architecture)


def unet(x: Tensor, config: Config) -> Tensor:
    """A U-Net without its head: (b, h, w, 3) -> (b, h, w, config.filters).

    By default it is the published one: levels of 16, 32, 64, 128 and 256 filters. With a head of
    six classes it has 1,941,190 parameters. Each layer takes its seed when it is created, so their
    order is part of the result.
    """
    usual, at_bottom = DROPOUT[config.dropout]

    def level(x: Tensor, filters: int, dropout: float) -> Tensor:
        x = _convolution(x, filters, config)
        x = layers.Dropout(dropout)(x) if dropout else x
        return _convolution(x, filters, config)

    skips = []
    for depth in range(LEVELS):
        x = level(x, config.filters * 2**depth, usual)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = level(x, config.filters * 2**LEVELS, at_bottom)
    for skip in reversed(skips):
        filters = skip.shape[-1]
        x = layers.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = level(layers.Concatenate()([x, skip]), filters, usual)
    return x


def _convolution(x: Tensor, filters: int, config: Config) -> Tensor:
    """A 3 x 3 convolution, its normalisation if the configuration has one, and the activation."""
    options = {"padding": "same", "kernel_initializer": "he_normal"}
    if config.normalization == "none":
        return layers.Conv2D(filters, 3, activation=config.activation, **options)(x)
    x = layers.Conv2D(filters, 3, use_bias=False, **options)(x)
    if config.normalization == "batch":
        # averages over 10 steps follow the few steps of an epoch better than Keras' 100
        x = layers.BatchNormalization(momentum=0.9)(x)
    else:
        x = layers.GroupNormalization(groups=math.gcd(GROUPS, filters))(x)
    return layers.Activation(config.activation)(x)

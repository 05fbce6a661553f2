"""architecture x backbone x activation -> keras.Model: uint8 RGB in, class probabilities out.

Pixels are scaled by the model's first layer. So training, validation and prediction cannot scale
differently, and a batch travels to the device as bytes. Models consist of Keras' own layers only: a
saved one opens anywhere without this package.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from segmentation.config import Config
from segmentation.errors import UserError
from segmentation.labels import NUM_CLASSES
from segmentation.losses import Tensor, make
from segmentation.split_sums import SplitSums

# red, green and blue of ImageNet, as torchvision and most other libraries use them
PIXEL_MEAN = 255 * np.array([0.485, 0.456, 0.406])
PIXEL_STD = 255 * np.array([0.229, 0.224, 0.225])

SM_ARCHITECTURES = {"unet": "Unet", "fpn": "FPN", "linknet": "Linknet", "pspnet": "PSPNet"}
"""Architecture -> segmentation-models' class."""

DECODER_PREFIXES = ("decoder_", "center_", "fpn_", "segm_", "final_", "psp_", "aggregation_")
"""How the names of the decoder's layers start in segmentation-models."""


def compiled(config: Config, patch_size: int) -> keras.Model:
    """A new model with its loss, its metric and a built optimizer. See `build`."""
    model = build(config, patch_size)
    loss = make(config)
    model.compile(keras.optimizers.Adam(config.learning_rate), loss, metrics=[SplitSums(loss)])
    # otherwise the first step creates the optimizer's variables, and Keras traces it twice
    model.optimizer.build(model.trainable_variables)
    return model


def build(config: Config, patch_size: int) -> keras.Model:
    """A new model with random or, if `config.pretrained`, ImageNet weights.

    Input: (b, patch_size, patch_size, 3) uint8 RGB.
    Output: (b, patch_size, patch_size, classes) float32 that sums to 1 over the classes.
    """
    image = keras.Input((patch_size, patch_size, 3), dtype="uint8", name="image")
    if config.backbone is None:
        scaled = _scale(image, 1 / PIXEL_STD, -PIXEL_MEAN / PIXEL_STD)
        hidden = published_unet(scaled, config.activation)
        scores = layers.Conv2D(NUM_CLASSES, 1, name="scores")(hidden)
    else:
        scores = _with_backbone(image, config, patch_size)
    # float32 under mixed precision too
    probabilities = layers.Softmax(dtype="float32", name="probabilities")(scores)
    return keras.Model(image, probabilities, name=config.architecture)


def _scale(image: Tensor, scale: NDArray[np.float64], offset: NDArray[np.float64]) -> Tensor:
    """scale * image + offset per channel, always in float32: half precision would round pixels."""
    return layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32", name="scale")(image)


def published_unet(x: Tensor, activation: str) -> Tensor:
    """The published U-Net without its head: (b, h, w, 3) -> (b, h, w, 16).

    Its levels have 16, 32, 64, 128 and 256 filters. With a head of six classes it has 1,941,190
    parameters. Each layer takes its seed when it is created, so their order is part of the result.
    """

    def convolution(x: Tensor, filters: int) -> Tensor:
        return layers.Conv2D(
            filters, 3, padding="same", kernel_initializer="he_normal", activation=activation
        )(x)

    def level(x: Tensor, filters: int, dropout: float) -> Tensor:
        x = convolution(x, filters)
        x = layers.Dropout(dropout)(x)
        return convolution(x, filters)

    skips = []
    for filters in (16, 32, 64, 128):
        x = level(x, filters, 0.2)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = level(x, 256, 0.3)
    for filters, skip in zip((128, 64, 32, 16), reversed(skips), strict=True):
        x = layers.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = level(layers.Concatenate()([x, skip]), filters, 0.2)
    return x


def _with_backbone(image: Tensor, config: Config, patch_size: int) -> Tensor:
    """Scores before the softmax, (b, h, w, classes), of a segmentation-models network.

    Its decoder has the activation of `config`.

    Raises:
        UserError: The backbone is unknown, or its ImageNet weights cannot be downloaded.
    """
    # otherwise it imports `keras` under names that Keras 3 no longer has
    os.environ["SM_FRAMEWORK"] = "tf.keras"
    import segmentation_models as sm

    known = sm.get_available_backbone_names()
    if config.backbone not in known:
        raise UserError(
            f"backbone={config.backbone!r} is not a backbone of segmentation-models; "
            f"known are {', '.join(known)}"
        )
    try:
        network = getattr(sm, SM_ARCHITECTURES[config.architecture])(
            config.backbone,
            input_shape=(patch_size, patch_size, 3),
            classes=NUM_CLASSES,
            activation="linear",
            encoder_weights="imagenet" if config.pretrained else None,
        )
    except Exception as error:  # keras.utils.get_file raises a bare Exception for a failed download
        if "URL fetch failure" not in str(error):
            raise
        cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
        raise UserError(
            f"the ImageNet weights of {config.backbone} could not be downloaded ({error}); "
            f"connect once, copy them into {cache}, or leave out --pretrained"
        ) from error
    # segmentation-models has no option for the activation. Set before compiling, it is saved.
    for layer in network.layers:
        if isinstance(layer, layers.Activation) and layer.name.startswith(DECODER_PREFIXES):
            layer.activation = keras.activations.get(config.activation)
    return network(backbone_scaling(image, sm.get_preprocessing(config.backbone)))


def backbone_scaling(image: Tensor, preprocess: Callable[[Any], Any]) -> Tensor:
    """`image` as the backbone's own preprocessing scales it, in Keras layers, so that it is saved.

    Args:
        image: (b, h, w, 3) uint8 RGB.
        preprocess: segmentation-models' function. It is affine per channel, and may also exchange
            red and blue; its numbers are read from its response to black and pure colours.
    """
    black, *pure = (
        preprocess(color.reshape(1, 1, 1, 3)).ravel()
        for color in np.vstack([np.zeros(3), 255 * np.eye(3)])
    )
    response = np.stack(pure) - black  # row: channel of the image; column: channel of the backbone
    if response[0, 0] == 0:  # the Caffe weights (VGG) expect blue first
        image = image[..., ::-1]
        response = response[::-1]
    return _scale(image, scale=np.diag(response) / 255, offset=black)

"""EfficientNet-Lite0 as the encoder of a U-Net, in Keras' own layers, with ImageNet weights.

The network: Tan and Le 2019 (EfficientNet), without squeeze-and-excitation and with ReLU6, as in
Google's `tpu/models/official/efficientnet/lite`. The weights are Google's, licensed under
Apache-2.0; see `pretrained.LITE0_PACKAGE`.
"""

import itertools
from collections import defaultdict
from typing import Any, NamedTuple

import keras
from keras import layers
from numpy.typing import NDArray

from segmentation import pretrained, torch_file
from segmentation.labels import NUM_CLASSES
from segmentation.losses import Tensor


class Stage(NamedTuple):
    """Blocks of one size. Only the first block has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)

SKIPS = (0, 1, 2, 4)
"""Stages whose outputs the decoder gets too: 1/2, 1/4, 1/8 and 1/16 of the image's size."""

DECODER_FILTERS = (96, 64, 48, 32, 32)
"""Filters per level of the decoder, from 1/16 of the image's size to its full size."""

AXES: dict[type[Any], tuple[int, ...]] = {
    layers.Conv2D: (2, 3, 1, 0),
    layers.DepthwiseConv2D: (2, 3, 0, 1),
    layers.Dense: (1, 0),
}
"""Layer -> where the axes of Keras' kernel are in torch's."""


def scores(image: Tensor, activation: str, imagenet: bool) -> Tensor:
    """Scores before the softmax: (b, h, w, 3) uint8 RGB -> (b, h, w, classes).

    h and w are multiples of 32. The decoder has no batch normalisation, like the published U-Net.

    Args:
        image: The model's input.
        activation: Activation of the decoder.
        imagenet: Whether the encoder starts from ImageNet weights. See `encoder`.

    Raises:
        UserError: The weights are not installed.
    """
    *skips, x = encoder(image, imagenet)
    for level, filters in enumerate(DECODER_FILTERS):
        x = layers.UpSampling2D(name=f"decoder_{level}_up")(x)
        if skips:
            x = layers.Concatenate(name=f"decoder_{level}_concat")([x, skips.pop()])
        for part in "ab":
            x = layers.Conv2D(
                filters,
                3,
                padding="same",
                kernel_initializer="he_normal",
                activation=activation,
                name=f"decoder_{level}{part}_conv",
            )(x)
    return layers.Conv2D(NUM_CLASSES, 1, name="scores")(x)


def encoder(image: Tensor, imagenet: bool) -> list[Tensor]:
    """Features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image's size: 16, 24, 40, 112, 320 channels.

    The names of all layers but the scaling start with `encoder_`. The rest of a name is the layer's
    name in the weights file.

    Args:
        image: (b, h, w, 3) uint8 RGB.
        imagenet: Start from ImageNet weights. Then batch normalisation keeps its statistics, scales
            and offsets: batches of few, similar images would spoil them. Without, all is random,
            and batch normalisation is trained as usual.
    """
    # as Google trained the weights; float32, because half precision would round pixels
    x = layers.Rescaling(1 / 128, -127 / 128, dtype="float32", name="scale")(image)
    x = normalized(layers.Conv2D(32, 3, 2, **conv("conv_stem"))(x), "bn0", imagenet)
    x = layers.ReLU(6)(x)
    features: list[Tensor] = []
    blocks = itertools.count()
    for stage in STAGES:
        for repeat in range(stage.repeats):
            x = _block(x, f"blocks_{next(blocks)}", stage, 1 if repeat else stage.stride, imagenet)
        features.append(x)
    outputs = [*(features[stage] for stage in SKIPS), x]
    if imagenet:
        load(keras.Model(image, outputs))
    return outputs


def _block(x: Tensor, name: str, stage: Stage, stride: int, imagenet: bool) -> Tensor:
    """An inverted residual block: expansion, depthwise convolution, projection."""
    before, channels = x, x.shape[-1]
    if stage.expansion > 1:
        expansion = layers.Conv2D(channels * stage.expansion, 1, **conv(f"{name}_expand_conv"))
        x = layers.ReLU(6)(normalized(expansion(x), f"{name}_bn0", imagenet))
    depthwise = layers.DepthwiseConv2D(stage.kernel, stride, **conv(f"{name}_depthwise_conv"))
    x = layers.ReLU(6)(normalized(depthwise(x), f"{name}_bn1", imagenet))
    projection = layers.Conv2D(stage.filters, 1, **conv(f"{name}_project_conv"))
    x = normalized(projection(x), f"{name}_bn2", imagenet)
    return layers.Add()([x, before]) if stride == 1 and channels == stage.filters else x


def conv(name: str) -> dict[str, Any]:
    """What all convolutions of the encoder have in common."""
    return {"padding": "same", "use_bias": False, "name": f"encoder_{name}"}


def normalized(x: Tensor, name: str, imagenet: bool) -> Tensor:
    """`x` after batch normalisation; see `encoder`.

    `trainable=False` and not `training=False`: Keras overwrites the latter when the model is fit.
    """
    return layers.BatchNormalization(epsilon=1e-3, trainable=not imagenet, name=f"encoder_{name}")(
        x
    )


def load(model: keras.Model) -> None:
    """Sets the ImageNet weights of all layers in `model`, which `encoder` and `conv` named.

    Raises:
        UserError: The weights are not installed.
    """
    tensors: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for name, tensor in torch_file.read(pretrained.lite0_file()).items():
        owner, _, kind = name.rpartition(".")
        if kind != "num_batches_tracked":
            # for example `_blocks.3._bn0` -> `encoder_blocks_3_bn0`
            tensors["encoder" + owner.replace("._", "_").replace(".", "_")].append(tensor)
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(
                [
                    tensor.transpose(AXES[type(layer)]) if tensor.ndim > 1 else tensor
                    for tensor in tensors[layer.name]
                ]
            )

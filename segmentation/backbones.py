"""Networks with a backbone: EfficientNet-Lite0's U-Net, and those of segmentation-models."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from segmentation import lite0
from segmentation.config import Config
from segmentation.errors import UserError
from segmentation.labels import NUM_CLASSES
from segmentation.losses import Tensor
from segmentation.pretrained import LITE0

SM_ARCHITECTURES = {"unet": "Unet", "fpn": "FPN", "linknet": "Linknet", "pspnet": "PSPNet"}
"""Architecture -> segmentation-models' class."""

DECODER_PREFIXES = ("decoder_", "center_", "fpn_", "segm_", "final_", "psp_", "aggregation_")
"""How the names of the decoder's layers start in segmentation-models."""


def scores(image: Tensor, config: Config) -> Tensor:
    """Scores before the softmax: (b, h, w, 3) uint8 RGB -> (b, h, w, classes).

    The decoder has the activation of `config`.

    Raises:
        UserError: The backbone is unknown, or its ImageNet weights cannot be loaded.
    """
    if config.backbone == LITE0:
        return lite0.scores(image, config.activation, config.pretrained)
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"backbone={config.backbone} needs TensorFlow, like all of segmentation-models, but "
            f"KERAS_BACKEND is {keras.backend.backend()}; set it to tensorflow, take {LITE0}, or "
            "leave out --backbone"
        )
    # otherwise it imports `keras` under names that Keras 3 no longer has
    os.environ["SM_FRAMEWORK"] = "tf.keras"
    import segmentation_models as sm

    known = sm.get_available_backbone_names()
    if config.backbone not in known:
        raise UserError(
            f"backbone={config.backbone!r} is neither {LITE0} nor a backbone of "
            f"segmentation-models; known are {', '.join(known)}"
        )
    with failed_download_caught():
        network = getattr(sm, SM_ARCHITECTURES[config.architecture])(
            config.backbone,
            input_shape=image.shape[1:],
            classes=NUM_CLASSES,
            activation="linear",
            encoder_weights="imagenet" if config.pretrained else None,
        )
    # segmentation-models has no option for the activation. Set before compiling, it is saved.
    for layer in network.layers:
        if isinstance(layer, layers.Activation) and layer.name.startswith(DECODER_PREFIXES):
            layer.activation = keras.activations.get(config.activation)
    return network(backbone_scaling(image, sm.get_preprocessing(config.backbone)))


@contextmanager
def failed_download_caught() -> Iterator[None]:
    """Turns Keras' error for a failed download into a UserError that names the missing file."""
    try:
        yield
    except Exception as error:  # keras.utils.get_file raises a bare Exception
        failed = re.search(r"URL fetch failure on (\S+/(\S+)): (.*)", str(error))
        if not failed:
            raise
        url, name, reason = failed.groups()
        cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
        raise UserError(
            f"the ImageNet weights could not be downloaded from {url} ({reason}); connect once, "
            f"save them as {cache / name}, take {LITE0}, which needs no download, or leave out "
            "--pretrained"
        ) from error


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
    return scale_pixels(image, scale=np.diag(response) / 255, offset=black)


def scale_pixels(image: Tensor, scale: NDArray[np.float64], offset: NDArray[np.float64]) -> Tensor:
    """scale * image + offset per channel, always in float32: half precision would round pixels."""
    return layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32", name="scale")(image)

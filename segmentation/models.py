"""architecture x backbone x activation -> keras.Model: uint8 RGB patches in, float32 class probabilities out.

Scaling is the model's first layer, so training, validation and prediction cannot differ in it, and a batch travels to the
device as bytes. Models are made of Keras' own layers alone: a saved one opens anywhere without this package.
"""

import os
from pathlib import Path

import keras
import numpy as np
from keras import layers

from segmentation.config import Config
from segmentation.errors import UserError
from segmentation.labels import NUM_CLASSES

PIXEL_MEAN = 255 * np.array(
    [0.485, 0.456, 0.406]
)  # of ImageNet's red, green and blue: the field's usual fixed numbers
PIXEL_STD = 255 * np.array([0.229, 0.224, 0.225])

SM_ARCHITECTURES = {"unet": "Unet", "fpn": "FPN", "linknet": "Linknet", "pspnet": "PSPNet"}
DECODER_PREFIXES = (
    "decoder_",
    "center_",
    "fpn_",
    "segm_",
    "final_",
    "psp_",
    "aggregation_",
)  # its layers' names there


def build(config: Config, patch_size: int) -> keras.Model:
    """A freshly initialised model: (b, patch_size, patch_size, 3) uint8 -> (b, patch_size, patch_size, 6) float32, sum 1."""
    config.check_patch_size(patch_size)
    image = keras.Input((patch_size, patch_size, 3), dtype="uint8", name="image")
    if config.backbone is None:
        hidden = _unet(_scale(image, 1 / PIXEL_STD, -PIXEL_MEAN / PIXEL_STD), config.activation)
        scores = layers.Conv2D(NUM_CLASSES, 1, name="scores")(hidden)
    else:
        scores = _with_backbone(image, config, patch_size)
    probabilities = layers.Softmax(dtype="float32", name="probabilities")(
        scores
    )  # float32 under mixed precision too
    return keras.Model(image, probabilities, name=config.architecture)


def _scale(image, scale, offset):
    """scale * image + offset per channel, always in float32: half precision would round the pixels."""
    return layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32", name="scale")(image)


def _unet(x, activation: str):
    """The published U-Net: 16-32-64-128-256 filters, 1,941,190 parameters with the six-class head."""

    def level(x, filters, dropout):
        x = layers.Conv2D(
            filters, 3, padding="same", kernel_initializer="he_normal", activation=activation
        )(x)
        x = layers.Dropout(dropout)(x)
        return layers.Conv2D(
            filters, 3, padding="same", kernel_initializer="he_normal", activation=activation
        )(x)

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


def _with_backbone(image, config: Config, patch_size: int):
    """Scores before the softmax, (b, h, w, 6), of a segmentation-models network with our activation in its decoder."""
    os.environ["SM_FRAMEWORK"] = (
        "tf.keras"  # else it imports bare Keras names that Keras 3 no longer has
    )
    import segmentation_models as sm

    known = sm.get_available_backbone_names()
    if config.backbone not in known:
        raise UserError(
            f"backbone={config.backbone!r} is not known to segmentation-models; known are {', '.join(known)}"
        )
    try:
        network = getattr(sm, SM_ARCHITECTURES[config.architecture])(
            config.backbone,
            input_shape=(patch_size, patch_size, 3),
            classes=NUM_CLASSES,
            activation="linear",
            encoder_weights="imagenet" if config.pretrained else None,
        )
    except (
        Exception
    ) as error:  # what keras.utils.get_file raises for an unreachable host is a bare Exception
        if "URL fetch failure" not in str(error):
            raise
        cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
        raise ConnectionError(
            f"the ImageNet weights of {config.backbone} could not be fetched ({error}); "
            f"connect once, copy them into {cache}, or leave out --pretrained"
        ) from None
    decoder = [
        layer
        for layer in network.layers
        if isinstance(layer, layers.Activation) and layer.name.startswith(DECODER_PREFIXES)
    ]
    for layer in decoder:  # segmentation-models has no option for it; set before compiling, it is kept in the saved file
        layer.activation = keras.activations.get(config.activation)
    return network(_as_trained(image, sm.get_preprocessing(config.backbone)))


def _as_trained(image, preprocess):
    """The backbone's own preprocessing, which is an affine map per channel, as Keras layers, so that it is saved along."""
    black, *pure = (
        preprocess(color.reshape(1, 1, 1, 3)).ravel()
        for color in np.vstack([np.zeros(3), 255 * np.eye(3)])
    )
    response = (
        np.stack(pure) - black
    )  # row: the channel of the image; column: the channel that the backbone sees
    if response[0, 0] == 0:  # the Caffe weights (VGG) see blue first
        image = image[..., ::-1]
        response = response[::-1]
    return _scale(image, scale=np.diag(response) / 255, offset=black)


def set_precision(wanted: str) -> tuple[str, str]:
    """Set Keras' arithmetic for one run and say (device, precision). `auto` takes what the device does faster.

    On GPUs memory is taken as needed, so that several agents fit on one. Half precision is faster where the hardware has it:
    bfloat16 from compute capability 8.0 and on CPUs with AVX-512 BF16 or AMX (measured there: 0.62 of float32's step time),
    float16 on 7.x.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        device, capability = (
            details.get("device_name", "GPU"),
            details.get("compute_capability", (0, 0)),
        )
        fastest = (
            "mixed_bfloat16"
            if capability >= (8, 0)
            else "mixed_float16"
            if capability >= (7, 0)
            else "float32"
        )
    else:
        device = "CPU"
        fastest = "mixed_bfloat16" if _cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"
    precision = fastest if wanted == "auto" else wanted
    keras.config.set_dtype_policy(precision)
    return device, precision


def _cpu_flags() -> set[str]:
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere no flag is known and float32 is right
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())

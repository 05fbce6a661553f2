"""The Keras backend that this process will use, without importing it.

TensorFlow is the default. KERAS_BACKEND=jax or torch selects another one.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path

from segmentation.errors import UserError

BACKENDS = ("tensorflow", "jax", "torch")


def keras_backend() -> str:
    """The backend that Keras will use: KERAS_BACKEND, else that of keras.json, else tensorflow."""
    if name := os.environ.get("KERAS_BACKEND"):
        return name
    file = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "keras.json"
    try:
        return str(json.loads(file.read_text())["backend"])
    except (OSError, ValueError, KeyError):
        return "tensorflow"


def check_backend(backbone: str | None) -> None:
    """Raises UserError if the Keras backend cannot train here. Does not import it.

    Args:
        backbone: Encoder of segmentation-models, which needs TensorFlow; None for our own networks.
    """
    name = keras_backend()
    if name not in BACKENDS:
        raise UserError(f"KERAS_BACKEND={name} cannot be used; use one of {', '.join(BACKENDS)}")
    if backbone and name != "tensorflow":
        raise UserError(
            f"backbone={backbone} needs TensorFlow, but the Keras backend is {name}; "
            "set KERAS_BACKEND=tensorflow, or leave out the backbone"
        )
    if find_spec(name) is None:
        usable = [other for other in BACKENDS if find_spec(other)]
        way_out = f"set KERAS_BACKEND={usable[0]}" if usable else "see Installation in README.md"
        raise UserError(f"the Keras backend {name} is not installed; install it, or {way_out}")

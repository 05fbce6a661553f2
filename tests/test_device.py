"""The device and its number format, and the check of the Keras backend."""

import keras
import pytest

from segmentation.backend import BACKENDS, check_backend, keras_backend
from segmentation.config import settle
from segmentation.device import GPUS, set_precision
from segmentation.errors import UserError


@pytest.fixture(autouse=True)
def float32():
    yield
    keras.config.set_dtype_policy("float32")


def test_auto_precision_sets_a_policy_of_keras():
    device, precision = set_precision("auto")
    assert precision == keras.config.dtype_policy().name and precision in (
        "float32",
        "mixed_bfloat16",
        "mixed_float16",
    )
    assert set_precision("float32") == (device, "float32")


def test_every_backend_has_a_way_to_find_its_gpu():
    assert tuple(GPUS) == BACKENDS


def test_the_backend_is_the_one_that_keras_uses(monkeypatch):
    assert keras_backend() == keras.backend.backend()
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert keras_backend() == "torch"


def test_without_a_file_of_settings_the_backend_is_tensorflow(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert keras_backend() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    assert keras_backend() == "jax"


def test_backends_that_cannot_train_are_refused(monkeypatch):
    monkeypatch.setattr("segmentation.backend.find_spec", lambda name: name == "jax" or None)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    settle({}, 64)
    with pytest.raises(UserError, match=r"backbone=resnet18 needs TensorFlow.*KERAS_BACKEND="):
        settle({"backbone": "resnet18"}, 64)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(UserError, match=r"tensorflow is not installed.*KERAS_BACKEND=jax"):
        check_backend(None)
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    with pytest.raises(UserError, match=r"KERAS_BACKEND=numpy.*tensorflow, jax, torch"):
        check_backend(None)

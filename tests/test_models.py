"""Models: number of parameters, activations, scaling, saved files, precision, ImageNet weights."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from segmentation import backbones, models
from segmentation.config import Config
from segmentation.datasets import Patches, predict
from segmentation.errors import UserError
from segmentation.labels import NUM_CLASSES
from segmentation.losses import LOSSES
from segmentation.prepared import PreparedSet
from segmentation.split_sums import SplitSums

FAMILIES = {"published": Config(), "backbone": Config(backbone="resnet18")}


@pytest.fixture(autouse=True)
def float32():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


def activations(model: keras.Model) -> set[str]:
    """Names of the activations of the hidden layers; with a backbone, of the decoder's."""
    names = set()
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            names |= {
                inner.activation.__name__
                for inner in layer.layers
                if inner.name.startswith(backbones.DECODER_PREFIXES)
                and isinstance(inner, keras.layers.Activation)
            }
        elif isinstance(layer, keras.layers.Conv2D) and not isinstance(
            layer, keras.layers.Conv2DTranspose
        ):
            names |= {layer.activation.__name__} if layer.name != "scores" else set()
    return names


def test_the_published_unet_has_1941190_parameters():
    assert models.build(Config(), 256).count_params() == 1_941_190


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ["relu", "tanh", "swish", None])
def test_every_activation_trains_and_predicts_probabilities(family, activation, tiny_set):
    from dataclasses import replace

    config = replace(FAMILIES[family], activation=activation)
    prepared = PreparedSet.open(tiny_set)
    train, val = Patches(prepared, "train", 128, shuffle_seed=0), Patches(prepared, "val", 128)
    model = models.build(config, prepared.patch_size)
    assert activations(model) == {activation.replace("swish", "silu") if activation else "linear"}
    loss = LOSSES["dice_focal"]()
    adam = keras.optimizers.Adam(0.001)
    model.compile(adam, loss, metrics=[SplitSums(loss)], run_eagerly=True)  # no time for tracing
    logs = model.fit(train, validation_data=val, epochs=1, shuffle=False, verbose=0).history
    assert np.isfinite(logs["loss"][0]) and np.isfinite(logs["val_loss"][0])
    _, masks, probabilities = next(predict(model, val))
    assert probabilities.shape == (*masks.shape, NUM_CLASSES) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "size"), [("fpn", 64), ("linknet", 64), ("pspnet", 96), ("unet", 64)]
)
def test_the_activation_is_set_in_the_decoder_only(architecture, size):
    model = models.build(
        Config(architecture=architecture, backbone="mobilenetv2", activation="tanh"), size
    )
    network = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    changed = {
        layer.name
        for layer in network.layers
        if getattr(layer, "activation", None) is keras.activations.tanh
    }
    assert changed and all(name.startswith(backbones.DECODER_PREFIXES) for name in changed)
    left = [
        layer.name
        for layer in network.layers
        if getattr(layer, "activation", None) is keras.activations.relu
    ]
    assert not any(name.startswith(backbones.DECODER_PREFIXES) for name in left)


@pytest.mark.parametrize("backbone", ["vgg16", "mobilenetv2", "resnet18", "seresnet50"])
def test_scaling_equals_the_preprocessing_of_the_backbone(backbone, random):
    import segmentation_models as sm

    images = random.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    image = keras.Input((32, 32, 3), dtype="uint8")
    preprocess = sm.get_preprocessing(backbone)
    scaled = keras.Model(image, backbones.backbone_scaling(image, preprocess))
    np.testing.assert_allclose(
        np.asarray(scaled(images)), preprocess(images.astype(np.float32)), atol=1e-3
    )


@pytest.mark.parametrize("backbone", [None, "resnet18", "efficientnet-lite0"])
def test_a_saved_model_opens_in_a_fresh_process_without_this_package(backbone, tmp_path, random):
    model = models.build(Config(backbone=backbone), 32)
    images = random.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    keras.Model(model.inputs, model.outputs).save(tmp_path / "model.keras")
    np.savez(tmp_path / "expected.npz", images=images, probabilities=model.predict_on_batch(images))
    script = (
        "import keras, numpy as np, sys; e = np.load('expected.npz');"
        "m = keras.saving.load_model('model.keras', safe_mode=True);"
        "predicted = m.predict_on_batch(e['images']);"
        "np.testing.assert_allclose(predicted, e['probabilities'], atol=1e-5);"
        "assert 'segmentation' not in sys.modules; print('same')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip().endswith("same"), done.stderr


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_scaling_and_softmax_stay_float32_under_mixed_precision(policy, random):
    keras.config.set_dtype_policy(policy)
    model = models.build(Config(), 32)
    assert model.get_layer("probabilities").compute_dtype == "float32"
    assert model.get_layer("scale").compute_dtype == "float32"
    assert model.get_layer("scores").compute_dtype == policy.removeprefix("mixed_")
    images = random.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    assert model.predict_on_batch(images).dtype == np.float32


def test_an_unknown_backbone_is_refused_with_a_list_of_the_known_ones():
    with pytest.raises(UserError, match=r"'resnet19'.*resnet18"):
        models.build(Config(backbone="resnet19"), 64)


def weights_file(backbone: str) -> dict[str, str]:
    """Entry of the ImageNet weights that segmentation-models downloads for a backbone."""
    from classification_models.weights import WEIGHTS_COLLECTION

    entry = next(
        w
        for w in WEIGHTS_COLLECTION
        if w["model"] == backbone and w["dataset"] == "imagenet" and not w["include_top"]
    )
    return entry


def test_a_failed_download_of_pretrained_weights_names_the_missing_file(monkeypatch, tmp_path):
    # no server listens at port 9
    entry = weights_file("resnet18")
    monkeypatch.setitem(entry, "url", f"http://127.0.0.1:9/{entry['name']}")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    missing = re.escape(str(tmp_path / "models" / "resnet18_imagenet_1000_no_top.h5"))
    with pytest.raises(UserError, match=rf"save them as {missing}, .*leave out --pretrained"):
        models.build(Config(backbone="resnet18", pretrained=True), 32)


def test_the_file_of_every_download_is_named_by_the_end_of_its_address():
    """`backbones.failed_download_caught` relies on it."""
    from classification_models.weights import WEIGHTS_COLLECTION

    assert all(entry["url"].endswith("/" + entry["name"]) for entry in WEIGHTS_COLLECTION)


def test_segmentation_models_without_tensorflow_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match=r"resnet18 needs TensorFlow.*jax.*efficientnet-lite0"):
        models.build(Config(backbone="resnet18"), 32)


def test_pretrained_weights_are_loaded_into_the_encoder(monkeypatch, tmp_path):
    """The unmodified loading code reads a weights file of the real format that this test makes."""
    import hashlib

    from classification_models.tfkeras import Classifiers

    source = Classifiers.get("resnet18")[0](
        input_shape=(32, 32, 3), weights=None, include_top=False
    )
    path = tmp_path / "made.h5"
    source.save(path)
    entry = weights_file("resnet18")
    monkeypatch.setitem(entry, "url", path.as_uri())
    monkeypatch.setitem(
        entry, "md5", hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    )
    monkeypatch.setitem(entry, "name", "made.h5")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    model = models.build(Config(backbone="resnet18", pretrained=True), 32)
    network = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    np.testing.assert_array_equal(
        network.get_layer("conv0").get_weights()[0], source.get_layer("conv0").get_weights()[0]
    )

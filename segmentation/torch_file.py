"""Reads tensors from a file of `torch.save` in its format before torch 1.6, without torch.

Such a file holds, one after the other: a magic number, a version, the sizes of C types, the state
dict (name -> tensor), the list of storage keys, and per key the number of elements (int64) and
their bytes. All but the last are pickles. Source: torch/serialization.py, `_legacy_load`.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAGIC = 0x1950A86A20F9469CFC6C


class _View(NamedTuple):
    """A tensor in the state dict: which elements of which storage it has."""

    storage: tuple[np.dtype[Any], str]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


ALLOWED = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": lambda *arguments: _View(*arguments[:4]),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.LongStorage": np.dtype("<i8"),
}
"""The only names that a file may use -> what stands for them here."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that imports nothing, so that no code in a file is run."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a tensor") from None

    def persistent_load(self, pid: Any) -> tuple[np.dtype[Any], str]:
        _, dtype, key, *_ = pid
        return dtype, key


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Name -> tensor with torch's shape, in the order of the file.

    Raises:
        pickle.UnpicklingError: The file has another format, or holds more than tensors.
    """
    with path.open("rb") as file:
        if _Unpickler(file).load() != MAGIC:
            raise pickle.UnpicklingError(f"{path} is not in the format before torch 1.6")
        _version, _sizes, views, keys = (_Unpickler(file).load() for _ in range(4))
        dtypes = {key: dtype for dtype, key in (view.storage for view in views.values())}
        storages = {key: _storage(file, dtypes[key]) for key in keys}
    return {name: _tensor(view, storages[view.storage[1]]) for name, view in views.items()}


def _storage(file: BinaryIO, dtype: np.dtype[Any]) -> bytes:
    """The bytes of the next storage in `file`."""
    count = int.from_bytes(file.read(8), "little")
    return file.read(count * dtype.itemsize)


def _tensor(view: _View, storage: bytes) -> NDArray[Any]:
    """The tensor of a view. NumPy raises ValueError if it leaves its storage."""
    dtype, _ = view.storage
    strides = [dtype.itemsize * stride for stride in view.strides]
    return np.ndarray(view.shape, dtype, storage, dtype.itemsize * view.offset, strides)

"""The device that Keras computes on, and the number format of the hidden layers."""

import os
from pathlib import Path

import keras

Gpu = tuple[str, tuple[int, ...]]
"""Name and compute capability (major, minor) of an NVIDIA GPU."""


def set_precision(wanted: str) -> tuple[str, str]:
    """Sets the number format of Keras for this process. Returns (device, precision).

    `auto` picks the fastest format of the device. On GPUs it is bfloat16 from compute capability
    8.0, and float16 from 7.0. On CPUs with AVX-512 BF16 or AMX it is bfloat16 with TensorFlow
    (measured: 0.62 of float32's step time). Elsewhere it is float32.

    GPU memory is allocated as needed, so that several agents fit on one GPU.
    """
    backend = keras.backend.backend()
    if gpu := GPUS[backend]():
        device, capability = gpu
        fastest = _fastest_of_gpu(capability)
    else:
        device = "CPU"
        has_bfloat16 = backend == "tensorflow" and _cpu_flags() & {"avx512_bf16", "amx_bf16"}
        fastest = "mixed_bfloat16" if has_bfloat16 else "float32"
    precision = fastest if wanted == "auto" else wanted
    keras.config.set_dtype_policy(precision)
    return device, precision


def _gpu_of_tensorflow() -> Gpu | None:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        return None
    details = tf.config.experimental.get_device_details(gpus[0])
    return details.get("device_name", "GPU"), details.get("compute_capability", (0, 0))


def _gpu_of_jax() -> Gpu | None:
    # read when JAX first looks for its devices
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    device = jax.devices()[0]
    if device.platform != "gpu":
        return None
    capability = str(getattr(device, "compute_capability", "0.0"))
    return device.device_kind, tuple(int(part) for part in capability.split("."))


def _gpu_of_torch() -> Gpu | None:
    import torch  # allocates memory as needed

    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(), torch.cuda.get_device_capability()


GPUS = {"tensorflow": _gpu_of_tensorflow, "jax": _gpu_of_jax, "torch": _gpu_of_torch}
"""Backend -> its first GPU, whose memory is then allocated as needed; None without a GPU."""


def _fastest_of_gpu(capability: tuple[int, ...]) -> str:
    """The fastest precision of an NVIDIA GPU with this compute capability (major, minor)."""
    if capability >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if capability >= (7, 0) else "float32"


def _cpu_flags() -> set[str]:
    """Names of the CPU's instruction sets, as Linux reports them; empty on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())

"""The optimizer of a configuration, and the averages of the weights that it keeps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from segmentation.config import Config
from segmentation.losses import Tensor

ENCODER_PREFIX = "encoder_"
"""How the names of a pretrained encoder's layers start."""


@keras.saving.register_keras_serializable("segmentation")
class EncoderAdamW(keras.optimizers.AdamW):  # type: ignore[misc]  # Keras has no annotations
    """AdamW with a smaller learning rate for the layers of a pretrained encoder."""

    def __init__(self, *args: Any, encoder_rate: float = 1.0, **kwargs: Any) -> None:
        """Adds one argument to those of AdamW.

        Args:
            *args: Arguments of AdamW.
            encoder_rate: Factor of the learning rate for weights whose path contains
                ENCODER_PREFIX, 0 to 1.
            **kwargs: Arguments of AdamW.
        """
        super().__init__(*args, **kwargs)
        self.encoder_rate = encoder_rate

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: Tensor) -> None:
        path = self._trainable_variables[self._get_variable_index(variable)].path
        factor = self.encoder_rate if ENCODER_PREFIX in path else 1.0
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "encoder_rate": self.encoder_rate}


def make(config: Config, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Adam; AdamW (Loshchilov and Hutter 2019) where weights decay or an encoder is slower.

    Gradients are clipped together, by their global norm (Pascanu et al. 2013).
    """
    options: dict[str, Any] = {"learning_rate": learning_rate(config, steps_per_epoch)}
    if config.clip_norm:
        options["global_clipnorm"] = config.clip_norm
    if config.ema:
        options |= {"use_ema": True, "ema_momentum": config.ema, "ema_overwrite_frequency": None}
    if config.encoder_rate != 1:
        return EncoderAdamW(
            weight_decay=config.weight_decay, encoder_rate=config.encoder_rate, **options
        )
    if config.weight_decay:
        return keras.optimizers.AdamW(weight_decay=config.weight_decay, **options)
    return keras.optimizers.Adam(**options)


def learning_rate(
    config: Config, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate, or its schedule: a linear warm-up from 0, then half a cosine down to 0.

    The schedule depends on the step alone, which the optimizer saves. Cosine: Loshchilov and
    Hutter 2017 (SGDR), without restarts.
    """
    if config.schedule == "constant":
        return config.learning_rate
    warmup, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, total)
    return keras.optimizers.schedules.CosineDecay(
        0.0, total - warmup, warmup_target=config.learning_rate, warmup_steps=warmup
    )


@contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Inside, the model has its averaged weights, if its optimizer keeps averages.

    At the end the model has its own weights again, bit for bit. Keras' SwapEMAWeights adds and
    subtracts instead, and that rounds.
    """
    # under mixed_float16, Keras wraps the optimizer
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not optimizer.use_ema:
        yield
        return
    own = _values(model.trainable_variables)
    _assign(model.trainable_variables, _values(optimizer._model_variables_moving_average))
    try:
        yield
    finally:
        _assign(model.trainable_variables, own)


def _values(variables: Sequence[keras.Variable]) -> list[NDArray[np.float32]]:
    """Copies. With JAX, two variables that shared an array would lose it in the next step."""
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables: Sequence[keras.Variable], values: Sequence[NDArray[np.float32]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)

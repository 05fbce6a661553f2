"""The hyperparameters of a run: the one list of names, types, defaults and bounds.

Command-line options (`options.py`), sweeps (checked by a test) and analysis read this list; nothing else declares a default.
The defaults are the baseline: the published setting of batch size 16, learning rate 0.007 and relu.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

from segmentation.errors import UserError

OBJECTIVE = "best_val_loss"
"""Lowest validation loss so far, logged once an epoch: what sweeps minimise and what ranks runs, under one name."""

BASELINE = {"batch_size": 16, "learning_rate": 0.007, "activation": "relu"}
"""The published setting that every search has to beat; a run is a baseline when it holds these values."""

STATUSES = {
    "finished": 0,
    "stopped": 0,
    "diverged": 0,
    "oom": 0,
    "interrupted": 130,
    "preempted": 143,
}
"""How a run can end -> exit code of `train.py` (128 + signal number where a signal ended it). The one list of statuses."""

NOT_HYPERPARAMETERS = ("data", "environment")
"""What a run's config holds beside its hyperparameters."""

WORST = {"dice_focal": 1.671587, "dice_focal_published": 1.671587, "cross_entropy": 16.118095}
"""The largest value of each loss, cut to six decimals: the objective of a run that ended before its first epoch did."""

UNET_MULTIPLE = 16  # the published U-Net halves four times
BACKBONE_MULTIPLES = {
    "unet": 32,
    "fpn": 32,
    "linknet": 32,
    "pspnet": 48,
}  # what segmentation-models' shapes need


def _hyper(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A field with a one-line help text and, for numbers, inclusive bounds."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True)
class Config:
    """One run's hyperparameters. Building one checks every name, type and bound, so that a bad value never costs a GPU hour."""

    architecture: Literal["unet", "fpn", "linknet", "pspnet"] = _hyper(
        "unet", "decoder family; unet without a backbone is the published U-Net"
    )
    backbone: str | None = _hyper(
        None, "encoder of segmentation-models, for example resnet18; null for the published U-Net"
    )
    pretrained: bool = _hyper(
        False, "start the backbone from ImageNet weights (fetched on first use)"
    )
    activation: Literal["relu", "tanh", "swish", "linear"] = _hyper(
        "relu",
        "activation of the hidden layers (of the decoder, with a backbone); null means linear",
    )
    loss: Literal["dice_focal", "dice_focal_published", "cross_entropy"] = _hyper(
        "dice_focal",
        "training and validation loss; dice_focal_published compares with published numbers",
    )
    learning_rate: float = _hyper(0.007, "Adam's step size", 1e-7, 1.0)
    batch_size: int = _hyper(16, "patches a training step", 1, 1024)
    val_batch_size: int = _hyper(
        16, "patches a validation step; changes memory and speed, never the result", 1, 1024
    )
    epochs: int = _hyper(27, "passes over the training split", 1, 10_000)
    augment: Literal["none", "flip", "full"] = _hyper(
        "none", "flip: flips and right-angle rotations; full: also brightness and contrast"
    )
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = _hyper(
        "auto", "arithmetic of the hidden layers; auto takes what this device does faster"
    )
    keep_epoch: int = _hyper(
        0, "keep the weights after this epoch too, beside the best ones; 0 for none", 0, 10_000
    )
    seed: int = _hyper(
        0, "seed of initial weights, shuffling, dropout and augmentation", 0, 2**31 - 1
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            object.__setattr__(self, spec.name, _checked(spec, getattr(self, spec.name)))
        if self.backbone is None and self.architecture != "unet":
            raise UserError(
                f"architecture={self.architecture} needs a backbone, for example resnet18"
            )
        if self.backbone is None and self.pretrained:
            raise UserError(
                "pretrained=True needs a backbone whose weights to load, for example resnet18"
            )

    def check_patch_size(self, size: int) -> None:
        """Raises UserError where the architecture cannot take patches of `size` x `size` px; asked before any data is loaded."""
        multiple = BACKBONE_MULTIPLES[self.architecture] if self.backbone else UNET_MULTIPLE
        if size % multiple:
            with_backbone = f" on {self.backbone}" if self.backbone else ""
            near = max(multiple, round(size / multiple) * multiple)
            raise UserError(
                f"{self.architecture}{with_backbone} takes patches of a multiple of {multiple} px, this set has {size} px; "
                f"prepare one whose --patch-size is {near} times its --scale"
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "Config":
        """Config from a mapping such as `wandb.config`: missing names take their default, unknown names are an error.

        `configuration`, a mapping of several hyperparameters, is how a grid goes over whole configurations (sweeps/confirm.yaml).
        """
        values = dict(values)
        values |= values.pop("configuration", None) or {}
        unknown = sorted(set(values) - {spec.name for spec in fields(cls)})
        if unknown:
            known = ", ".join(spec.name for spec in fields(cls))
            raise UserError(f"unknown hyperparameter {', '.join(unknown)}; known are: {known}")
        return cls(**values)


def choices(spec) -> tuple[str, ...] | None:
    """The allowed words of a field that is a choice by name; None for numbers, booleans and free text."""
    return get_args(spec.type) if get_origin(spec.type) is Literal else None


def _checked(spec, value: Any) -> Any:
    """`value` in the field's own type, or a UserError that names the field, the value and the way out."""
    if spec.name == "activation" and value is None:  # YAML's null: no activation is the linear one
        value = "linear"
    words = choices(spec)
    if words:
        if value not in words:
            raise UserError(f"{spec.name}={value!r} is not one of {', '.join(words)}")
        return value
    if spec.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if (
        spec.type is int and isinstance(value, float) and value.is_integer()
    ):  # JSON from W&B may turn 16 into 16.0
        value = int(value)
    expected = get_args(spec.type) or (spec.type,)
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        hint = (
            "; in YAML write 0.0001 or 1.0e-4, since 1e-4 is read as text"
            if isinstance(value, str)
            else ""
        )
        kind = " or ".join("null" if t is type(None) else t.__name__ for t in expected)
        raise UserError(f"{spec.name}={value!r} is {type(value).__name__}, expected {kind}{hint}")
    low, high = spec.metadata["low"], spec.metadata["high"]
    if low is not None and not low <= value <= high:  # also refuses NaN
        raise UserError(f"{spec.name}={value!r} is outside {low:g} to {high:g}")
    return value


assert all(
    spec.default is not MISSING for spec in fields(Config)
)  # `_checked` and the options rely on it

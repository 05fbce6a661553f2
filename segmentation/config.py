"""The hyperparameters of a run: names, types, defaults and bounds. No other file declares them.

Command-line options (`options.py`), sweeps (checked by a test) and the analysis read this list.
The defaults are the baseline: the published setting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

from segmentation import pretrained
from segmentation.backend import check_backend
from segmentation.errors import UserError
from segmentation.pretrained import LITE0

OBJECTIVES = {"best_val_loss": "val_loss", "best_val_error": "val_error"}
"""Objective -> the value per epoch of which it is the lowest so far. Sweeps minimise one of them.

Both are logged once per epoch. `val_error` is 1 - mean IoU over the five real classes, from the
confusion matrix of the whole validation split: it compares runs with different losses. A run that
ends early keeps the lowest value it reached, whatever its status. A run that diverges or runs out
of memory in its first epoch reached none: it logs the largest possible loss (WORST) and an error
of 1, so that every search ranks it last.
"""

OBJECTIVE = "best_val_loss"
"""The objective of a sweep that names none, and of runs outside of sweeps."""

BEST_BY = {"loss": "val_loss", "error": "val_error"}
"""Config.best_by -> the value per epoch whose lowest epoch has the best weights."""

BASELINE = {"batch_size": 16, "learning_rate": 0.007, "activation": "relu"}
"""The published setting that every search has to beat. See `is_baseline`."""

FREE_IN_BASELINE = (
    "loss",
    "epochs",
    "val_batch_size",
    "precision",
    "keep_epoch",
    "best_by",
    "seed",
)
"""Hyperparameters that may have any value in a baseline.

Loss and epochs are the task that a search sets. The others do not change how a run is trained, or
only by rounding or by chance.
"""

STATUSES = {
    "finished": 0,
    "stopped": 0,
    "diverged": 0,
    "oom": 0,
    "interrupted": 130,
    "preempted": 143,
}
"""Final status of a run -> exit code of `train.py`; 128 + signal number after a signal."""

NOT_HYPERPARAMETERS = ("data", "environment")
"""Keys of a run's config in W&B that are not hyperparameters."""

WORST = {
    "dice_focal": 1.671587,
    "dice_focal_published": 1.671587,
    "cross_entropy": 16.118095,
    "ce_dice": 17.118095,
}
"""The largest value of each loss, rounded down to six decimals. See OBJECTIVE."""

SMOOTHED = ("cross_entropy", "ce_dice")
"""The losses with a cross-entropy, on which `label_smoothing` acts."""

UNET_MULTIPLE = 16
"""Patch sizes of the published U-Net are multiples of it: four times, it halves them."""

BACKBONE_MULTIPLES = {"unet": 32, "fpn": 32, "linknet": 32, "pspnet": 48}
"""The same for networks with a backbone, by architecture."""


def _hyper(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A field with a one-line help text and, for numbers, inclusive bounds."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True)
class Config:
    """The hyperparameters of one run. Creating one checks every name, type and bound."""

    architecture: Literal["unet", "fpn", "linknet", "pspnet"] = _hyper(
        "unet", "decoder family; unet without a backbone is the published U-Net"
    )
    backbone: str | None = _hyper(
        None,
        f"encoder: {LITE0}, or one of segmentation-models such as resnet18; "
        "null for the published U-Net",
    )
    pretrained: bool = _hyper(
        False,
        f"start the backbone from ImageNet weights: {LITE0}'s come from a package, others are "
        "downloaded on first use",
    )
    activation: Literal["relu", "tanh", "swish", "linear"] = _hyper(
        "relu",
        "activation of the hidden layers (of the decoder, with a backbone); null means linear",
    )
    normalization: Literal["none", "batch", "group"] = _hyper(
        "none", "normalisation after each convolution of the U-Net"
    )
    dropout: Literal["published", "bottom", "none"] = _hyper(
        "published", "published: 0.2 at every level and 0.3 at the bottom; bottom: only there"
    )
    filters: int = _hyper(16, "filters of the U-Net's first level; each level doubles them", 4, 128)
    loss: Literal["dice_focal", "dice_focal_published", "cross_entropy", "ce_dice"] = _hyper(
        "dice_focal",
        "training and validation loss; dice_focal_published compares with published numbers",
    )
    label_smoothing: float = _hyper(
        0.0, "share of the true class's weight that cross-entropy spreads over all classes", 0, 0.5
    )
    unlabeled: Literal["class", "ignore"] = _hyper(
        "class", "ignore: pixels of the class Unlabeled do not count in the loss"
    )
    learning_rate: float = _hyper(0.007, "Adam's step size", 1e-7, 1.0)
    schedule: Literal["constant", "cosine"] = _hyper(
        "constant", "cosine: the learning rate decreases to 0 at the last epoch"
    )
    warmup_epochs: int = _hyper(
        0, "epochs in which the learning rate first rises linearly from 0", 0, 1000
    )
    weight_decay: float = _hyper(0.0, "decoupled weight decay (AdamW); 0 is Adam", 0, 1)
    clip_norm: float = _hyper(0.0, "largest norm of all gradients together; 0 for no limit", 0, 1e6)
    ema: float = _hyper(
        0.0,
        "momentum per step of averaged weights, which are validated and saved as the best ones; "
        "0 for none",
        0,
        0.99999,
    )
    encoder_rate: float = _hyper(
        1.0, "learning rate of EfficientNet-Lite0's encoder, as a share of learning_rate", 0, 1
    )
    batch_size: int = _hyper(16, "patches per training step", 1, 1024)
    val_batch_size: int = _hyper(
        16, "patches per validation step; changes memory and speed, never the result", 1, 1024
    )
    epochs: int = _hyper(27, "passes over the training split", 1, 10_000)
    augment: Literal["none", "flip", "full"] = _hyper(
        "none", "flip: flips and right-angle rotations; full: also brightness and contrast"
    )
    window: int = _hyper(
        0,
        "side in px of training windows drawn at random from whole mosaics; 0: the fixed patches",
        0,
        4096,
    )
    scale_jitter: float = _hyper(
        0.0, "windows are enlarged or shrunk by a random factor up to 1 + this", 0, 3
    )
    photometric: float = _hyper(
        0.0, "random gain and gamma of training images, each a factor up to 1 + this", 0, 3
    )
    cutmix: float = _hyper(
        0.0, "probability that a training window gets a rectangle of another one", 0, 1
    )
    class_sampling: float = _hyper(
        0.0, "share of windows around a pixel of a class drawn at random, all alike likely", 0, 1
    )
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = _hyper(
        "auto",
        "number format of the hidden layers; auto picks the fastest one for the device",
    )
    best_by: Literal["loss", "error"] = _hyper(
        "loss",
        "which weights are the best ones: those of the lowest val_loss or of the lowest val_error",
    )
    keep_epoch: int = _hyper(
        0, "also keep the weights after this epoch, beside the best ones; 0 for none", 0, 10_000
    )
    seed: int = _hyper(
        0, "seed of initial weights, shuffling, dropout and augmentation", 0, 2**31 - 1
    )

    def __post_init__(self) -> None:
        """Converts and checks the values. Raises UserError for a bad one."""
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
        if self.backbone == LITE0 and self.architecture != "unet":
            raise UserError(f"backbone={LITE0} has the architecture unet only")
        if self.schedule == "cosine" and self.warmup_epochs >= self.epochs:
            raise UserError(
                f"warmup_epochs={self.warmup_epochs} leaves nothing of epochs={self.epochs} for "
                "the cosine; take fewer"
            )
        self._check_unused(("warmup_epochs",), self.schedule != "cosine", "without schedule=cosine")
        if self.architecture == "pspnet" and self.window:
            raise UserError("architecture=pspnet needs the fixed patches; leave out window")
        self._check_unused(
            ("scale_jitter", "cutmix", "class_sampling"), not self.window, "without window"
        )
        self._check_unused(
            ("encoder_rate",),
            not (self.pretrained and self.backbone == LITE0),
            f"without pretrained weights of {LITE0}",
        )
        self._check_unused(
            ("normalization", "dropout", "filters"), bool(self.backbone), "with a backbone"
        )
        self._check_unused(
            ("label_smoothing",), self.loss not in SMOOTHED, f"with loss={self.loss}"
        )

    def _check_unused(self, names: Sequence[str], unused: bool, condition: str) -> None:
        """Raises UserError if hyperparameters that have no influence differ from their defaults."""
        for spec in fields(self):
            value = getattr(self, spec.name)
            if unused and spec.name in names and value != spec.default:
                raise UserError(f"{spec.name}={value!r} has no influence {condition}; leave it out")

    def check_patch_size(self, size: int) -> None:
        """Raises UserError if the architecture cannot process patches of `size` x `size` px."""
        multiple = BACKBONE_MULTIPLES[self.architecture] if self.backbone else UNET_MULTIPLE
        if self.window % multiple:
            raise UserError(
                f"window={self.window} is not a multiple of {multiple} px, which "
                f"{self.architecture} needs"
            )
        if size % multiple:
            with_backbone = f" on {self.backbone}" if self.backbone else ""
            near = max(multiple, round(size / multiple) * multiple)
            raise UserError(
                f"{self.architecture}{with_backbone} needs patches whose size is a multiple of "
                f"{multiple} px, but this set has {size} px; prepare one whose --patch-size is "
                f"{near} times its --scale"
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "Config":
        """Config from a mapping such as `wandb.config`. Missing names have their default.

        `configuration` may hold a mapping of several hyperparameters: with it, a grid search
        compares whole configurations (sweeps/confirm.yaml).

        Raises:
            UserError: A name is unknown, or a value is not allowed.
        """
        values = dict(values)
        values |= values.pop("configuration", None) or {}
        unknown = sorted(set(values) - {spec.name for spec in fields(cls)})
        if unknown:
            known = ", ".join(spec.name for spec in fields(cls))
            raise UserError(f"unknown hyperparameter {', '.join(unknown)}; known are: {known}")
        return cls(**values)


def is_baseline(values: Mapping[str, Any]) -> bool:
    """Whether a run with these hyperparameters is the published setting.

    It has the values of BASELINE, and the default of every other hyperparameter except those in
    FREE_IN_BASELINE.

    Args:
        values: Hyperparameters by name. A missing one has its default, except those of BASELINE: a
            run that stored none of them is of another project.
    """
    if not BASELINE.items() <= values.items():
        return False
    defaults = {spec.name: spec.default for spec in fields(Config)}
    return all(
        name in defaults and value == defaults[name]
        for name, value in values.items()
        if name not in (*BASELINE, *FREE_IN_BASELINE)
    )


def settle(values: Mapping[str, Any], patch_size: int) -> Config:
    """The configuration of a run that trains on patches of `patch_size` x `patch_size` px.

    Raises:
        UserError: A name or value is not allowed, the architecture cannot process such patches,
            there are no ImageNet weights for the backbone, or the Keras backend cannot train it.
    """
    config = Config.from_mapping(values)
    config.check_patch_size(patch_size)
    check_backend(None if config.backbone == LITE0 else config.backbone)
    if config.pretrained and config.backbone:
        pretrained.check(config.backbone)
    return config


def choices(spec: Field[Any]) -> tuple[str, ...] | None:
    """The allowed words of a field that is a choice; None for numbers, booleans and free text."""
    return get_args(spec.type) if get_origin(spec.type) is Literal else None


def _checked(spec: Field[Any], value: Any) -> Any:
    """`value` in the type of the field. UserError names the field, the value, and what to do."""
    if spec.name == "activation" and value is None:  # YAML's null
        value = "linear"
    words = choices(spec)
    if words:
        if value not in words:
            raise UserError(f"{spec.name}={value!r} is not one of {', '.join(words)}")
        return value
    if spec.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if spec.type is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON from W&B may turn 16 into 16.0
    expected = get_args(spec.type) or (spec.type,)
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        hint = (
            "; in YAML write 0.0001 or 1.0e-4, because 1e-4 is read as text"
            if isinstance(value, str)
            else ""
        )
        kind = " or ".join("null" if t is type(None) else t.__name__ for t in expected)
        raise UserError(f"{spec.name}={value!r} is {type(value).__name__}, expected {kind}{hint}")
    low, high = spec.metadata["low"], spec.metadata["high"]
    if low is not None and not low <= value <= high:  # also refuses NaN
        raise UserError(f"{spec.name}={value!r} is outside {low:g} to {high:g}")
    return value


# `_checked` and the options rely on it
assert all(spec.default is not MISSING for spec in fields(Config))

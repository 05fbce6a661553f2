"""What a user of a trained model must know, stored inside its .keras file.

A .keras file is a zip archive. Keras ignores the additional member, so the file still opens
anywhere. The facts go wherever the file goes: into W&B's artifacts and onto other machines.
"""

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from segmentation.config import Config
from segmentation.errors import UserError
from segmentation.labels import CLASSES, COLORS
from segmentation.prepared import PreparedSet

MEMBER = "aerial_sweeps.json"
"""Name of the member of the archive that holds the facts."""


@dataclass(frozen=True)
class ModelFacts:
    """How a model's training images were made, and what its output channels mean."""

    scale: int
    """Factor by which the images were shrunk before training; at least 1."""
    size: int
    """Side of the training patches or windows in px, after shrinking."""
    checksum: str
    """Checksum of the prepared set."""
    split: str
    """Option `split` of the prepared set."""
    epoch: int = 0
    """The epoch after which the weights were saved."""
    classes: tuple[str, ...] = CLASSES
    """Name of each output channel."""
    colors: tuple[str, ...] = tuple("#" + bytes(color).hex().upper() for color in COLORS)
    """Colour of each class in masks."""

    @classmethod
    def of_training(cls, config: Config, prepared: PreparedSet) -> "ModelFacts":
        """The facts of a model that is trained on `prepared`."""
        options = prepared.manifest["options"]
        return cls(
            scale=int(options["scale"]),
            size=config.window or prepared.patch_size,
            checksum=str(prepared.manifest["checksum"]),
            split=str(options["split"]),
        )

    def write(self, file: Path) -> None:
        """Adds the facts to a .keras file that has none yet."""
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(MEMBER, json.dumps(asdict(self), indent=1))


def read(file: Path) -> ModelFacts | None:
    """The facts in a .keras file; None if it holds none, as in files of older versions.

    Raises:
        UserError: The file is damaged, or its classes are not those of this project.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if MEMBER not in archive.namelist():
                return None
            record = json.loads(archive.read(MEMBER))
            lists = {name: tuple(record[name]) for name in ("classes", "colors")}
            facts = ModelFacts(**record | lists)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a whole .keras file ({error})") from error
    if facts.classes != CLASSES:
        raise UserError(
            f"{file} predicts the classes {', '.join(facts.classes)}, but this version has "
            f"{', '.join(CLASSES)}; use the version of the project that trained it"
        )
    return facts

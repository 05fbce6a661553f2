"""The folder of one run, `runs/ID`: what is needed to resume it, and the weights of its best epoch.

`state.json` holds the rows of all finished epochs and names the .keras files. Every file is written beside its final
name and renamed, and `state.json` last, so a run that is killed at any moment resumes from its last finished epoch.
"""

import fcntl
import json
import os
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmentation.config import Config
from segmentation.errors import UserError

if TYPE_CHECKING:
    import keras

FORMAT = 2  # of state.json; 1 (not written in the file) stored `precision: auto` instead of the number format in use
PACKED = "checkpoint.zip"
MEMBER = re.compile(r"(last|best|kept)-\d{5}\.keras")


class Checkpoint:
    """The resumable state of one run, locked while a process trains in its folder.

    Use it as a context manager: the lock is held inside, and an empty folder is removed at the end.
    """

    def __init__(self, folder: Path):
        """Reads `folder`. Raises UserError where it holds a damaged checkpoint."""
        self.folder = folder
        self.identity: dict[str, Any] = {}
        self.rows: list[dict] = []
        self.files: dict[str, str] = {}
        self._lock: int | None = None
        self._read()

    def __enter__(self) -> "Checkpoint":
        """Raises UserError where the folder cannot be written, or another process trains in it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise UserError(
                f"another process is training in {self.folder}; wait for it to end, or choose another WANDB_RUN_ID"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder} ({error.strerror}); name another folder with --runs"
            ) from error
        self._read()  # another process may have written it before this one got the lock
        return self

    def __exit__(self, *_: object) -> None:
        (self.folder / PACKED).unlink(missing_ok=True)
        if not (self.folder / "state.json").exists():  # nothing was trained
            with suppress(OSError):
                for leftover in self.folder.glob("part-*"):
                    leftover.unlink()
                (self.folder / "lock").unlink()
                self.folder.rmdir()
        os.close(self._lock)

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.rows)

    @property
    def precision(self) -> str | None:
        """Number format that the run was trained with; None for a run without finished epochs."""
        return self.identity.get("precision")

    @property
    def best_row(self) -> dict:
        """The row with the lowest validation loss: its weights are the `best` file."""
        return min(self.rows, key=lambda row: row["val_loss"])

    def path(self, role: str) -> Path | None:
        """The .keras file of a role: `last` (with optimizer), `best` or `kept` (for predictions); None if there is none."""
        return self.folder / self.files[role] if role in self.files else None

    def identify(self, identity: Mapping[str, Any]) -> None:
        """Sets what all epochs of the run have in common: hyperparameters, precision, checksum of the data.

        Raises UserError where the stored epochs were trained with other values. A hyperparameter that an older
        checkpoint does not name counts as its default value.
        """
        stored = asdict(Config()) | {"precision": identity["precision"]} | self.identity
        differs = [name for name in identity if self.rows and stored.get(name) != identity[name]]
        if differs:
            values = ", ".join(
                f"{name} was {stored.get(name)!r} and is {identity[name]!r}" for name in differs
            )
            raise UserError(
                f"{self.folder} is the checkpoint of another run: {', '.join(differs)} differ ({values}); "
                "choose another WANDB_RUN_ID, or remove the folder"
            )
        self.identity = dict(identity)

    def agrees(self, epochs: int, val_loss: float | None) -> bool:
        """Whether a history of `epochs` rows, the last one with this validation loss, is the start of this training."""
        return self.epoch >= epochs and (
            not epochs or self.rows[epochs - 1]["val_loss"] == val_loss
        )

    def load(self) -> "keras.Model":
        """The compiled model, its optimizer included, as it was after the last finished epoch."""
        import keras

        model = keras.saving.load_model(self.path("last"), safe_mode=True)
        if not model.compiled:
            raise UserError(f"{self.path('last')} holds no optimizer; {self._way_out()}")
        return model

    def save(self, model: "keras.Model", row: dict, best: bool, keep: bool) -> None:
        """Adds one epoch: its row, the whole model, and the weights alone where they are the best or to be kept.

        Raises UserError where the disk is full or the folder cannot be written.
        """
        import keras

        self.rows.append(row)
        inference = keras.Model(
            model.inputs, model.outputs, name=model.name
        )  # not compiled: opens without our classes
        roles = (
            {"last": model}
            | ({"best": inference} if best else {})
            | ({"kept": inference} if keep else {})
        )
        try:
            for role, saved in roles.items():
                name = f"{role}-{self.epoch:05d}.keras"
                part = self.folder / f"part-{name}"
                saved.save(part)
                part.replace(self.folder / name)
                self.files[role] = name
            self._write_state()
        except OSError as error:
            for part in self.folder.glob("part-*"):
                part.unlink(missing_ok=True)
            raise UserError(
                f"cannot save epoch {self.epoch} in {self.folder} ({error.strerror or error}); free some space and resume the run"
            ) from error

    def pack(self) -> Path:
        """One file that holds the whole checkpoint, for another machine; written beside and renamed."""
        part = self.folder / f"part-{PACKED}"
        with zipfile.ZipFile(
            part, "w", zipfile.ZIP_STORED
        ) as archive:  # .keras files are archives already
            for name in ("state.json", *self.files.values()):
                archive.write(self.folder / name, name)
        return part.replace(self.folder / PACKED)

    def unpack(self, packed: Path) -> None:
        """Replaces this checkpoint by the one in `packed`, a file that `pack` made. UserError where it is damaged."""
        try:
            with zipfile.ZipFile(packed) as archive:
                names = set(archive.namelist()) - {"state.json"}
                if archive.testzip() or not all(map(MEMBER.fullmatch, names)):
                    raise zipfile.BadZipFile("damaged, or with other files in it")
                for name in (*sorted(names), "state.json"):
                    part = self.folder / f"part-{name}"
                    part.write_bytes(archive.read(name))
                    part.replace(self.folder / name)
        except (zipfile.BadZipFile, KeyError) as error:
            raise UserError(f"the uploaded checkpoint {packed} cannot be used: {error}") from error
        self._read()
        self._remove_unnamed()

    def _read(self) -> None:
        path = self.folder / "state.json"
        if not path.exists():
            return
        try:
            state = json.loads(path.read_text())
            if state.get("format", 1) > FORMAT:
                raise ValueError(
                    f"it has format {state['format']}, this version reads up to {FORMAT}"
                )
            self.identity, self.rows, self.files = (
                dict(state["identity"]),
                list(state["rows"]),
                dict(state["files"]),
            )
            if self.identity.get("precision") == "auto":
                del self.identity["precision"]
            for number, row in enumerate(self.rows, start=1):
                if row["epoch"] != number or not isinstance(row["val_loss"], float):
                    raise ValueError(f"row {number} is not the row of an epoch")
            for role in {"last", "best", *self.files}:
                if not MEMBER.fullmatch(self.files[role]):
                    raise ValueError(f"{self.files[role]!r} is not the name of a weights file")
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:  # any other shape of JSON
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path} is damaged ({reason}); {self._way_out()}") from error
        for role in self.files:
            self._check_weights(self.path(role))

    def _check_weights(self, file: Path) -> None:
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{file} cannot be read ({error}); {self._way_out()}") from error
        if damaged:
            raise UserError(f"{file} is damaged at {damaged}; {self._way_out()}")

    def _way_out(self) -> str:
        return (
            f"remove {self.folder} to train the run from its start, or choose another WANDB_RUN_ID"
        )

    def _write_state(self) -> None:
        part = self.folder / "part-state.json"
        state = {
            "format": FORMAT,
            "identity": self.identity,
            "rows": self.rows,
            "files": self.files,
        }
        with part.open("w") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / "state.json")
        self._remove_unnamed()

    def _remove_unnamed(self) -> None:
        """Removes weights that `state.json` does not name: those of earlier epochs, and half-written ones."""
        stale = {path for path in self.folder.glob("*.keras") if MEMBER.search(path.name)}
        for path in stale - {self.folder / name for name in self.files.values()}:
            path.unlink()

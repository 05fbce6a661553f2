"""The folder of one run, `runs/ID`: what is needed to resume it, and the weights of its best epoch.

`state.json` holds the rows of all finished epochs, names the .keras files, and describes the run as
W&B does. Every file is written under a temporary name and renamed, `state.json` last. So a run that
is killed at any moment resumes from its last finished epoch.
"""

import fcntl
import json
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmentation.config import Config
from segmentation.errors import UserError
from segmentation.model_facts import ModelFacts

if TYPE_CHECKING:
    import keras

FORMAT = 2
"""Format of state.json. Format 1 has no such number, and may have `precision: auto` instead of the
number format in use."""

PACKED = "checkpoint.zip"
"""Name of the uploaded file."""

WEIGHTS = re.compile(r"(last|best|kept)-\d{5}\.keras")
"""Names of weights files: role and epoch."""

Row = dict[str, float]
"""What is logged for one epoch: name -> value."""


class Checkpoint:
    """The resumable state of one run.

    Use it as a context manager: inside, the folder is locked for this process; at the end, a folder
    in which nothing was trained is removed.

    Attributes:
        folder: The run's folder.
        identity: What all epochs have in common; see `identify`.
        rows: One row per finished epoch.
        files: Role (`last`, `best`, `kept`) -> name of the weights file.
        run: The run as W&B holds it; see `describe`.
        status: How the run ended, a key of STATUSES; None before its end and for older files.
    """

    def __init__(self, folder: Path) -> None:
        """Reads `folder`. Raises UserError if it holds a damaged checkpoint."""
        self.folder = folder
        self.identity: dict[str, Any] = {}
        self.rows: list[Row] = []
        self.files: dict[str, str] = {}
        self.run: dict[str, Any] = {}
        self.status: str | None = None
        self._facts: ModelFacts | None = None
        self._read()

    def __enter__(self) -> "Checkpoint":
        """Raises UserError if the folder cannot be written, or another process trains in it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("a")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise UserError(
                f"another process is training in {self.folder}; "
                "wait until it ends, or choose another WANDB_RUN_ID"
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
        self._lock.close()

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.rows)

    @property
    def precision(self) -> str | None:
        """Number format of the run's finished epochs; None without any."""
        return self.identity.get("precision")

    @property
    def best_row(self) -> Row:
        """The row of the epoch whose weights are the `best` file."""
        epoch = int(self.files["best"].removesuffix(".keras").removeprefix("best-"))
        return self.rows[epoch - 1]

    def lowest(self, name: str) -> float:
        """The lowest value `name` of all finished epochs; infinite without one."""
        return min((row[name] for row in self.rows if name in row), default=math.inf)

    def path(self, role: str) -> Path:
        """The .keras file of a role in `files`.

        `last` includes the optimizer; `best` and `kept` are for predictions only.
        """
        return self.folder / self.files[role]

    def identify(self, identity: Mapping[str, Any]) -> None:
        """Sets what must match for the checkpoint to be resumed.

        That is: hyperparameters, precision and the checksum of the data; `epochs` only where the
        learning rate depends on it. A hyperparameter that did not exist yet when the checkpoint was
        written counts as its default, so a new field of Config does not make old checkpoints
        unusable.

        Raises:
            UserError: The finished epochs were trained with other values.
        """
        stored = asdict(Config()) | {"precision": identity["precision"]} | self.identity
        differs = [name for name in identity if self.rows and stored.get(name) != identity[name]]
        if differs:
            values = ", ".join(
                f"{name} was {stored.get(name)!r} and is {identity[name]!r}" for name in differs
            )
            raise UserError(
                f"{self.folder} is the checkpoint of another run: {', '.join(differs)} differ "
                f"({values}); choose another WANDB_RUN_ID, or remove the folder"
            )
        self.identity = dict(identity)

    def describe(self, facts: ModelFacts, run: Mapping[str, Any]) -> None:
        """Sets what every later epoch stores, so that nobody needs a server to read the run.

        Args:
            facts: Go into each weights file, with its epoch.
            run: Name, url, tags and config of the run, as W&B has them; go into state.json.
        """
        self._facts, self.run, self.status = facts, dict(run), None

    def end(self, status: str) -> None:
        """Stores how the run ended, if it has a finished epoch.

        Raises:
            UserError: The disk is full, or the folder cannot be written.
        """
        self.status = status
        if self.rows:
            with self._saving():
                self._write_state()

    def is_locked(self) -> bool:
        """Whether a process trains in the folder now."""
        try:
            with (self.folder / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def agrees(self, epochs: int, loss: float | None) -> bool:
        """Whether this training began with `epochs` epochs of which the last had `loss`."""
        return self.epoch >= epochs and (not epochs or self.rows[epochs - 1]["loss"] == loss)

    def load(self) -> "keras.Model":
        """The compiled model, including its optimizer, as after the last finished epoch."""
        import keras

        model = keras.saving.load_model(self.path("last"), safe_mode=True)
        if not model.compiled:
            raise UserError(f"{self.path('last')} holds no optimizer; {self._way_out()}")
        return model

    def save(self, model: "keras.Model", row: Row, best: bool, keep: bool) -> None:
        """Adds one epoch.

        Args:
            model: The model after the epoch, with its optimizer. Always saved as `last`.
            row: The epoch's row.
            best: Whether to save the weights as `best` too, averaged if the optimizer averages.
            keep: Whether to save the weights as `kept` too, likewise.

        Raises:
            UserError: The disk is full, or the folder cannot be written.
        """
        import keras

        from segmentation.optimizers import averaged_weights

        self.rows.append(row)
        # not compiled: opens without this package
        inference = keras.Model(model.inputs, model.outputs, name=model.name)
        with self._saving():
            self._save_weights("last", model)
            with averaged_weights(model):
                for role in [role for role, wanted in (("best", best), ("kept", keep)) if wanted]:
                    self._save_weights(role, inference)
            self._write_state()

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """An error of the disk removes half-written files and becomes a UserError."""
        try:
            yield
        except OSError as error:
            for part in self.folder.glob("part-*"):
                part.unlink(missing_ok=True)
            raise UserError(
                f"cannot save epoch {self.epoch} in {self.folder} ({error.strerror or error}); "
                "free some space and resume the run"
            ) from error

    def _save_weights(self, role: str, model: "keras.Model") -> None:
        """Writes the model as the weights file of a role, under a temporary name first."""
        name = f"{role}-{self.epoch:05d}.keras"
        part = self.folder / f"part-{name}"
        model.save(part)
        if self._facts:
            replace(self._facts, epoch=self.epoch).write(part)
        part.replace(self.folder / name)
        self.files[role] = name

    def pack(self) -> Path:
        """Writes the whole checkpoint into one file, for another machine. Returns its path."""
        part = self.folder / f"part-{PACKED}"
        # .keras files are archives already
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name in ("state.json", *self.files.values()):
                archive.write(self.folder / name, name)
        return part.replace(self.folder / PACKED)

    def unpack(self, packed: Path) -> None:
        """Replaces this checkpoint with the one in `packed`, a file that `pack` made.

        Raises:
            UserError: The file is damaged.
        """
        try:
            with zipfile.ZipFile(packed) as archive:
                names = set(archive.namelist()) - {"state.json"}
                if archive.testzip() or not all(map(WEIGHTS.fullmatch, names)):
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
        """Reads `state.json`, if there is one, and checks the weights files. See `__init__`."""
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
            self.run, self.status = dict(state.get("run", {})), state.get("status")
            if self.identity.get("precision") == "auto":
                del self.identity["precision"]
            for number, row in enumerate(self.rows, start=1):
                if row["epoch"] != number or not isinstance(row["loss"], float):
                    raise ValueError(f"row {number} is not the row of an epoch")
            for role in {"last", "best", *self.files}:
                if not WEIGHTS.fullmatch(self.files[role]):
                    raise ValueError(f"{self.files[role]!r} is not the name of a weights file")
        # all that JSON of another shape can raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path} is damaged ({reason}); {self._way_out()}") from error
        for role in self.files:
            self._check_weights(self.path(role))

    def _check_weights(self, file: Path) -> None:
        """Raises UserError if a .keras file cannot be read or one of its checksums is wrong."""
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{file} cannot be read ({error}); {self._way_out()}") from error
        if damaged:
            raise UserError(f"{file} is damaged at {damaged}; {self._way_out()}")

    def _way_out(self) -> str:
        """What a user can do about a damaged checkpoint."""
        return (
            f"remove {self.folder} to train the run from its start, or choose another WANDB_RUN_ID"
        )

    def _write_state(self) -> None:
        """Writes `state.json`. From then on the epoch counts as finished."""
        part = self.folder / "part-state.json"
        model = asdict(self._facts) if self._facts else {}
        model.pop("epoch", None)  # differs from file to file
        state = {
            "format": FORMAT,
            "identity": self.identity,
            "rows": self.rows,
            "files": self.files,
            "model": model,
            "run": self.run,
            "status": self.status,
        }
        with part.open("w") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / "state.json")
        self._remove_unnamed()

    def _remove_unnamed(self) -> None:
        """Removes weights that `state.json` does not name, of earlier and of interrupted epochs."""
        stale = {path for path in self.folder.glob("*.keras") if WEIGHTS.search(path.name)}
        for path in stale - {self.folder / name for name in self.files.values()}:
            path.unlink()

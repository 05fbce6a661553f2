"""Checkpoints: damage, locking, older formats, and the file for another machine."""

import json
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
from project_helpers import ROOT

from segmentation.checkpoint import Checkpoint
from segmentation.config import Config
from segmentation.errors import UserError

IDENTITY = {name: value for name, value in asdict(Config()).items() if name != "epochs"}
IDENTITY |= {"precision": "float32", "data": "abc"}
FILES = {"last": "last-00002.keras", "best": "best-00001.keras"}


def write(folder: Path, **changes) -> Path:
    """Writes a checkpoint of two epochs, with `changes` to its state.json. Returns `folder`.

    Its weights files are valid archives, but no models.
    """
    folder.mkdir(parents=True)
    rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.6}]
    state = {"format": 2, "identity": IDENTITY, "rows": rows, "files": FILES} | changes
    (folder / "state.json").write_text(json.dumps(state))
    for name in FILES.values():
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("weights", name * 100)
    return folder


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[60] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "no json": lambda folder: (folder / "state.json").write_text("{"),
    "empty": lambda folder: (folder / "state.json").write_text(""),
    "a list": lambda folder: (folder / "state.json").write_text("[]"),
    "an empty object": lambda folder: (folder / "state.json").write_text("{}"),
    "rows without epochs": lambda folder: (folder / "state.json").write_text(
        json.dumps({"identity": {}, "rows": [{}], "files": FILES})
    ),
    "a folder": lambda folder: ((folder / "state.json").unlink(), (folder / "state.json").mkdir()),
    "no weights": lambda folder: (folder / FILES["last"]).unlink(),
    "no best weights": lambda folder: (folder / FILES["best"]).unlink(),
    "truncated weights": lambda folder: truncate(folder / FILES["last"]),
    "empty weights": lambda folder: (folder / FILES["last"]).write_bytes(b""),
    "a flipped bit": lambda folder: flip(folder / FILES["last"]),
    "a newer format": lambda folder: (folder / "state.json").write_text('{"format": 99}'),
    "a path as a name": lambda folder: (folder / "state.json").write_text(
        json.dumps(
            {"identity": {}, "rows": [], "files": {"last": "../../x", "best": FILES["best"]}}
        )
    ),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_damaged_checkpoint_is_reported_in_one_line_with_what_to_do(tmp_path, damage):
    folder = write(tmp_path / "run")
    DAMAGE[damage](folder)
    with pytest.raises(UserError) as error:
        Checkpoint(folder)
    message = str(error.value)
    assert str(folder) in message and "remove" in message and "\n" not in message


def test_a_second_process_in_the_folder_is_refused(tmp_path):
    folder = write(tmp_path / "run")
    script = (
        "import sys; from pathlib import Path; from segmentation.checkpoint import Checkpoint\n"
    )
    script += "with Checkpoint(Path(sys.argv[1])): pass"
    with Checkpoint(folder):
        done = subprocess.run(
            [sys.executable, "-c", script, folder], cwd=ROOT, capture_output=True, text=True
        )
        assert "another process is training in" in done.stderr
    assert subprocess.run([sys.executable, "-c", script, folder], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path, place):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" if place == "a file" else tmp_path / "file" / "run"
    with pytest.raises(UserError, match="--runs"), Checkpoint(folder):
        pass


def test_a_folder_in_which_nothing_was_trained_is_removed(tmp_path):
    with Checkpoint(tmp_path / "runs" / "new") as checkpoint:
        assert checkpoint.epoch == 0
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_new_hyperparameter_with_its_default_does_not_invalidate_a_checkpoint(tmp_path):
    older = {
        name: value for name, value in IDENTITY.items() if name not in ("keep_epoch", "augment")
    }
    older["precision"] = "auto"  # as in format 1
    folder = write(tmp_path / "run", identity=older)
    Checkpoint(folder).identify(IDENTITY)
    with pytest.raises(UserError, match=r"augment was 'none' and is 'full'"):
        Checkpoint(folder).identify(IDENTITY | {"augment": "full"})
    with pytest.raises(UserError, match="data differ"):
        Checkpoint(folder).identify(IDENTITY | {"data": "other"})


def test_a_packed_checkpoint_is_unpacked_unchanged_in_another_folder(tmp_path):
    with Checkpoint(write(tmp_path / "here")) as here, Checkpoint(tmp_path / "there") as there:
        there.unpack(here.pack())
        assert (there.rows, there.files, there.identity) == (here.rows, here.files, here.identity)
        assert all(there.path(role).read_bytes() == here.path(role).read_bytes() for role in FILES)
    assert not list(tmp_path.glob("*/checkpoint.zip"))


def test_unpacking_writes_no_file_outside_the_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../outside.keras", "x")
        archive.writestr("state.json", "{}")
    with (
        Checkpoint(tmp_path / "runs" / "run") as checkpoint,
        pytest.raises(UserError, match="cannot be used"),
    ):
        checkpoint.unpack(tmp_path / "evil.zip")
    assert not (tmp_path / "runs" / "outside.keras").exists()


def test_a_history_agrees_with_the_training_that_began_with_it(tmp_path):
    checkpoint = Checkpoint(write(tmp_path / "run"))
    assert checkpoint.agrees(0, None) and checkpoint.agrees(1, 0.5) and checkpoint.agrees(2, 0.6)
    assert not checkpoint.agrees(2, 0.5) and not checkpoint.agrees(3, 0.6)

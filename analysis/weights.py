"""Weights of runs: fetched from W&B or from a checkpoint on this machine, kept in a cache.

Each run has up to two .keras files: `best` (lowest validation loss) and `kept` (after
Config.keep_epoch).
"""

import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from analysis import reader
from analysis.runs import Run
from segmentation.checkpoint import Checkpoint
from segmentation.errors import UserError

Log = Callable[[str], None]


def find(
    run: Run, kind: str, sweep_path: str, cache: Path, checkpoints: Path, log: Log = print
) -> Path:
    """The .keras file of a run: from the cache, else W&B, else the run's folder on this machine.

    Args:
        run: The run that was trained.
        kind: `best` or `kept`.
        sweep_path: Any path in the run's project, as entity/project/id. Or the folder of the run's
            checkpoint, which then has the file: it may be newer than the cache.
        cache: Where the file is kept, as `cache/models/RUN_ID/KIND.keras`.
        checkpoints: Folder in which train.py made one folder per run id.
        log: Receives a line if the file came from `checkpoints`.

    Raises:
        UserError: No place has the file, or it is damaged.
    """
    if (Path(sweep_path) / "state.json").is_file():
        return of_checkpoint(Path(sweep_path), kind)
    file = cache / "models" / run.id / f"{kind}.keras"
    if file.is_file():
        return _verified(file)
    entity, project, _ = reader.split_path(sweep_path)
    try:
        _fetch(f"{entity}/{project}/model:{run.id}", file, cache)
    except UserError as error:
        checkpoint = _checkpoint(checkpoints / run.id, kind)
        if not checkpoint:
            raise UserError(
                f"no {kind} weights of run {run}: {error.message}; "
                f"nor are they in {checkpoints / run.id}"
            ) from error
        log(f"{kind} weights of run {run}: from {checkpoint}, because {error.message}")
        _keep(checkpoint, file, cache)
    return file


def find_by_path(
    path: str, kind: str, cache: Path, checkpoints: Path, log: Log = print
) -> tuple[Path, Run]:
    """The .keras file, and its run, of `entity/project/run_id` or `entity/project/model:v0`.

    Raises:
        UserError: W&B returns no such run or artifact, or it has no weights of this kind.
    """
    entity, project, name = reader.split_path(path, "run")
    path = f"{entity}/{project}/{name}"
    if ":" not in name:
        run = reader.read_run(path)
        return find(run, kind, path, cache, checkpoints, log), run
    run, version = reader.read_maker(path)
    file = cache / "models" / run.id / version / f"{kind}.keras"
    if not file.is_file():
        _fetch(path, file, cache)
    return _verified(file), run


def of_checkpoint(folder: Path, kind: str) -> Path:
    """The .keras file of this kind in the folder of a checkpoint.

    Raises:
        UserError: The checkpoint is damaged, or has no such weights.
    """
    checkpoint = Checkpoint(folder)
    if kind not in checkpoint.files:
        there = ", ".join(sorted(set(checkpoint.files) - {"last"}))
        raise UserError(f"{folder} has no {kind} weights; name another role: {there}")
    return checkpoint.path(kind)


def write_atomically(file: Path, content: bytes) -> None:
    """Writes the whole file, or leaves the old one; an error leaves no part of the content."""
    part = file.with_name(f"part-{file.name}")
    try:
        part.write_bytes(content)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def make_cache(cache: Path) -> None:
    """Creates the cache folder, which git ignores wherever the results folder is."""
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")


def _fetch(artifact_path: str, file: Path, cache: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _keep(reader.download(artifact_path, file.name, Path(folder)), file, cache)


def _keep(source: Path, file: Path, cache: Path) -> None:
    """Copies a .keras file into the cache, if it is whole."""
    content = _verified(source).read_bytes()
    make_cache(cache)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, content)


def _checkpoint(folder: Path, kind: str) -> Path | None:
    """The .keras file that train.py left in the folder of a run; None if there is none."""
    try:
        return folder / str(json.loads((folder / "state.json").read_text())["files"][kind])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _verified(file: Path) -> Path:
    """`file`, after its bytes were compared with the checksums in it: it is a zip archive.

    Raises:
        UserError: The file is incomplete or damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{file} is not a whole .keras file ({error}); remove it to have it fetched again"
        ) from error
    if damaged:
        raise UserError(f"{file} is damaged at {damaged}; remove it to have it fetched again")
    return file

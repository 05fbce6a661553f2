"""Copies runs made here to a W&B account, by the client's own `wandb sync`.

The client keeps a transaction log of every run in the store's folder. Syncing reads that log as if
the run had been offline.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from loopback.daemon import read_json, write_json
from loopback.errors import UserError

BATCH = 50  # runs per `wandb sync`


def local_runs(folder: Path) -> dict[str, list[Path]]:
    """The run folders of a store, by run id. A resumed run has one folder per start."""
    runs: dict[str, list[Path]] = {}
    for path in sorted((folder / "wandb").glob("*run-*-*")):
        if path.is_dir() and list(path.glob("run-*.wandb")):
            runs.setdefault(path.name.rpartition("-")[2], []).append(path)
    return runs


def push(folder: Path, target: str, names: set[str] | None = None) -> list[str]:
    """Syncs the run folders that were not synced to `target` before.

    A run that was resumed after its last push has a new folder, which is sent alone. The account is
    the one of `wandb login` or WANDB_API_KEY.

    Args:
        folder: the store.
        target: ENTITY/PROJECT.
        names: ids of the runs to send; None for all.

    Returns:
        The ids of the runs that were sent.

    Raises:
        UserError: `folder` is not a store, or `wandb sync` failed; the message quotes it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no store in {folder}; choose another --dir")
    entity, _, project = target.partition("/")
    file = folder / "pushed.json"
    pushed = read_json(file, list, "remove it to push all runs again")
    # Names of folders. Earlier versions wrote ids of runs.
    done = set(pushed.get(target, []))
    todo = {
        name: [path for path in paths if path.name not in done]
        for name, paths in local_runs(folder).items()
        if name not in done and (names is None or name in names)
    }
    sent = [name for name, paths in todo.items() if paths]
    for start in range(0, len(sent), BATCH):
        paths = [path for name in sent[start : start + BATCH] for path in todo[name]]
        _sync(paths, folder, entity, project)
        done.update(path.name for path in paths)
        write_json(file, pushed | {target: sorted(done)})
    return sent


def _sync(paths: list[Path], folder: Path, entity: str, project: str) -> None:
    """Sends run folders with one `wandb sync`."""
    options = ["--yes", "--include-online", "--include-synced"]
    options += ["--entity", entity, "--project", project]
    # The client marks a run folder that it has sent to our server, and would skip it. The copies,
    # made of hard links, leave the marks out.
    marks = shutil.ignore_patterns("*.synced", "*.syncstate", "logs")
    with tempfile.TemporaryDirectory(dir=folder, prefix="push-") as scratch:
        copies = [str(Path(scratch) / path.name) for path in paths]
        for path, copy in zip(paths, copies, strict=True):
            shutil.copytree(path, copy, copy_function=os.link, ignore=marks)
        command = [sys.executable, "-m", "wandb", "sync", *options, *copies]
        done = subprocess.run(command, capture_output=True, text=True)
    output = (done.stdout + done.stderr).strip()
    if done.returncode or "ERROR" in output:
        raise UserError(f"`wandb sync` failed:\n{output}")

"""Runs made here, taken to a W&B account by the client's own `wandb sync`.

The client keeps a transaction log of every run in the store's folder; syncing reads it as if the run had been offline.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from loopback.daemon import read_record, write_record
from loopback.errors import UserError

BATCH = 50  # runs for one `wandb sync`


def local_runs(folder: Path) -> dict[str, list[Path]]:
    """The run directories in a store, by run id; a resumed run has several."""
    found: dict[str, list[Path]] = {}
    for path in sorted((folder / "wandb").glob("*run-*-*")):
        if path.is_dir() and list(path.glob("run-*.wandb")):
            found.setdefault(path.name.rpartition("-")[2], []).append(path)
    return found


def push(folder: Path, target: str, wanted: set[str] | None = None) -> list[str]:
    """Syncs to ENTITY/PROJECT what was not synced there before, or only `wanted` ids; the ids that were sent.

    A run that was continued after its last push has a new directory, which is sent alone.
    The environment must lead to the account: a key from `wandb login` or in WANDB_API_KEY.
    UserError without a store in `folder`, or with the words of `wandb sync` if it fails.
    """
    if not folder.is_dir():
        raise UserError(f"there is no store in {folder}; choose another --dir")
    entity, _, project = target.partition("/")
    record = folder / "pushed.json"
    sent = read_record(record, list, "remove it to push all runs again")
    already = set(
        sent.get(target, [])
    )  # names of directories; earlier versions wrote the ids of runs
    found = {name: paths for name, paths in local_runs(folder).items() if name not in already}
    todo = {
        name: [path for path in paths if path.name not in already] for name, paths in found.items()
    }
    names = [name for name, paths in todo.items() if paths and (wanted is None or name in wanted)]
    for start in range(0, len(names), BATCH):
        paths = [path for name in names[start : start + BATCH] for path in todo[name]]
        _sync(paths, folder, entity, project)
        already.update(path.name for path in paths)
        write_record(record, sent | {target: sorted(already)})
    return names


def _sync(paths: list[Path], folder: Path, entity: str, project: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix="push-") as scratch:
        copies = []
        for path in (
            paths
        ):  # without the marks of the first sync, by which the client would skip what it sent to us
            copy = Path(scratch) / path.name
            shutil.copytree(
                path,
                copy,
                copy_function=os.link,
                ignore=shutil.ignore_patterns("*.synced", "*.syncstate", "logs"),
            )
            copies.append(str(copy))
        options = [
            "--yes",
            "--include-online",
            "--include-synced",
            "--entity",
            entity,
            "--project",
            project,
        ]
        command = [sys.executable, "-m", "wandb", "sync", *options, *copies]
        done = subprocess.run(command, capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip()
    if done.returncode or "ERROR" in said:
        raise UserError(f"`wandb sync` failed:\n{said}")

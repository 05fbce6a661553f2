"""Folders that appear complete or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segmentation.errors import UserError


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yields an empty temporary folder; renames it to `out` on success, deletes it on failure.

    The temporary folder is `.NAME.partial` beside `out`. An existing `out` does not change before
    the rename replaces it. The next call removes what a killed process left behind.

    A lock keeps two processes from writing the same folder. The system releases it when the
    process ends, however it ends.

    Raises:
        UserError: Another process is writing `out`.
    """
    partial, replaced = (out.with_name(f".{out.name}.{end}") for end in ("partial", "replaced"))
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing {out}; wait until it ends") from None
        _empty(partial)
        shutil.rmtree(replaced, ignore_errors=True)
        try:
            yield partial
            if out.exists():
                out.rename(replaced)
            partial.rename(out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        os.close(lock)


def _empty(folder: Path) -> None:
    """Removes the contents of a folder. The folder itself stays, because the lock is on it."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

"""Folders that appear complete or not at all, and checksums of files."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from hashlib import file_digest
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


def file_checksums(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Name -> SHA-256 of the files in `folder`."""
    with ThreadPoolExecutor(len(names)) as pool:  # hashing releases the interpreter lock
        checksums = pool.map(lambda name: _checksum(folder / name), names)
        return dict(zip(names, checksums, strict=True))


def _checksum(path: Path) -> str:
    """SHA-256 of a file, computed once per process as long as the file does not change."""
    state = path.stat()
    return _checksum_of_state(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _checksum_of_state(path: Path, *_state: int) -> str:
    """SHA-256 of a file. Another inode, size or time of change in `_state` misses the cache."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()

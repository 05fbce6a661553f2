"""The server's data in one folder: SQLite for facts, plain files for bytes.

A request is answered only after its transaction is in SQLite's write-ahead log. So a server that
is killed, even by kill -9, keeps everything that it acknowledged. A power cut can lose the last
moments.
"""

# ruff: noqa: S608  (table and column names come from this program; every value is bound with a ?)

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import re2

from loopback.errors import UserError

ENTITY = "loopback"  # the one user, and the entity of all projects that name no other
DEFAULT_PROJECT = "uncategorized"  # W&B's own name for "no project given"
VERSION = 1  # of the tables in schema.sql; SQLite reports 0 for an empty database
MAX_READ_CHARACTERS = 64 * 2**20  # per query of a client
DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MIN_KEY_LENGTH = 40  # W&B's clients refuse shorter keys
MAX_FILE_NAME_BYTES = 255  # limit of the usual Linux and macOS file systems

Row = dict[str, Any]  # one row: column name -> str, int, float or None; resolvers add fields to it


class NotFoundError(Exception):
    """The store does not have what a request names; the server answers with status 404."""


class LockedError(UserError):
    """Another server uses this store."""


class GoneError(Exception):
    """The store's folder or files were deleted or replaced while the server ran."""


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error means that the store's disk takes no more bytes."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS


def now() -> str:
    """The current time as W&B writes it: ISO 8601, UTC, with microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def dumps(value: object) -> str:
    """`value` as compact JSON. NaN and infinities become strings, as on W&B: JSON has none."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"))


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value != value:
        return "NaN"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def json_object(text: str, what: str) -> dict[str, Any]:
    """The object that `text` holds as JSON. `what` names it in the ValueError for anything else."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, not {text[:50]!r}")
    return value


@lru_cache(maxsize=64)
def compiled(pattern: str) -> Any:  # re2 has no annotations
    """The regular expression `pattern`. Raises ValueError if RE2 refuses it.

    RE2 takes time in proportion to the length of the text. Python's `re` can take exponential time
    and blocks all other threads meanwhile.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, TypeError) as error:
        raise ValueError(
            f"$regex {str(pattern)[:200]!r} is refused: {error}; "
            "RE2 has no look-around and no backreferences"
        ) from error


def _matches(pattern: str, text: object) -> bool:
    return text is not None and compiled(pattern).search(str(text)) is not None


def _as_dict(cursor: sqlite3.Cursor, cells: tuple[Any, ...]) -> Row:
    return dict(sqlite3.Row(cursor, cells))


class Store:
    """One folder, used by one server. Each thread has its own connection; writers take turns."""

    def __init__(self, folder: Path):
        """Opens or creates the store in `folder`. Other users of the machine cannot enter it.

        Raises:
            LockedError: another server uses the folder.
            UserError: the folder cannot be written, the database is damaged or has another version,
                or the key is too short or readable by others.
        """
        os.umask(0o077)  # on a shared machine no other user may read the runs
        self.folder = folder.resolve()
        self._lock_file = self._locked(folder)
        self._local = threading.local()
        self._writer = threading.RLock()
        self._depth = 0
        try:
            self._prepare_tables()
        except sqlite3.DatabaseError as error:
            file = self.folder / "loopback.sqlite"
            raise UserError(
                f"cannot use {file}: {error}; free disk space, or choose another --dir"
            ) from error
        self.key = read_or_make_key(self.folder)
        shutil.rmtree(self.folder / "uploads", ignore_errors=True)  # of a server that was killed
        self._files = {name: _identity(self.folder / name) for name in ("lock", "loopback.sqlite")}
        # Set when the server stops because no process uses the store any more. Nobody can start to
        # use the store while this lock is held.
        self.unused_lock: IO[str] | None = None
        self._last_version = self.value("SELECT COALESCE(MAX(version), 0) FROM runs")

    def _locked(self, folder: Path) -> IO[str]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            lock_file = (self.folder / "lock").open("a")
        except OSError as error:
            raise UserError(
                f"cannot keep a store in {folder}: {error.strerror}; choose another --dir"
            ) from error
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"another server uses {folder}; stop it, or choose another --dir"
            ) from error
        return lock_file

    def _prepare_tables(self) -> None:
        version = self.value("PRAGMA user_version")
        if version not in (0, VERSION):
            raise UserError(
                f"the store in {self.folder} has version {version}, "
                f"and this program reads version {VERSION}: "
                "use the loopback that made it, or choose another --dir"
            )
        tables = (Path(__file__).parent / "schema.sql").read_text()
        self._connection().executescript(f"{tables} PRAGMA user_version = {VERSION}")

    def check_present(self) -> None:
        """Raises GoneError if the files that this server opened are no longer in the folder."""
        for name, identity in self._files.items():
            if _identity(self.folder / name) != identity:
                raise GoneError(f"{self.folder / name} was deleted or replaced; this server stops")

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self.folder / "loopback.sqlite", timeout=60, isolation_level=None
            )
            connection.row_factory = _as_dict
            connection.create_function("regexp", 2, _matches, deterministic=True)
            connection.execute("PRAGMA journal_mode=WAL")
            # A commit survives kill -9 without fsync; SQLite calls fsync at checkpoints only.
            connection.execute("PRAGMA synchronous=NORMAL")
            self._local.connection = connection
        return connection

    def all(self, sql: str, *values: object) -> list[Row]:
        """All rows of a query."""
        return self._connection().execute(sql, values).fetchall()

    def bounded(self, sql: str, *values: object) -> list[Row]:
        """All rows of a query. Raises ValueError above MAX_READ_CHARACTERS characters in total."""
        rows, size = [], 0
        for row in self._connection().execute(sql, values):
            size += sum(len(cell) for cell in row.values() if isinstance(cell, str))
            if size > MAX_READ_CHARACTERS:
                raise ValueError(
                    f"the answer is larger than {MAX_READ_CHARACTERS // 2**20} MiB: "
                    "ask for fewer rows at a time, by page_size or samples"
                )
            rows.append(row)
        return rows

    def one(self, sql: str, *values: object) -> Row | None:
        """The first row of a query, or None."""
        row: Row | None = self._connection().execute(sql, values).fetchone()
        return row

    def value(self, sql: str, *values: object) -> Any:
        """The first column of the first row, or None."""
        row = self.one(sql, *values)
        return next(iter(row.values())) if row else None

    def row(self, table: str, row_id: int) -> Row:
        """The row of `table` with this id. Raises NotFoundError if there is none."""
        row = self.one(f"SELECT * FROM {table} WHERE id = ?", row_id)
        if row is None:
            raise NotFoundError(f"{table} has no row {row_id}")
        return row

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Commits all writes inside together, or none. Can be nested; readers never wait."""
        with self._writer:
            if self._depth == 0:
                self._connection().execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._connection().execute("COMMIT")
            except BaseException:
                # On a full disk SQLite has rolled back already: then no transaction is open.
                if self._depth == 1 and self._connection().in_transaction:
                    self._connection().execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Runs one writing statement once per row of values."""
        with self.writing():
            self._connection().executemany(sql, rows)

    def insert(self, table: str, **columns: object) -> int:
        """Adds a row and returns its id."""
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        with self.writing():
            sql = f"INSERT INTO {table} ({names}) VALUES ({marks})"
            row_id = self._connection().execute(sql, tuple(columns.values())).lastrowid
        assert row_id is not None  # sqlite3 sets it after every INSERT
        return row_id

    def update(self, table: str, row_id: int, **columns: object) -> None:
        """Sets columns of one row."""
        assignments = ", ".join(f"{name} = ?" for name in columns)
        self.write(f"UPDATE {table} SET {assignments} WHERE id = ?", *columns.values(), row_id)

    def write(self, sql: str, *values: object) -> int:
        """Runs one writing statement and returns how many rows it changed."""
        with self.writing():
            return self._connection().execute(sql, values).rowcount

    def next_version(self) -> int:
        """The number of the next change of a run. Call it inside `writing`, to commit in order."""
        self._last_version += 1
        return int(self._last_version)

    def project(self, entity: str | None, name: str | None) -> Row | None:
        """The project's row, or None. Without `entity` or `name`: ENTITY, DEFAULT_PROJECT."""
        sql = "SELECT * FROM projects WHERE entity = ? AND name = ?"
        return self.one(sql, entity or ENTITY, name or DEFAULT_PROJECT)

    def ensure_project(self, entity: str | None, name: str | None) -> Row:
        """The project's row, created if it does not exist, as W&B does for new runs and sweeps."""
        sql = "INSERT OR IGNORE INTO projects (entity, name, created_at) VALUES (?, ?, ?)"
        project = self.project(entity, name)
        if project is None:
            self.write(sql, entity or ENTITY, name or DEFAULT_PROJECT, now())
            project = self.project(entity, name)
            assert project is not None  # the line above has inserted it
        return project

    def named(self, table: str, project_id: int | None, name: str | None) -> Row | None:
        """The row of a project's run, sweep or collection with this name, or None."""
        sql = f"SELECT * FROM {table} WHERE project_id = ? AND name = ?"
        return self.one(sql, project_id, name)

    def runs(self, states: Sequence[str], **columns: object) -> list[Row]:
        """Rows of runs in one of `states` whose columns have the given values, oldest first."""
        marks = ", ".join("?" * len(states))
        conditions = "".join(f" AND {name} IS ?" for name in columns)
        sql = f"SELECT * FROM runs WHERE state IN ({marks}){conditions} ORDER BY id"
        return self.all(sql, *states, *columns.values())

    def inside(self, *parts: str) -> Path:
        """The path `parts` below the store's folder.

        Raises ValueError for names that lead out of the folder, are absolute, or are too long.
        """
        for part in parts:
            if not part or "\0" in part or "\\" in part or Path(part).is_absolute():
                raise ValueError(f"{part!r} is not a valid file name")
            pieces = part.split("/")
            if any(piece in ("", ".", "..") for piece in pieces):
                raise ValueError(f"{part!r} would lead out of its folder")
            if any(len(piece.encode()) > MAX_FILE_NAME_BYTES for piece in pieces):
                raise ValueError(
                    f"{part[:50]!r}... has more than {MAX_FILE_NAME_BYTES} bytes "
                    "in the name of a file or folder"
                )
        path = self.folder.joinpath(*parts)
        if not path.resolve().is_relative_to(self.folder):
            raise ValueError(f"{'/'.join(parts)!r} would lead out of the store")
        return path


def _identity(path: Path) -> tuple[int, int] | None:
    """(device, inode) of a file, or None if it does not exist. A replaced file has another pair."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def read_or_make_key(folder: Path) -> str:
    """The key that every request must carry: 40 hexadecimal digits, created at the first start.

    Raises UserError if the key cannot be read or written, is too short, or is readable by others.
    """
    path, partial = folder / "key", folder / "key.partial"
    try:
        if not path.exists():
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(20))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)  # atomic: a key file is always complete
        mode, key = stat.S_IMODE(path.stat().st_mode), path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read or write the key {path}: {error}; free disk space, or delete the file"
        ) from error
    if len(key) < MIN_KEY_LENGTH:
        raise UserError(
            f"{path} holds {len(key)} characters, a key has {MIN_KEY_LENGTH}: "
            "delete the file to get a new key"
        )
    if mode & 0o077:
        raise UserError(
            f"other users can read the key {path} (mode {mode:o}): "
            "chmod 600 it, or delete it to get a new key"
        )
    return key

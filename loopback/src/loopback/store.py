"""What the server knows, kept in one folder: SQLite for facts, plain files for bytes.

A request is answered only after its transaction is committed to the write-ahead log, so a killed server
(kill -9 included) loses nothing that it acknowledged. Only a power cut may lose the last moments.
"""

# ruff: noqa: S608  (table and column names are our own words; every value goes through a ?)

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
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import re2

from loopback.errors import UserError

ENTITY = "loopback"  # the only user of a server on one's own machine
DEFAULT_PROJECT = "uncategorized"  # W&B's own name for "no project given"
VERSION = 1  # of the tables below, kept in the database; stores from before this number have 0
LARGEST_READ = 64 * 2**20  # characters of text that one query of a client may read
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHORTEST_KEY = 40  # W&B's clients refuse shorter ones

TABLES = """
CREATE TABLE IF NOT EXISTS projects (
  id INTEGER PRIMARY KEY, entity TEXT NOT NULL, name TEXT NOT NULL, description TEXT, access TEXT,
  created_at TEXT NOT NULL, UNIQUE (entity, name));
CREATE TABLE IF NOT EXISTS sweeps (
  id INTEGER PRIMARY KEY, project_id INTEGER NOT NULL, name TEXT NOT NULL, config TEXT NOT NULL, state TEXT NOT NULL,
  display_name TEXT, description TEXT, controller TEXT, scheduler TEXT, exhausted INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL, updated_at TEXT, heartbeat_at TEXT, UNIQUE (project_id, name));
CREATE TABLE IF NOT EXISTS agents (
  id INTEGER PRIMARY KEY, sweep_id INTEGER NOT NULL, name TEXT NOT NULL, host TEXT NOT NULL, state TEXT NOT NULL,
  seen REAL NOT NULL, created_at TEXT NOT NULL, heartbeat_at TEXT);
CREATE TABLE IF NOT EXISTS runs (
  id INTEGER PRIMARY KEY, project_id INTEGER NOT NULL, name TEXT NOT NULL, display_name TEXT, state TEXT NOT NULL,
  config TEXT NOT NULL DEFAULT '{}', summary TEXT NOT NULL DEFAULT '{}', tags TEXT NOT NULL DEFAULT '[]',
  notes TEXT, description TEXT, run_group TEXT, job_type TEXT, commit_hash TEXT, host TEXT, program TEXT,
  created_at TEXT NOT NULL, updated_at TEXT, heartbeat_at TEXT, exitcode INTEGER,
  stopped INTEGER NOT NULL DEFAULT 0,      -- asked to stop, by the sweep or by a person
  sweep_id INTEGER, agent_id INTEGER,      -- a pending run of a sweep without an agent waits in the sweep's queue
  queued REAL,                             -- since when it waits there
  attempts INTEGER NOT NULL DEFAULT 0,     -- how often an agent was told to run it
  assigned_by TEXT,                        -- by which life of the server
  missing REAL,                            -- since when its agent does not report it any more
  seen REAL NOT NULL DEFAULT 0,            -- last sign of life, seconds since the epoch
  version INTEGER NOT NULL DEFAULT 0,      -- number of the last change, store-wide
  history_lines INTEGER NOT NULL DEFAULT 0, event_lines INTEGER NOT NULL DEFAULT 0,
  log_lines INTEGER NOT NULL DEFAULT 0, history_keys TEXT NOT NULL DEFAULT '{"keys": {}, "lastStep": -1}',
  UNIQUE (project_id, name));
CREATE INDEX IF NOT EXISTS runs_of_sweep ON runs (sweep_id, state);
CREATE INDEX IF NOT EXISTS runs_by_version ON runs (sweep_id, version);
CREATE INDEX IF NOT EXISTS runs_of_agent ON runs (agent_id);
CREATE TABLE IF NOT EXISTS history (
  run_id INTEGER, line INTEGER, step INTEGER, row TEXT NOT NULL, PRIMARY KEY (run_id, line)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS history_by_step ON history (run_id, step);
CREATE TABLE IF NOT EXISTS events (
  run_id INTEGER, line INTEGER, row TEXT NOT NULL, PRIMARY KEY (run_id, line)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS console (
  run_id INTEGER, line INTEGER, row TEXT NOT NULL, PRIMARY KEY (run_id, line)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
  id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER, md5 TEXT, updated_at TEXT,
  UNIQUE (run_id, name));
CREATE TABLE IF NOT EXISTS alerts (
  id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, title TEXT, text TEXT, severity TEXT, created_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS views (
  id INTEGER PRIMARY KEY, project_id INTEGER NOT NULL, type TEXT, name TEXT, display_name TEXT, description TEXT,
  spec TEXT, created_at TEXT NOT NULL, updated_at TEXT);
CREATE TABLE IF NOT EXISTS collections (
  id INTEGER PRIMARY KEY, project_id INTEGER NOT NULL, type TEXT NOT NULL, name TEXT NOT NULL, description TEXT,
  created_at TEXT NOT NULL, updated_at TEXT, client_id TEXT, UNIQUE (project_id, name));
CREATE TABLE IF NOT EXISTS artifacts (
  id INTEGER PRIMARY KEY, collection_id INTEGER NOT NULL, version INTEGER, state TEXT NOT NULL, digest TEXT NOT NULL,
  description TEXT, metadata TEXT, tags TEXT NOT NULL DEFAULT '[]', history_step INTEGER, size INTEGER NOT NULL DEFAULT 0,
  file_count INTEGER NOT NULL DEFAULT 0, run_id INTEGER, client_id TEXT, pending_aliases TEXT NOT NULL DEFAULT '[]',
  manifest TEXT, created_at TEXT NOT NULL, updated_at TEXT);
CREATE INDEX IF NOT EXISTS artifacts_of_collection ON artifacts (collection_id, version);
CREATE TABLE IF NOT EXISTS manifests (
  id INTEGER PRIMARY KEY, artifact_id INTEGER NOT NULL, type TEXT, digest TEXT, base_id INTEGER);
CREATE TABLE IF NOT EXISTS announced (  -- bytes that an artifact, not committed yet, was promised or will upload
  artifact_id INTEGER, path TEXT, PRIMARY KEY (artifact_id, path)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aliases (
  id INTEGER PRIMARY KEY, collection_id INTEGER NOT NULL, artifact_id INTEGER NOT NULL, alias TEXT NOT NULL,
  UNIQUE (collection_id, alias));
CREATE TABLE IF NOT EXISTS uses (run_id INTEGER, artifact_id INTEGER, PRIMARY KEY (run_id, artifact_id));
"""


class NotFoundError(Exception):
    """Something was named that the store does not hold; the server answers 404."""


class LockedError(UserError):
    """Another server holds this store."""


class GoneError(Exception):
    """The store's folder or files were deleted or replaced while the server ran."""


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error means that the store's disk takes no more bytes."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def now() -> str:
    """The time as W&B writes it: ISO 8601, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def dumps(value) -> str:
    """Compact JSON that every reader can parse: NaN and the infinities become strings, as on W&B."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"))


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value != value:
        return "NaN"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def json_object(text: str, what: str) -> dict:
    """The object that `text` holds as JSON. ValueError, which names `what`, if it is something else."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, not {text[:50]!r}")
    return value


@lru_cache(maxsize=64)
def compiled(pattern: str):
    """The regular expression `pattern`. ValueError if RE2 refuses it.

    RE2 takes time in proportion to the text. Python's `re` can take exponential time, and stops all threads meanwhile.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, TypeError) as error:
        message = f"$regex {str(pattern)[:200]!r} is refused: {error}; RE2 has no look-around and no backreferences"
        raise ValueError(message) from error


def _matches(pattern: str, text) -> bool:
    return text is not None and compiled(pattern).search(str(text)) is not None


class Store:
    """One folder, one owner. Every thread reads through its own connection; writers take turns."""

    def __init__(self, folder: Path):
        """Opens or creates the store in `folder`, which only its owner may enter.

        Raises:
            LockedError: a live server already owns it.
            UserError: it cannot be written, is damaged, has another version, or its key is not safe.
        """
        os.umask(
            0o077
        )  # on a shared machine nobody else may read the runs, not even without the key
        self.folder = folder.resolve()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            self._lock_file = (self.folder / "lock").open("a")
        except OSError as error:
            raise UserError(
                f"cannot keep a store in {folder}: {error.strerror}; choose another --dir"
            ) from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"another server owns {folder}; stop it, or choose another --dir"
            ) from error
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
        shutil.rmtree(
            self.folder / "uploads", ignore_errors=True
        )  # parts that a killed server left
        self._files = {name: _identity(self.folder / name) for name in ("lock", "loopback.sqlite")}
        self.last_lock = (
            None  # that nobody else uses the store, when the server ends for want of users
        )
        self._ticks = self.value("SELECT COALESCE(MAX(version), 0) FROM runs")

    def _prepare_tables(self) -> None:
        version = self.value("PRAGMA user_version")
        if version not in (0, VERSION):
            raise UserError(
                f"the store in {self.folder} has version {version}, and this program reads version {VERSION}: "
                "use the loopback that made it, or choose another --dir"
            )
        self._connection().executescript(f"{TABLES} PRAGMA user_version = {VERSION}")

    def check_present(self) -> None:
        """GoneError if the files that this server opened are not those in the folder any more."""
        for name, identity in self._files.items():
            if _identity(self.folder / name) != identity:
                raise GoneError(f"{self.folder / name} was deleted or replaced; this server ends")

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(
                self.folder / "loopback.sqlite", timeout=60, isolation_level=None
            )
            connection.row_factory = lambda cursor, row: dict(sqlite3.Row(cursor, row))
            connection.create_function("regexp", 2, _matches, deterministic=True)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(
                "PRAGMA synchronous=NORMAL"
            )  # a commit survives kill -9; fsync comes at checkpoints
            self._local.connection = connection
        return self._local.connection

    def all(self, sql: str, *values) -> list[dict]:
        """Every row that the query finds."""
        return self._connection().execute(sql, values).fetchall()

    def bounded(self, sql: str, *values) -> list[dict]:
        """Every row that the query finds. ValueError if they hold more than LARGEST_READ characters together."""
        rows, size = [], 0
        for row in self._connection().execute(sql, values):
            size += sum(len(cell) for cell in row.values() if isinstance(cell, str))
            if size > LARGEST_READ:
                limit = LARGEST_READ // 2**20
                raise ValueError(
                    f"the answer is larger than {limit} MiB: ask for fewer rows at a time, by page_size or samples"
                )
            rows.append(row)
        return rows

    def one(self, sql: str, *values) -> dict | None:
        """The first row, or None."""
        return self._connection().execute(sql, values).fetchone()

    def value(self, sql: str, *values):
        """The only column of the first row, or None."""
        row = self.one(sql, *values)
        return next(iter(row.values())) if row else None

    @contextlib.contextmanager
    def writing(self) -> Iterator["Store"]:
        """All writes inside are committed together, or none of them. May be nested; readers never wait."""
        with self._writer:
            if self._depth == 0:
                self._connection().execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield self
                if self._depth == 1:
                    self._connection().execute("COMMIT")
            except BaseException:
                if (
                    self._depth == 1 and self._connection().in_transaction
                ):  # SQLite rolls back by itself on a full disk
                    self._connection().execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def many(self, sql: str, rows) -> None:
        """Writes many rows with one statement."""
        with self.writing():
            self._connection().executemany(sql, rows)

    def insert(self, table: str, **columns) -> int:
        """A new row; its id."""
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        with self.writing():
            sql = f"INSERT INTO {table} ({names}) VALUES ({marks})"
            return self._connection().execute(sql, tuple(columns.values())).lastrowid

    def update(self, table: str, row_id: int, **columns) -> None:
        """Changes columns of one row."""
        sets = ", ".join(f"{name} = ?" for name in columns)
        self.write(f"UPDATE {table} SET {sets} WHERE id = ?", *columns.values(), row_id)

    def write(self, sql: str, *values) -> int:
        """Runs one writing statement; the number of rows it touched."""
        with self.writing():
            return self._connection().execute(sql, values).rowcount

    def tick(self) -> int:
        """The next change's number; inside `writing`, so that numbers are committed in their order."""
        self._ticks += 1
        return self._ticks

    def project(self, entity: str | None, name: str | None, create: bool = False) -> dict | None:
        """The project's row. Created on first mention where `create`, as W&B does for runs and sweeps."""
        entity, name = entity or ENTITY, name or DEFAULT_PROJECT
        sql = "SELECT * FROM projects WHERE entity = ? AND name = ?"
        found = self.one(sql, entity, name)
        if found is None and create:
            self.write(
                "INSERT OR IGNORE INTO projects (entity, name, created_at) VALUES (?, ?, ?)",
                entity,
                name,
                now(),
            )
            found = self.one(sql, entity, name)
        return found

    def inside(self, *parts: str) -> Path:
        """A path below the store's folder. ValueError for names that would lead out of it or are not plain."""
        for part in parts:
            if not part or "\0" in part or "\\" in part or Path(part).is_absolute():
                raise ValueError(f"{part!r} is no name for a file")
            if any(piece in ("", ".", "..") for piece in part.split("/")):
                raise ValueError(f"{part!r} would lead out of its folder")
            if any(len(piece.encode()) > 255 for piece in part.split("/")):
                raise ValueError(
                    f"{part[:50]!r}... has more than 255 bytes in the name of a file or folder"
                )
        path = self.folder.joinpath(*parts)
        if not path.resolve().is_relative_to(self.folder):
            raise ValueError(f"{'/'.join(parts)!r} would lead out of the store")
        return path


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one under the same name; None if there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def read_or_make_key(folder: Path) -> str:
    """The key that every request must carry. Made at first start, written whole or not at all.

    UserError if the key cannot be written, is too short, or others may read it.
    """
    path, partial = folder / "key", folder / "key.partial"
    try:
        if not path.exists():
            with os.fdopen(
                os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
            ) as file:
                file.write(secrets.token_hex(20))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        mode, key = stat.S_IMODE(path.stat().st_mode), path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read or write the key {path}: {error}; free disk space, or delete the file"
        ) from error
    if len(key) < SHORTEST_KEY:
        raise UserError(
            f"{path} holds {len(key)} characters, a key has {SHORTEST_KEY}: delete the file to get a new key"
        )
    if mode & 0o077:
        raise UserError(
            f"others may read the key {path} (mode {mode:o}): chmod 600 it, or delete it to get a new key"
        )
    return key

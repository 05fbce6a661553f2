"""The file of finished replays: one line of JSON each, which is what makes a comparison resumable."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

WITHIN = (0.05, 0.02)  # of the optimum, as a share of it
CHECKPOINTS = (486, 1944)  # epochs
AFTER = (10, 100, 1000)  # runs

Line = dict[str, Any]


class Key(NamedTuple):
    """What a replay is one of."""

    task: str
    seed: int
    engine: str
    agents: int
    budget: int


KEY = Key._fields


def read(file: Path) -> dict[Key, Line]:
    """The lines of a file, by replay. A line that a kill tore is left out, so that its replay is made again."""
    found = {}
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            line = json.loads(text)
            found[Key(*(line[name] for name in KEY))] = line
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return found


def make(
    keys: list[Key], file: Path, pool: Executor, measure: Callable[..., Line]
) -> Iterator[tuple[Key, Exception | None]]:
    """Make replays and append their lines to `file`; yields each when it is there, or the error that it ended with."""
    torn = file.exists() and file.read_bytes()[-1:] not in (b"", b"\n")
    with file.open("a") as out:
        out.write("\n" * torn)
        pending = {pool.submit(measure, *key): key for key in keys}
        for future in as_completed(pending):
            if not future.exception():
                out.write(json.dumps(future.result()) + "\n")
                out.flush()
            yield pending[future], future.exception()

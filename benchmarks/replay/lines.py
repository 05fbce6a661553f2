"""The file of finished replays: one line of JSON per replay, so that a comparison can resume."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

WITHIN = (0.05, 0.02)  # distances from the optimum, as fractions of it
CHECKPOINTS = (486, 1944)  # epochs: the cost of 18 and of 72 runs of full budget
AFTER = (10, 100, 1000)  # runs after which the time of a proposal is measured

Line = dict[str, Any]


class Key(NamedTuple):
    """What identifies a replay."""

    task: str
    seed: int
    engine: str
    agents: int
    budget: int


KEY = Key._fields


def read(file: Path) -> dict[Key, Line]:
    """The lines of a file by replay. A line truncated by a kill is skipped, so it is made again."""
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
) -> Iterator[tuple[Key, BaseException | None]]:
    """Make replays in a pool of processes and append their lines to a file.

    Args:
        keys: The replays to make.
        file: Where lines are appended, one as soon as it is there.
        pool: Runs `measure`.
        measure: Makes the line of one replay from the fields of its key.

    Yields:
        Each replay when its line is written, with None, or the error that it raised.
    """
    truncated = file.exists() and file.read_bytes()[-1:] not in (b"", b"\n")
    with file.open("a") as out:
        if truncated:
            out.write("\n")
        pending = {pool.submit(measure, *key): key for key in keys}
        for future in as_completed(pending):
            if not future.exception():
                out.write(json.dumps(future.result()) + "\n")
                out.flush()
            yield pending[future], future.exception()

"""The peer's side of `engines.ProcessEngine`, and the search space in neutral terms. It needs the standard library alone."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


def serve(
    make: Callable[[dict, int, int], Any], lines: Iterator[str], write: Callable[[str], None]
) -> None:
    """`make(space, seed, full)` gives the engine; `lines` come in, `write` sends one."""
    first = json.loads(next(lines))
    engine = make(first["space"], first["seed"], first["full"])
    write("{}")
    for line in lines:
        said, answer = json.loads(line), {}
        if "ask" in said:
            answer = dict(zip(("key", "params", "epochs"), engine.ask(), strict=True))
        elif "report" in said:
            answer = {"stop": bool(engine.report(said["report"], said["epoch"], said["value"]))}
        else:
            engine.ended(said["ended"], said["status"])
        write(json.dumps(answer))


def main(make: Callable[[dict, int, int], Any]) -> None:
    """Serves on standard input and output; what a package prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(make, iter(sys.stdin), lambda line: print(line, file=answers, flush=True))


@dataclass(frozen=True)
class Dimension:
    """A hyperparameter: a number on a log scale, whole or not, or one of `labels`, which name the values for any package."""

    low: float = 0
    high: float = 0
    whole: bool = False
    labels: tuple[str, ...] = ()

    def value(self, raw: Any) -> Any:
        """What a package proposed, as a run's hyperparameter."""
        if self.labels:
            return json.loads(raw)
        number = round(float(raw)) if self.whole else float(raw)
        return min(max(number, self.low), self.high)


def parse(space: dict[str, dict]) -> dict[str, Dimension]:
    """The dimensions of a sweep's `parameters`; constants are none."""
    dimensions = {}
    for name, entry in space.items():
        if "values" in entry:
            dimensions[name] = Dimension(
                labels=tuple(json.dumps(value) for value in entry["values"])
            )
        elif (
            entry.get("distribution") in ("log_uniform_values", "q_log_uniform_values")
            and entry.get("q", 1) == 1
        ):
            dimensions[name] = Dimension(
                entry["min"], entry["max"], whole=entry["distribution"].startswith("q_")
            )
        elif "value" not in entry:
            raise ValueError(f"{name}: peers know no {entry}")
    return dimensions


class AtEnd:
    """An engine of a package that hears of a run when it ends, with its last loss, and stops none.

    A subclass gives `propose() -> (handle, raw hyperparameters, epochs)` and `tell(handle, loss, status)`.
    """

    def __init__(self, space: dict[str, dict], full: int):
        self.dimensions, self.full, self.asked, self.handles, self.losses = (
            parse(space),
            full,
            0,
            {},
            {},
        )

    def ask(self) -> tuple[str, dict[str, Any], int]:
        """The next run."""
        handle, raw, epochs = self.propose()
        key = str(self.asked)
        self.asked += 1
        self.handles[key] = handle
        return (
            key,
            {name: one.value(raw[name]) for name, one in self.dimensions.items()},
            round(epochs),
        )

    def report(self, key: str, epoch: int, value: float) -> bool:
        """Keeps the last loss."""
        self.losses[key] = value
        return False

    def ended(self, key: str, status: str) -> None:
        """Tells the package."""
        self.tell(self.handles.pop(key), self.losses.pop(key), status)

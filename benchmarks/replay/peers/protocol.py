"""The peer's side of `engines.ProcessEngine`, and the search space in neutral terms.

It needs only the standard library, because it runs in the environments of the peers.
"""

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

MakeEngine = Callable[[dict[str, Any], int, int], Any]
"""(the sweep's parameters, seed, full budget in epochs) -> an engine as in clock.py."""


def serve(make: MakeEngine, lines: Iterator[str], write: Callable[[str], None]) -> None:
    """Answer messages until there are no more.

    Args:
        make: Makes the engine from the first message.
        lines: Messages, one line of JSON each; see `engines.ProcessEngine`.
        write: Sends the line of one answer.
    """
    first = json.loads(next(lines))
    engine = make(first["space"], first["seed"], first["full"])
    write("{}")
    for line in lines:
        message, answer = json.loads(line), {}
        if "ask" in message:
            answer = dict(zip(("key", "params", "epochs"), engine.ask(), strict=True))
        elif "report" in message:
            stop = engine.report(message["report"], message["epoch"], message["value"])
            answer = {"stop": bool(stop)}
        else:
            engine.ended(message["ended"], message["status"])
        write(json.dumps(answer))


def main(make: MakeEngine) -> None:
    """Serve on standard input and output. What a package prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(make, iter(sys.stdin), lambda line: print(line, file=answers, flush=True))


@dataclass(frozen=True)
class Dimension:
    """A searched hyperparameter: a number on a logarithmic scale, or one of some labels.

    Attributes:
        low: Lower bound of a number.
        high: Upper bound of a number.
        whole: Whether the number is an integer.
        labels: The values as JSON text, which every package accepts; empty for a number.
    """

    low: float = 0
    high: float = 0
    whole: bool = False
    labels: tuple[str, ...] = ()

    def value(self, raw: Any) -> Any:
        """The value of the hyperparameter for what a package proposed; a number is clipped."""
        if self.labels:
            return json.loads(raw)
        number = round(float(raw)) if self.whole else float(raw)
        return min(max(number, self.low), self.high)


def parse(space: dict[str, dict[str, Any]]) -> dict[str, Dimension]:
    """The searched hyperparameters of a sweep's `parameters`; constants are left out.

    Raises:
        ValueError: If a parameter is neither a choice, a constant nor a logarithmic number.
    """
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
            raise ValueError(f"{name}: peers cannot search {entry}")
    return dimensions


class AtEnd(ABC):
    """An engine of a package that gets one loss per run, its last one, and stops no run early."""

    def __init__(self, space: dict[str, dict[str, Any]], full: int):
        self.dimensions, self.full, self.asked = parse(space), full, 0
        self.handles: dict[str, Any] = {}
        self.losses: dict[str, float] = {}

    @abstractmethod
    def propose(self) -> tuple[Any, dict[str, Any], float]:
        """The next run: the package's handle, its raw hyperparameters, its budget in epochs."""

    @abstractmethod
    def tell(self, handle: Any, loss: float, status: str) -> None:
        """Give the package the last loss of a run."""

    def ask(self) -> tuple[str, dict[str, Any], int]:
        """The next run; see clock.py."""
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
        """Keep the last loss."""
        self.losses[key] = value
        return False

    def ended(self, key: str, status: str) -> None:
        """Give the last loss to the package."""
        self.tell(self.handles.pop(key), self.losses.pop(key), status)

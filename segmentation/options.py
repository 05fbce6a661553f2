"""One command-line option per field of `Config`, with its name, type, default, bounds and help."""

from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, TypeVar, get_args

import click

from segmentation.config import Config, choices

Command = TypeVar("Command", bound=Callable[..., Any])


def config_options(command: Command) -> Command:
    """Decorator: adds one option per field of Config.

    A name of several words has two spellings: `--learning-rate`, and `--learning_rate`, which the
    W&B agent uses.
    """
    for spec in reversed(fields(Config)):
        command = _option(spec)(command)
    return command


def given(context: click.Context) -> dict[str, Any]:
    """The hyperparameters given on the command line, by field name. Defaults are left out."""
    names = {spec.name for spec in fields(Config)}
    return {
        name: value
        for name, value in context.params.items()
        if name in names
        and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }


class _Choice(click.Choice[Any]):
    """One of some words. `None` and `null` mean None, which Config accepts or refuses."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value in ("None", "null") else super().convert(value, param, ctx)


def text(value: str) -> str | None:
    """An option's text. `None` (from the W&B agent), `null` (from YAML) and nothing mean None."""
    return None if value in ("None", "null", "") else value


def _kind(spec: Field[Any]) -> "click.ParamType[Any] | Callable[[str], Any]":
    """The click type of a field."""
    words = choices(spec)
    if words:
        return _Choice(words)
    if spec.type in (int, float):
        low, high = spec.metadata["low"], spec.metadata["high"]
        return click.IntRange(low, high) if spec.type is int else click.FloatRange(low, high)
    return bool if spec.type is bool else text


def _option(spec: Field[Any]) -> Callable[[Command], Command]:
    """The decorator that adds the option of a field."""
    spellings = dict.fromkeys(["--" + spec.name.replace("_", "-"), "--" + spec.name])
    return click.option(
        *spellings,
        spec.name,
        type=_kind(spec),
        default=spec.default,
        show_default=type(None) not in get_args(spec.type),
        help=spec.metadata["help"] + ".",
    )


def table() -> str:
    """The hyperparameters as a Markdown table for the README: `python -m segmentation.options`."""
    lines = ["| hyperparameter | default | values | what it is |", "|---|---|---|---|"]
    for spec in fields(Config):
        words, low, high = choices(spec), spec.metadata["low"], spec.metadata["high"]
        number = str if spec.type is int else "{:g}".format
        span = "" if low is None else f"{number(low)} to {number(high)}"
        values = (
            ", ".join(words)
            if words
            else span or ("true, false" if spec.type is bool else "text or null")
        )
        default = "null" if spec.default is None else str(spec.default).lower()
        lines.append(f"| `{spec.name}` | {default} | {values} | {spec.metadata['help']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

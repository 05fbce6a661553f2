"""One command-line option per `Config` field, derived from it: names, types, defaults, bounds and help stand in one place."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import click

from segmentation.config import Config, choices


def config_options(command: Callable) -> Callable:
    """Decorator: adds `--learning-rate`, also spelt `--learning_rate` as the W&B agent does, and so on for every field."""
    for spec in reversed(fields(Config)):
        command = _option(spec)(command)
    return command


def given(context: click.Context) -> dict[str, Any]:
    """The hyperparameters that were typed on the command line, by field name; what was left out is not in the mapping."""
    typed = click.core.ParameterSource.COMMANDLINE
    names = {spec.name for spec in fields(Config)}
    return {
        name: value
        for name, value in context.params.items()
        if name in names and context.get_parameter_source(name) is typed
    }


class _Word(click.Choice):
    """One of some words; `None`, which the agent writes for YAML's null, is left to Config to understand or refuse."""

    def convert(self, value, param, ctx):
        return None if value in ("None", "null") else super().convert(value, param, ctx)


class _Nullable(click.ParamType):
    """Text in which `None` and `null`, what the agent and YAML write for no value, mean None."""

    name = "text"

    def convert(self, value, param, ctx):
        return None if value in (None, "None", "null", "") else str(value)


def _kind(spec) -> click.ParamType | type:
    words = choices(spec)
    if words:
        return _Word(words)
    if spec.type in (int, float):
        low, high = spec.metadata["low"], spec.metadata["high"]
        return click.IntRange(low, high) if spec.type is int else click.FloatRange(low, high)
    return bool if spec.type is bool else _Nullable()


def _option(spec) -> Callable:
    dashed = "--" + spec.name.replace("_", "-")
    names = [dashed] if dashed == f"--{spec.name}" else [dashed, f"--{spec.name}"]
    kind = _kind(spec)
    nullable = type(None) in get_args(spec.type)
    return click.option(
        *names,
        spec.name,
        type=kind,
        default=spec.default,
        show_default=not nullable,
        help=spec.metadata["help"] + ".",
    )


def table() -> str:
    """The hyperparameters as Markdown, for the README: `python -m segmentation.options` prints it."""
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

"""What the commands share: options, printing, and the command line that makes a section again."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from analysis.results import CHECKPOINTS, DATA, Results
from analysis.sections import Section

FOLDER = click.Path(file_okay=False, path_type=Path)
C = TypeVar("C", bound=Callable[..., object])


def results_option(command: C) -> C:
    """Adds `--out`: the results folder, as the argument `folder`."""
    return click.option(
        "--out",
        "folder",
        type=FOLDER,
        required=True,
        help="Results folder, for example results/demo.",
    )(command)


def refresh_option(command: C) -> C:
    """Adds `--refresh`."""
    return click.option(
        "--refresh", is_flag=True, help="Read sweeps from W&B again, even if OUT holds them."
    )(command)


def data_option(command: C) -> C:
    """Adds `--data`: the prepared set that the runs were trained on."""
    return click.option(
        "--data",
        type=FOLDER,
        default=DATA,
        show_default=True,
        help="Prepared set that the runs were trained on.",
    )(command)


def checkpoints_option(command: C) -> C:
    """Adds `--runs`: the folder of checkpoints, as the argument `checkpoints`."""
    return click.option(
        "--runs",
        "checkpoints",
        type=FOLDER,
        default=CHECKPOINTS,
        show_default=True,
        help="Folder of train.py's checkpoints, used if W&B does not have a run's weights.",
    )(command)


def role_option(command: C) -> C:
    """Adds `--role`: which weights of a run, as the argument `kind`."""
    return click.option(
        "--role",
        "kind",
        type=click.Choice(["best", "kept"]),
        default="best",
        show_default=True,
        help="Which weights of the run.",
    )(command)


def symmetries_option(command: C) -> C:
    """Adds `--tta`, as the argument `symmetries`."""
    return click.option(
        "--tta",
        "symmetries",
        is_flag=True,
        help="Test-time augmentation: the mean of the probabilities over the eight symmetries of "
        "the square. Takes eight times as long.",
    )(command)


def print_section(section: Section) -> None:
    """Writes the section's tables, then prints its notes and the names of its files."""
    files = section.write()
    for line in (*section.notes, *files):
        click.echo(line)


def command_line(module: str, command: click.Command, results: Results, **values: object) -> str:
    """The shell command that makes a section again, without options at their default.

    Args:
        module: Name of the module in `analysis`.
        command: The click command of this module.
        results: The results folder; it gives the values of --out, --data and --runs.
        values: Values of the command's other arguments and options, by parameter name.
    """
    given: dict[str, object] = {
        "folder": results.folder,
        "data": results.data,
        "checkpoints": results.checkpoints,
        **values,
    }
    words = ["python", "-m", f"analysis.{module}"]
    for parameter in command.params:
        value = given.get(parameter.name or "")
        if value is None or value is False or value == parameter.default:
            continue
        option = [] if isinstance(parameter, click.Argument) else [parameter.opts[0]]
        for single in value if isinstance(value, tuple) else (value,):
            words += option if single is True else [*option, str(single)]
    return shlex.join(words)

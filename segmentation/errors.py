"""The one exception that is shown to the user as a line instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click


class UserError(click.ClickException):
    """An error that the user can repair. Its message names the file, option or value, the limit, and the next step.

    Every command prints it as `Error: message` and exits with code 1, because click does so for its own exceptions.
    All other exceptions are bugs and keep their traceback.
    """


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Turns the operating system's refusal to write into `folder` into a UserError. Keep the block to what writes."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; free space, or name another folder"
        ) from error

"""Errors that the user can repair: one line instead of a traceback."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click


class UserError(click.ClickException):
    """An error that the user can repair.

    Its message names the file, option or value, the limit, and the next step. Every command prints
    `Error: message` and exits with code 1, because click does so for its own exceptions. All other
    exceptions are bugs and keep their traceback.
    """


class BadFilesError(UserError):
    """Source files that cannot be used.

    Args:
        problems: One line per file, which starts with the file's name.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        noun = "file cannot" if len(problems) == 1 else "files cannot"
        super().__init__("\n  ".join([f"{len(problems)} {noun} be used:", *sorted(problems)]))


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Turns an OSError in its block into the UserError "cannot write `folder`".

    Keep the block to statements that write.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; free space, or name another folder"
        ) from error

"""The one exception that the commands of loopback show as a line instead of a traceback."""

import click


class UserError(click.ClickException):
    """An error that the user can repair. Its message names the file, option or value, and the next step.

    Every command prints it as `Error: message` and exits with code 1, because click does so for its own exceptions.
    All other exceptions are bugs and keep their traceback.
    """

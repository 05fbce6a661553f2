"""The one exception that commands show as one line instead of a traceback."""

import click


class UserError(click.ClickException):
    """An error that the user can repair. The message names the cause and the next step.

    Every command prints it as `Error: message` and exits with code 1, because click handles its own
    exceptions so. All other exceptions are bugs and keep their traceback.
    """

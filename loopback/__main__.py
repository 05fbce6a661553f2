"""python -m loopback: W&B sweeps on this machine, without an account and without a network."""

import logging
from pathlib import Path

import click
import uvicorn

from loopback import server
from loopback.store import LockedError, Store


@click.group()
def main():
    """W&B sweeps on this machine, without an account and without a network."""


@main.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path(".loopback"), show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8888, show_default=True)
@click.option("--lost-after", default=120.0, show_default=True)
def serve(folder, host, port, lost_after):
    """Runs the server until it is told to end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        store = Store(folder)
    except LockedError as error:
        raise click.ClickException(str(error)) from error
    uvicorn.run(server.app(store, lost_after), host=host, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()

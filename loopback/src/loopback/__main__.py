"""The commands: `python -m loopback`, or `loopback` where it is installed."""

import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from loopback import __version__, daemon, local_sweep, progress, remote_sweep, supervise, sweep_file
from loopback import push as pushing
from loopback.errors import UserError

logger = logging.getLogger("loopback")

FC = TypeVar("FC", bound=Callable[..., Any])
DEFAULT_PORT = 8888
INTERRUPTED = 130  # exit code after Ctrl-C, as of a shell: 128 + SIGINT


class Seconds(click.FloatRange):
    """A finite number of seconds in a range. click counts nan as within every range."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """BadParameter if `value` is not a finite number in the range."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return seconds


def checked_project(
    _context: click.Context, _option: click.Parameter, name: str | None
) -> str | None:
    """The value of --project. BadParameter for a name that W&B refuses."""
    if name is not None and not sweep_file.is_project(name):
        problem = f"{name!r} cannot be the name of a project"
        raise click.BadParameter(f"{problem}: {sweep_file.PROJECT_RULE}")
    return name


def project_option(default: str) -> Callable[[FC], FC]:
    """The option --project; `default` says which project is taken without it."""
    text = f"W&B project. Default: {default}."
    return click.option("--project", callback=checked_project, help=text)


folder_option = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".loopback"),
    show_default=True,
    help="Folder in which everything is kept.",
)
agents_option = click.option(
    "--agents",
    "number",
    type=click.IntRange(1),
    help="How many agents run at the same time. Default: one per GPU in --gpus, or 1.",
)
gpus_option = click.option(
    "--gpus", help="GPUs for the agents, one each in turn: indices such as 0,1, or all."
)
count_option = click.option(
    "--count",
    type=click.IntRange(1),
    help="Stop after this many runs, counted over all agents. Default: no limit.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="loopback")
def main() -> None:
    """W&B sweeps on this machine, without an account and without a network."""
    supervise.interruptible()


@main.command()
@folder_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Port to listen on. Default: the one used last for this folder, or {DEFAULT_PORT}.",
)
@click.option(
    "--lost-after",
    type=Seconds(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="An agent or run that sends nothing for this many seconds is marked as crashed.",
)
@click.option("--while-used", is_flag=True, hidden=True)
def serve(folder: Path, host: str, port: int | None, lost_after: float, while_used: bool) -> None:
    """Run the server until Ctrl-C."""
    # Set before SciPy is imported: the search's Gaussian process of 100 points is faster on one
    # thread than on many.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    from loopback import server  # starlette, SciPy and scikit-learn: too slow for --help
    from loopback.store import Store

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    store = Store(folder)
    if port is None and not while_used:
        port = daemon.last_port(folder) or DEFAULT_PORT
    listener = daemon.listen(folder, host, port)
    url = daemon.announce(folder, host, listener.getsockname()[1])
    logger.info("serving %s at %s", store.folder, url)
    if not while_used:
        click.echo(f"export WANDB_BASE_URL={url} WANDB_API_KEY=$(cat {store.folder / 'key'})")
    server.run(store, listener, lost_after, (lambda: daemon.unused(folder)) if while_used else None)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@folder_option
@project_option("the one in the YAML, or uncategorized")
@agents_option
@gpus_option
@count_option
@click.option(
    "--new",
    is_flag=True,
    help="Start over as a new sweep. Without it, an unfinished sweep is resumed.",
)
@click.option("--print-path", is_flag=True, help="Print only ENTITY/PROJECT/SWEEP on stdout.")
def sweep(
    file: Path,
    folder: Path,
    project: str | None,
    number: int | None,
    gpus: str | None,
    count: int | None,
    new: bool,
    print_path: bool,
) -> None:
    """Run the sweep in the YAML FILE on this machine, or resume it.

    A sweep is recognised by its content: the same command resumes it until it is finished.
    """
    try:
        config, devices = sweep_file.read(file), supervise.devices(gpus)
        plan = local_sweep.Plan(file, config, number or len(devices), count, project, new, devices)
        with daemon.joined(folder) as server:
            result = local_sweep.run(server, plan)
    except KeyboardInterrupt:
        click.echo("stopped; run the same command to resume the sweep", err=True)
        sys.exit(INTERRUPTED)
    if not print_path:
        click.echo(progress.table(result))
    click.echo(result.path)


@main.command("exec", context_settings={"ignore_unknown_options": True})
@folder_option
@project_option("the one in WANDB_PROJECT")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(folder: Path, project: str | None, command: tuple[str, ...]) -> None:
    """Run any command with the server running: exec -- python train.py.

    W&B's client in it talks to the server, by variables in its environment.
    """
    with daemon.joined(folder) as server:
        environment = daemon.environment(server, project)
        try:
            process = subprocess.Popen(command, env=environment)
        except OSError as error:
            problem = f"cannot run the command {command[0]!r}: {error.strerror}"
            remedy = "name a program after --, as in: exec -- python train.py"
            raise UserError(f"{problem}; {remedy}") from error
        sys.exit(_wait(process))


@main.command()
@click.argument("target", metavar="ENTITY/PROJECT")
@folder_option
@click.option("--from", "source", metavar="PROJECT", help="Copy only the runs of this project.")
def push(target: str, folder: Path, source: str | None) -> None:
    """Copy the runs made here to a W&B account. Log in first: wandb login."""
    if target.count("/") != 1 or not all(target.split("/")):
        raise click.BadParameter("write it as ENTITY/PROJECT", param_hint="ENTITY/PROJECT")
    names = None
    if source:
        with daemon.joined(folder) as server:
            names = set(progress.run_names(server.url, server.key, source))
    sent = pushing.push(folder.resolve(), target, names)
    click.echo(f"{len(sent)} runs copied to {target}")


@main.command()
@click.argument("path", metavar="ENTITY/PROJECT/SWEEP")
@agents_option
@gpus_option
@count_option
@click.option(
    "--stagger",
    type=Seconds(min=0),
    default=5.0,
    show_default=True,
    help="Seconds between the starts of two agents.",
)
@click.option(
    "--logs",
    type=click.Path(path_type=Path),
    default=Path("agent-logs"),
    show_default=True,
    help="Folder for one log per agent.",
)
def agents(
    path: str, number: int | None, gpus: str | None, count: int | None, stagger: float, logs: Path
) -> None:
    """Keep agents of a sweep running on this machine.

    The sweep is on W&B's service, or on the server in WANDB_BASE_URL.
    """
    if path.count("/") != 2 or not all(path.split("/")):
        raise click.BadParameter(
            "write it as ENTITY/PROJECT/SWEEP", param_hint="ENTITY/PROJECT/SWEEP"
        )
    try:
        devices = supervise.devices(gpus)
        number = number or len(devices)
        failed = remote_sweep.supervisor(path, number, devices, count, stagger, logs).run()
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        sys.exit(INTERRUPTED)
    for worker in failed:
        problem = f"{worker.name} crashed {worker.crashes} times in a row"
        click.echo(f"{problem}; its log is {worker.log}", err=True)
    sys.exit(1 if failed else 0)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The command's exit code, or 128 + the signal that ended it.

    Ctrl-C reaches the command without us; a SIGTERM is passed on to it.
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
    while True:
        try:
            status = process.wait()
            return status if status >= 0 else 128 - status
        except KeyboardInterrupt:
            continue  # the command decides when it ends


if __name__ == "__main__":
    main()

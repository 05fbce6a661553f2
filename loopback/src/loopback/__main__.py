"""python -m loopback: W&B sweeps on this machine, without an account and without a network."""

import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import click

from loopback import daemon, local_sweep, progress, supervise
from loopback import push as pushing
from loopback.errors import UserError

logger = logging.getLogger("loopback")

folder_option = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".loopback"),
    show_default=True,
    help="Where everything is kept.",
)


class Seconds(click.FloatRange):
    """A number of seconds that is finite as well as in its range: nan is in every range."""

    name = "seconds"

    def convert(self, value, param, ctx):
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return seconds


def checked_project(_context, _option, name: str | None) -> str | None:
    """The value of --project. BadParameter for a name that W&B refuses."""
    if name is not None and not local_sweep.is_project(name):
        raise click.BadParameter(f"{name!r} is no name of a project: {local_sweep.PROJECT_RULE}")
    return name


project_option = click.option(
    "--project",
    callback=checked_project,
    help="W&B project; else WANDB_PROJECT or what the YAML says.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main():
    """W&B sweeps on this machine, without an account and without a network."""
    supervise.interruptible()


@main.command()
@folder_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port; else 8888, or the one used last."
)
@click.option(
    "--lost-after",
    type=Seconds(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds until an agent or run that sends nothing is marked as crashed.",
)
@click.option("--while-used", is_flag=True, hidden=True)
def serve(folder, host, port, lost_after, while_used):
    """Run the server until Ctrl-C."""
    for library in (
        "OMP",
        "OPENBLAS",
        "MKL",
    ):  # a Gaussian process of 100 points is faster on one thread than on many
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    from loopback import server  # starlette, SciPy and scikit-learn: too slow to import for --help
    from loopback.store import Store

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    store = Store(folder)
    if port is None and not while_used:
        port = daemon.last_port(folder) or 8888
    listener = daemon.listen(folder, host, port)
    url = daemon.announce(folder, host, listener.getsockname()[1])
    logger.info("serving %s at %s", store.folder, url)
    if not while_used:
        click.echo(f"export WANDB_BASE_URL={url} WANDB_API_KEY=$(cat {store.folder / 'key'})")
    server.run(store, listener, lost_after, (lambda: daemon.unused(folder)) if while_used else None)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@folder_option
@project_option
@click.option(
    "--agents", type=click.IntRange(1), help="Agents at a time; else one per GPU, else 1."
)
@click.option("--gpus", help="GPUs to share out among the agents: 0,1 or all.")
@click.option("--count", type=click.IntRange(1), help="Runs in this go, all agents together.")
@click.option(
    "--new", "fresh", is_flag=True, help="Start the sweep once more instead of going on with it."
)
@click.option(
    "--print-path", is_flag=True, help="Print nothing but ENTITY/PROJECT/SWEEP on stdout."
)
def sweep(file, folder, project, agents, gpus, count, fresh, print_path):
    """Run the sweep that FILE describes, with agents on this machine. Run again, it goes on."""
    try:
        listed = supervise.devices(gpus)
        plan = local_sweep.Plan(file, agents or len(listed), count, project, fresh, listed)
        with daemon.joined(folder) as server:
            found = local_sweep.run(server, plan)
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on with the sweep", err=True)
        sys.exit(130)
    if not print_path:
        click.echo(progress.table(found))
    click.echo(found.path)


@main.command("exec", context_settings={"ignore_unknown_options": True})
@folder_option
@project_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(folder, project, command):
    """Run any command with the server up and the environment set: exec -- python train.py."""
    with daemon.joined(folder) as server:
        environment = daemon.environment(server, project)
        try:
            process = subprocess.Popen(command, env=environment)
        except OSError as error:
            problem = f"cannot run the command {command[0]!r}: {error.strerror}"
            raise UserError(
                f"{problem}; name a program after --, such as: exec -- python train.py"
            ) from error
        sys.exit(_wait(process))


@main.command()
@click.argument("target", metavar="ENTITY/PROJECT")
@folder_option
@click.option(
    "--from", "source", metavar="PROJECT", help="Only the runs of this project of the store."
)
def push(target, folder, source):
    """Take the runs made here to a W&B account. Log in first: wandb login."""
    if target.count("/") != 1 or not all(target.split("/")):
        raise click.BadParameter("name the place as ENTITY/PROJECT", param_hint="ENTITY/PROJECT")
    wanted = None
    if source:
        with daemon.joined(folder) as server:
            wanted = set(progress.names(server.url, server.key, source))
    sent = pushing.push(folder.resolve(), target, wanted)
    click.echo(f"{len(sent)} runs taken to {target}")


@main.command()
@click.argument("path", metavar="ENTITY/PROJECT/SWEEP")
@click.option(
    "--agents", "number", type=click.IntRange(1), help="Agents at a time; else one per GPU, else 1."
)
@click.option("--gpus", help="GPUs to share out among the agents: 0,1 or all.")
@click.option("--count", type=click.IntRange(1), help="Runs in this go, all agents together.")
@click.option(
    "--stagger",
    type=Seconds(min=0),
    default=5.0,
    show_default=True,
    help="Seconds between the starts of two agents.",
)
@click.option(
    "--logs", type=click.Path(path_type=Path), default=Path("agent-logs"), show_default=True
)
def agents(path, number, gpus, count, stagger, logs):
    """Keep agents of a sweep alive on this machine, on W&B's service or on any server that WANDB_BASE_URL names."""
    if path.count("/") != 2 or not all(path.split("/")):
        raise click.BadParameter(
            "name the sweep as ENTITY/PROJECT/SWEEP", param_hint="ENTITY/PROJECT/SWEEP"
        )
    try:
        listed = supervise.devices(gpus)
        crew = local_sweep.remote_crew(path, number or len(listed), listed, count, stagger, logs)
        fallen = local_sweep.tend(crew)
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        sys.exit(130)
    for member in fallen:
        click.echo(
            f"{member.name} fell {member.falls} times in a row; its log is {member.log}", err=True
        )
    sys.exit(1 if fallen else 0)


def _wait(process: subprocess.Popen) -> int:
    """The command's exit status; Ctrl-C reaches it by itself, a SIGTERM is passed on."""
    signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
    while True:
        try:
            status = process.wait()
            return status if status >= 0 else 128 - status
        except KeyboardInterrupt:
            continue  # the command decides when it ends


if __name__ == "__main__":
    main()

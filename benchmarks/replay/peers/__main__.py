"""python -m benchmarks.replay.peers [NAME ...]: makes the environments of the peers under .peers/, each with its own pins."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

from benchmarks.replay.peers import (
    ENVIRONMENTS,
    HERE,
    INSTALL,
    NAMES,
    is_ready,
    python_of,
    requirements_of,
)

PYTHON = "3.11"  # what the pins were resolved for


def find_uv() -> str:
    """The uv beside this Python, or the one on PATH."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise click.ClickException("uv is not installed: pip install uv")
    return found


def wheels() -> dict[str, str]:
    """Where uv may find PyTorch without CUDA: in pip's folder of wheels, of which uv knows nothing, or in PyTorch's own index."""
    folder = os.environ.get("PIP_FIND_LINKS")
    return {"UV_FIND_LINKS": folder} if folder else {"UV_TORCH_BACKEND": "cpu"}


def install(name: str, uv: str) -> None:
    """Makes one environment anew; it counts as ready from the last line on."""
    where, variables = ENVIRONMENTS / name, wheels() | os.environ
    environment = [uv, "venv", "--quiet", "--clear", "--python", PYTHON, str(where)]
    packages = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--python",
        str(python_of(name)),
        "-r",
        str(HERE / f"{name}.txt"),
    ]
    for command in (environment, packages):
        subprocess.run(command, check=True, env=variables)
    (where / "ready").write_text(requirements_of(name))


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
def main(names: tuple[str, ...]) -> None:
    """Install the environments of the named peers, or of all; those that are ready are left alone."""
    uv, failed = find_uv(), []
    for name in names or NAMES:
        if is_ready(name):
            click.echo(f"{name}: ready")
            continue
        click.echo(f"{name}: installing into {ENVIRONMENTS / name}")
        try:
            install(name, uv)
        except (subprocess.CalledProcessError, OSError) as error:
            failed.append(name)
            click.echo(f"{name}: not installed: {error}", err=True)
        else:
            click.echo(f"{name}: ready")
    if failed:
        raise click.ClickException(
            f"not installed: {', '.join(failed)}; again with: {INSTALL} {' '.join(failed)}"
        )


if __name__ == "__main__":
    main()

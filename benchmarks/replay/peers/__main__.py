"""Install the environments of the peers: python -m benchmarks.replay.peers [NAME ...]"""

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

PYTHON = "3.11"  # the version that the requirements were resolved for


def find_uv() -> str:
    """The uv beside this Python, or the one on PATH."""
    beside = Path(sys.executable).parent / "uv"
    path = str(beside) if beside.exists() else shutil.which("uv")
    if not path:
        raise click.ClickException("uv is not installed: pip install uv")
    return path


def wheels() -> dict[str, str]:
    """Variables by which uv finds PyTorch without CUDA.

    That is pip's folder of wheels, which uv does not read by itself, or PyTorch's own index.
    """
    folder = os.environ.get("PIP_FIND_LINKS")
    return {"UV_FIND_LINKS": folder} if folder else {"UV_TORCH_BACKEND": "cpu"}


def install(name: str, uv: str) -> None:
    """Install one environment from the start. Its last step marks it as ready."""
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
    """Install the environments of the named peers, or of all; skip those that are ready."""
    uv = find_uv()
    failed: list[str] = []
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

"""Searches of other packages, each in an environment for itself.

NAME.py is the peer, NAME.txt its pinned requirements.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parents[2] / ".peers"
NAMES = sorted(path.stem for path in HERE.glob("*.txt"))
INSTALL = "python -m benchmarks.replay.peers"


def requirements_of(name: str) -> str:
    """The pinned requirements of a peer."""
    return (HERE / f"{name}.txt").read_text()


def python_of(name: str) -> Path:
    """Path of the interpreter of a peer's environment; it need not exist."""
    return ENVIRONMENTS / name / "bin" / "python"


def is_ready(name: str) -> bool:
    """Whether the environment was installed completely, with the present requirements."""
    marker = ENVIRONMENTS / name / "ready"
    return marker.exists() and marker.read_text() == requirements_of(name)


def command_of(name: str, *variant: str) -> list[str]:
    """Command line of a peer.

    Raises:
        FileNotFoundError: If its environment is missing.
    """
    if not is_ready(name):
        raise FileNotFoundError(f"the environment of {name} is missing: {INSTALL} {name}")
    return [str(python_of(name)), "-W", "ignore", str(HERE / f"{name}.py"), *variant]

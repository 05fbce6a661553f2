"""Searches of other packages, each run in an environment of its own: NAME.py is the peer, NAME.txt what it needs."""

from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parents[2] / ".peers"
NAMES = sorted(path.stem for path in HERE.glob("*.txt"))
INSTALL = "python -m benchmarks.replay.peers"


def requirements_of(name: str) -> str:
    """The pins of a peer's environment."""
    return (HERE / f"{name}.txt").read_text()


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, whether it is there or not."""
    return ENVIRONMENTS / name / "bin" / "python"


def is_ready(name: str) -> bool:
    """Whether the environment was made to the end with the pins of today."""
    marker = ENVIRONMENTS / name / "ready"
    return marker.exists() and marker.read_text() == requirements_of(name)


def command_of(name: str, *variant: str) -> list[str]:
    """What starts a peer; an error that says how to install it if it is not."""
    if not is_ready(name):
        raise FileNotFoundError(f"the environment of {name} is missing: {INSTALL} {name}")
    return [str(python_of(name)), "-W", "ignore", str(HERE / f"{name}.py"), *variant]

"""Who may import whom, read from the source. Every rule is also shown to fail on a planted import.

Rules work on a folder, so that the second half of this file can run them on a changed copy.
"""

import ast
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from project_helpers import ROOT

LOOPBACK = "loopback/src/loopback"

# Modules of a package in order: each may import only those listed before it.
ORDER = {
    "segmentation": [
        *(
            "errors",
            "ending",
            "tensorflow_log",
            "tiling",
            "augmentation",
            "backend",
            "pretrained",
            "torch_file",
        ),
        *("config", "labels"),
        *("files", "download", "sources", "options", "splits", "prepared", "overview"),
        *("convert", "prepare", "windows", "model_facts", "pictures"),
        *(
            "city",
            "synthetic",
            "losses",
            "metrics",
            "split_sums",
            "optimizers",
            "checkpoint",
            "datasets",
            "lite0",
            "backbones",
            "device",
            "models",
        ),
        *("callbacks", "account", "tracking", "evaluation"),
    ],
    "search": [
        *("settings", "history", "gaussian", "space", "halving", "tpe", "forecast", "warm_start"),
        *("policies", "multifidelity", "optuna_bridge"),
    ],
}

# What a package may import of the project besides itself.
ALLOWED = {
    "segmentation": set(),
    "search": {"segmentation.config"},
    "analysis": {"segmentation"},
    LOOPBACK: set(),
}

# Names by which the project's own code can be imported.
OWN = {Path(package).name for package in ALLOWED} | {"benchmarks", "studies", "tests", "train"}

FRAMEWORKS = {"keras", "tensorflow", "segmentation_models"}
WITHOUT_FRAMEWORK = ORDER["segmentation"][: ORDER["segmentation"].index("losses")]
STANDARD_LIBRARY_AND_CLICK = [
    "backend",
    "config",
    "ending",
    "errors",
    "pretrained",
    "tensorflow_log",
]

# The only files that import wandb: one per direction, and the account of this machine.
WANDB = {
    "segmentation": {"account", "tracking"},
    "search": {"warm_start"},
    "analysis": {"reader"},
}


def python_files(root: Path, package: str) -> list[Path]:
    return sorted((root / package).rglob("*.py"))


def imports(root: Path, file: Path) -> set[str]:
    """Dotted names of the modules that a file imports, also by `from package import module`."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in members if is_module(root, name)}
            names |= modules or {node.module}
    return names


def is_module(root: Path, name: str) -> bool:
    return (root / (name.replace(".", "/") + ".py")).exists()


def imports_by_file(root: Path, *packages: str) -> Iterator[tuple[Path, set[str]]]:
    for package in packages:
        for file in python_files(root, package):
            yield file.relative_to(root), imports(root, file)


def package_of(name: str) -> str:
    return name.split(".")[0]


def packages_import_only_what_they_may(root: Path) -> Iterator[str]:
    for package, allowed in ALLOWED.items():
        for file, names in imports_by_file(root, package):
            for name in names:
                own = package_of(name) in OWN - {Path(package).name}
                if own and name not in allowed and package_of(name) not in allowed:
                    yield f"{file} imports {name}"


def modules_import_in_order(root: Path) -> Iterator[str]:
    for package, order in ORDER.items():
        for file, names in imports_by_file(root, package):
            if file.stem == "__init__":
                continue
            if file.stem not in order:
                yield f"{file} has no place in ORDER"
                continue
            for name in names:
                used = name.removeprefix(f"{package}.")
                if used in order and order.index(used) >= order.index(file.stem):
                    yield f"{file} imports {name}, which stands later in ORDER"


def data_modules_import_no_framework(root: Path) -> Iterator[str]:
    files = [root / "segmentation" / f"{name}.py" for name in WITHOUT_FRAMEWORK]
    for file in [*files, *python_files(root, "search"), *python_files(root, LOOPBACK)]:
        for name in imports(root, file):
            if package_of(name) in FRAMEWORKS:
                yield f"{file.relative_to(root)} imports {name}"


def first_checks_need_no_slow_import(root: Path) -> Iterator[str]:
    """A wrong option is reported before anything slow is imported."""
    for name in STANDARD_LIBRARY_AND_CLICK:
        for used in imports(root, root / "segmentation" / f"{name}.py"):
            if package_of(used) not in sys.stdlib_module_names | {"click", "segmentation"}:
                yield f"segmentation/{name}.py imports {used}"


def only_named_files_import_wandb(root: Path) -> Iterator[str]:
    for package, allowed in WANDB.items():
        for file, names in imports_by_file(root, package):
            if "wandb" in map(package_of, names) and file.stem not in allowed:
                yield f"{file} imports wandb"


def commands_import_no_command(root: Path) -> Iterator[str]:
    """But reports put all others on one page (`report`, and `run` with it); `prepare` draws one."""
    commands = {
        ".".join(file.relative_to(root).with_suffix("").parts)
        for package in ("segmentation", "analysis")
        for file in python_files(root, package)
        if "@click.command" in file.read_text()
    } | {"train"}
    for name in commands - {"analysis.report", "analysis.run", "segmentation.prepare"}:
        for used in imports(root, root / (name.replace(".", "/") + ".py")) & commands:
            yield f"{name} imports {used}"


def sweeps_holds_only_yaml(root: Path) -> Iterator[str]:
    """`sweeps` is also the name of W&B's search package: a Python file there would hide it."""
    for file in (root / "sweeps").iterdir():
        if file.suffix != ".yaml":
            yield f"sweeps/{file.name}"


RULES = [
    packages_import_only_what_they_may,
    modules_import_in_order,
    data_modules_import_no_framework,
    first_checks_need_no_slow_import,
    only_named_files_import_wandb,
    commands_import_no_command,
    sweeps_holds_only_yaml,
]

# (rule, file, line that breaks the rule when it is added to the file)
PLANTED = [
    (packages_import_only_what_they_may, "segmentation/tiling.py", "from search import space"),
    (packages_import_only_what_they_may, "segmentation/models.py", "import analysis.results"),
    (packages_import_only_what_they_may, "search/space.py", "from segmentation import labels"),
    (packages_import_only_what_they_may, "analysis/style.py", "from loopback import daemon"),
    (packages_import_only_what_they_may, "analysis/report.py", "import train"),
    (packages_import_only_what_they_may, f"{LOOPBACK}/runs.py", "from segmentation import config"),
    (packages_import_only_what_they_may, "segmentation/tiling.py", "import benchmarks.epoch"),
    (modules_import_in_order, "segmentation/labels.py", "from segmentation import splits"),
    (modules_import_in_order, "search/space.py", "from search.policies import Policy"),
    (modules_import_in_order, "segmentation/unlisted.py", "import math"),
    (data_modules_import_no_framework, "segmentation/tiling.py", "import keras"),
    (data_modules_import_no_framework, "search/gaussian.py", "import tensorflow as tf"),
    (data_modules_import_no_framework, f"{LOOPBACK}/store.py", "from keras import ops"),
    (first_checks_need_no_slow_import, "segmentation/config.py", "import numpy"),
    (only_named_files_import_wandb, "segmentation/callbacks.py", "import wandb"),
    (only_named_files_import_wandb, "analysis/curves.py", "from wandb.apis import public"),
    (only_named_files_import_wandb, "search/policies.py", "import wandb"),
    (commands_import_no_command, "analysis/curves.py", "from analysis import panel"),
    (sweeps_holds_only_yaml, "sweeps/__init__.py", ""),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Callable[[Path], Iterator[str]]):
    assert list(rule(ROOT)) == []


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The project's Python files and sweeps, to be changed."""
    root = tmp_path_factory.mktemp("project")
    for package in ("segmentation", "search", "analysis", LOOPBACK, "benchmarks", "sweeps"):
        shutil.copytree(
            ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for script in ROOT.glob("*.py"):
        shutil.copy(script, root)
    return root


@pytest.mark.parametrize(
    ("rule", "name", "line"), PLANTED, ids=lambda value: getattr(value, "__name__", value)
)
def test_rule_reports_a_planted_violation(copy: Path, rule, name: str, line: str):
    file = copy / name
    before = file.read_bytes() if file.exists() else None
    try:
        file.write_text((before or b"").decode() + f"\n{line}\n")
        reported = list(rule(copy))
        assert len(reported) == 1 and file.stem in reported[0], reported
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)


def test_every_rule_has_a_planted_violation():
    assert {rule for rule, _, _ in PLANTED} == set(RULES)

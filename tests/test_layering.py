"""Who may import whom, read off the source: the package's tiers, one door to W&B each way, loopback on its own."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("segmentation", "analysis", "loopback")

# Modules of `segmentation` by tier; each may import those of lower tiers and, within a tier, those listed before it.
TIERS = [
    ["errors", "config", "labels", "ending", "files", "download"],
    ["options", "tiling", "splits", "prepared", "augmentation", "metrics", "sources"],
    ["convert", "prepare", "synthetic", "datasets", "models", "losses", "checkpoint", "callbacks"],
    ["tracking", "record", "gaussian", "trials", "halving", "multifidelity", "search"],
]
ORDER = {
    name: (tier, place) for tier, names in enumerate(TIERS) for place, name in enumerate(names)
}
HEAVY = {"keras", "tensorflow", "segmentation_models"}
ENTRY_POINTS = {"train", "segmentation.prepare", "segmentation.synthetic"}


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, `from package import module` resolved to the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in names if (ROOT / (name.replace(".", "/") + ".py")).exists()}
            found |= modules or {node.module}
    return found


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("*.py"))


@pytest.mark.parametrize("path", modules("segmentation"), ids=lambda path: path.stem)
def test_segmentation_imports_downwards(path):
    if path.stem == "__init__":
        assert not imports(path)
        return
    used = {name.split(".")[1] for name in imports(path) if name.startswith("segmentation.")}
    assert path.stem in ORDER, f"place {path.stem} in a tier"
    for name in used:
        assert ORDER[name] < ORDER[path.stem] or ORDER[name][0] == ORDER[path.stem][0], (
            f"{path.stem} imports {name}"
        )
        assert ORDER[name][0] <= ORDER[path.stem][0], (
            f"{path.stem} imports {name}, which lies above it"
        )


@pytest.mark.parametrize("name", [*TIERS[0], *TIERS[1], "convert", "prepare", "synthetic"])
def test_the_light_tiers_import_no_framework(name):
    roots = {used.split(".")[0] for used in imports(ROOT / "segmentation" / f"{name}.py")}
    assert not roots & (HEAVY | {"wandb"})


def test_config_and_ending_need_click_and_the_standard_library_alone():
    import sys

    for name in ("config", "ending"):
        assert {
            used.split(".")[0] for used in imports(ROOT / "segmentation" / f"{name}.py")
        } <= sys.stdlib_module_names | {
            "click",
            "segmentation",
        }


def test_wandb_has_one_door_in_and_one_out():
    doors = {"segmentation": {"tracking", "search"}, "analysis": {"runs"}}
    for package, allowed in doors.items():
        users = {
            path.stem
            for path in modules(package)
            if any(name.split(".")[0] == "wandb" for name in imports(path))
        }
        assert users <= allowed


def test_loopback_knows_nothing_of_us_and_nobody_imports_it():
    for path in modules("loopback"):
        assert not {name.split(".")[0] for name in imports(path)} & {
            "segmentation",
            "analysis",
            "train",
        }
    for path in [ROOT / "train.py", *modules("segmentation"), *modules("analysis")]:
        assert "loopback" not in {name.split(".")[0] for name in imports(path)}


def test_entry_points_import_no_entry_point():
    """The report alone composes others: it is all of them on one page."""
    commands = {
        f"analysis.{path.stem}"
        for path in modules("analysis")
        if "@click.command" in path.read_text()
    }
    assert "analysis.report" in commands
    for name in ENTRY_POINTS | commands - {"analysis.report"}:
        assert not imports(ROOT / (name.replace(".", "/") + ".py")) & (ENTRY_POINTS | commands), (
            name
        )


def test_sweeps_holds_yaml_alone():
    """`sweeps` is also the name of W&B's search package: a Python file there would hide it."""
    assert {path.suffix for path in (ROOT / "sweeps").iterdir()} <= {".yaml"}

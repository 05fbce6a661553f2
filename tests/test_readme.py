"""What the README and the Makefile say exists; the table of hyperparameters is Config's."""

import re
import shutil
import subprocess

from project_helpers import ROOT

from segmentation.options import table

README = (ROOT / "README.md").read_text()


def test_the_table_of_hyperparameters_is_made_from_config():
    marker = "made by: python -m segmentation.options -->\n"
    assert README.partition(marker)[2].partition("\n<!-- end")[0] == table()


def test_every_sweep_is_in_the_readme():
    assert all(f"`{path.name}`" in README for path in (ROOT / "sweeps").glob("*.yaml"))


def test_the_readme_recommends_one_sweep():
    rows = [line for line in README.splitlines() if line.startswith("| `") and ".yaml`" in line]
    assert len([row for row in rows if "**Recommended.**" in row]) == 1


def test_sweeps_with_a_scheduler_are_marked_in_the_readme():
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    for path in (ROOT / "sweeps").glob("*.yaml"):
        row = next(line for line in rows if f"`{path.name}`" in line)
        assert row.endswith("| scheduler |") == ("\nscheduler:" in path.read_text()), path.name


def test_every_page_is_linked_from_the_readme():
    assert all(f"(docs/{path.name})" in README for path in (ROOT / "docs").glob("*.md"))


def test_a_dry_run_of_make_demo_runs_nothing(tmp_path):
    """`make -n` executes recipe lines that hold $(MAKE), and with them all else in the line."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    (tmp_path / "loopback").mkdir()
    (tmp_path / "loopback" / "pyproject.toml").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    python.chmod(0o755)
    shown = subprocess.run(
        ["make", "-n", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "sweeps/demo.yaml" in shown and "analysis.report" in shown
    assert not (tmp_path / "ran").exists()


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    targets = re.search(r"^\.PHONY: help (.+)$", makefile, re.M)[1].split()
    assert re.findall(r"^make (\w+)", shown, re.M) == targets


def test_the_makefile_has_the_two_commands():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo:", makefile, re.M) and re.search(r"^test:", makefile, re.M)
    assert "make test" in (ROOT / ".ci" / "run").read_text()

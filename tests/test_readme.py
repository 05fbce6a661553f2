"""What the README says exists, and its table of hyperparameters is Config's."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from segmentation.options import table

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "loopback" / "README.md"]


def test_the_table_of_hyperparameters_is_made_from_config():
    text = PAGES[0].read_text()
    assert (
        text.partition("made by: python -m segmentation.options -->\n")[2].partition("\n<!-- end")[
            0
        ]
        == table()
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_links_and_pictures_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert all((page.parent / link).exists() for link in links if "://" not in link), links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_commands_name_modules_and_sweeps_that_exist(page):
    text = page.read_text()
    modules = set(
        re.findall(r"python -m ((?:segmentation|analysis|loopback|benchmarks)[.\w]*)", text)
    )
    assert modules and all(importlib.util.find_spec(module.rstrip(".")) for module in modules)
    assert all((ROOT / name).exists() for name in re.findall(r"sweeps/\w+\.yaml", text))


def test_every_sweep_is_in_the_readme():
    text = PAGES[0].read_text()
    assert all(f"`{path.name}`" in text for path in (ROOT / "sweeps").glob("*.yaml"))


def test_a_dry_run_of_make_demo_runs_nothing(tmp_path):
    """`make -n` runs each recipe line that holds $(MAKE), and with it whatever else the line holds."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    python.chmod(0o755)
    shown = subprocess.run(
        ["make", "-n", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "sweeps/demo.yaml" in shown and "analysis.report" in shown
    assert not (tmp_path / "ran").exists()


def test_the_makefile_has_the_two_commands():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo:", makefile, re.M) and re.search(r"^test:", makefile, re.M)
    assert "make test" in (ROOT / ".ci" / "run").read_text()

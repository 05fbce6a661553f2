"""The pages of documentation name the commands, options, variables and versions that exist."""

import re
from pathlib import Path

import click
import pytest
import wandb
from loopback.__main__ import main

from loopback import __version__, daemon

FOLDER = Path(__file__).parent.parent
PAGES = sorted(FOLDER.glob("*.md"))
README = (FOLDER / "README.md").read_text()
COMMANDS = main.commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert all((FOLDER / link).exists() for link in links if "://" not in link), links


def test_the_readme_has_every_command_and_no_other():
    named = set(re.findall(r"`loopback (\w+)", README))
    assert named - {"COMMAND"} == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_in_the_pages_exist(page):
    options = {
        name
        for command in [main, *COMMANDS.values()]
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
    }
    code = " ".join(re.findall(r"`(loopback[^`]*|serve [^`]*|--[^`]*)`", page.read_text()))
    named = set(re.findall(r"(?<!\S)--[a-z-]+", code))
    assert named <= options | {"--help"}


def test_the_readme_lists_the_variables_that_are_set_and_removed(tmp_path):
    (tmp_path / "key").write_text("k" * 40)
    made = daemon.environment(daemon.Server(tmp_path, "http://127.0.0.1:1"))
    ours = {name for name in made if name.startswith("WANDB_")} | {"NO_PROXY"}
    assert all(f"`{name}`" in README for name in ours | set(daemon.NOT_INHERITED))


def test_the_newest_version_is_in_the_changelog_and_was_tested_with_this_client():
    (newest, *_) = re.findall(
        r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", (FOLDER / "CHANGELOG.md").read_text(), re.M
    )
    table = (FOLDER / "COMPATIBILITY.md").read_text().partition("|---|")[2]
    tested = [cell.strip() for cell in table.splitlines()[1].split("|")]
    assert newest == __version__
    assert tested[1:3] == [__version__, wandb.__version__]

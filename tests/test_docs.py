"""What the pages say is so: links, commands, options, paths, versions, metrics and tables."""

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from project_helpers import ROOT
from wandb.cli.cli import cli as wandb_cli

from docs import data_card
from segmentation.config import STATUSES, Config
from segmentation.losses import LOSSES

PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "loopback" / "README.md",
    ]
)
PACKAGES = ("analysis", "benchmarks", "docs", "loopback", "search", "segmentation", "tests")

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT)).replace("/", "-")
)


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in found}


def commands(page: Path) -> list[list[str]]:
    """The commands in a page's code blocks and code spans, as words; comments are cut off."""
    text = page.read_text()
    fence = r"^ *```\w*\n(.*?)^ *```"
    blocks = re.findall(fence, text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`]+)`", re.sub(fence, "", text, flags=re.MULTILINE | re.DOTALL))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [
        re.split(r"(?:^|\s)#\s", line)[0]
        for line in [*lines, *(s.replace("\n", " ") for s in spans)]
    ]
    return [part.split() for line in parts for part in line.split("&&") if part.split()]


def python_commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(module or script, its arguments) of every `python` command of a page."""
    for words in commands(page):
        names = [Path(word).name for word in words]
        for i in (place for place, name in enumerate(names) if name == "python"):
            rest = words[i + 1 :]
            if rest[:1] == ["-m"] and rest[1:]:
                yield rest[1], rest[2:]
            elif rest and rest[0].endswith(".py"):
                yield rest[0], rest[1:]


def long_options(command: click.Command, arguments: list[str]) -> tuple[list[str], set[str]]:
    """Long options among the arguments, and those that the command or its sub-command has."""
    while isinstance(command, click.Group) and arguments and arguments[0] in command.commands:
        command, arguments = command.commands[arguments[0]], arguments[1:]
    if "--" in arguments:  # what follows belongs to another command
        arguments = arguments[: arguments.index("--")]
    used = [word.split("=")[0] for word in arguments if re.match(r"--[a-z]", word)]
    known = {name for parameter in command.params for name in parameter.opts}
    return used, known | {"--help"}


def table(text: str, marker: str) -> list[list[str]]:
    """Cells of the first table after `marker`, without its header."""
    rows = re.search(r"(^\|.*\n)+", text.partition(marker)[2], re.MULTILINE)
    assert rows, f"no table after {marker!r}"
    return [
        [cell.strip().strip("*") for cell in line.strip().strip("|").split(" | ")]
        for line in rows[0].splitlines()[2:]
    ]


@every_page
def test_links_and_anchors_exist(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@every_page
def test_python_commands_name_modules_that_exist_and_options_that_they_have(page):
    for module, arguments in python_commands(page):
        if module.endswith("NAME"):
            continue
        if module == "pytest":
            assert all((ROOT / word).exists() for word in arguments if word.endswith(".py"))
            continue
        name = module.removesuffix(".py").replace("/", ".")
        found = importlib.util.find_spec(name)
        assert found, module
        if name.startswith("benchmarks."):  # importing one starts TensorFlow
            folder = Path(found.origin).parent
            source = "".join(
                path.read_text()
                for path in (
                    folder.glob("*.py")
                    if found.submodule_search_locations
                    else [folder / Path(found.origin).name]
                )
            )
            used = [word for word in arguments if re.match(r"--[a-z]", word)]
            assert all(f'"{option}"' in source for option in used), (module, used)
            continue
        if found.submodule_search_locations:
            name += ".__main__"
        command = getattr(importlib.import_module(name), "main", None)
        if command is not None:
            used, known = long_options(command, arguments)
            assert set(used) <= known, (module, set(used) - known)


@every_page
def test_wandb_commands_exist_with_their_options(page):
    for words in commands(page):
        if words[0] == "wandb" and len(words) > 1 and re.fullmatch(r"[a-z][a-z-]+", words[1]):
            assert words[1] in wandb_cli.commands, words
            used, known = long_options(wandb_cli, words[1:])
            assert set(used) <= known, words


@every_page
def test_make_targets_and_their_variables_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for words in commands(page):
        if words[0] == "make" and len(words) > 1:
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
            variables = [word.split("=")[0] for word in words[1:] if "=" in word]
            assert all(f"$({name})" in makefile for name in variables), words


@every_page
def test_files_named_in_code_spans_exist(page):
    """Paths into the packages and files at the root; `NAME` stands for any name."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for span in re.findall(r"`([^`\s]+)`", text):
        span = span.rstrip("/:")
        known = span.startswith(tuple(f"{name}/" for name in (*PACKAGES, "sweeps", ".ci")))
        if (known or span in ("train.py", "studies.py")) and "NAME" not in span and "*" not in span:
            base = page.parent if page.parent.name == "loopback" else ROOT
            assert (ROOT / span).exists() or (base / span).exists(), span


@every_page
def test_sweep_files_named_exist(page):
    for name in re.findall(r"sweeps/([\w-]+)\.yaml", page.read_text()):
        assert name == "NAME" or (ROOT / "sweeps" / f"{name}.yaml").exists()


@every_page
def test_prose_has_lines_of_at_most_100_columns(page):
    if page.parent.name == "loopback":
        return
    lines = [line for line in page.read_text().splitlines() if not line.startswith(("|", "!["))]
    assert [line for line in lines if len(line) > 100 and "](" not in line] == []


def test_versions_of_formats_are_those_of_the_code():
    rows = table((ROOT / "docs" / "architecture.md").read_text(), "## Formats on disk")
    assert len(rows) == 4
    for _, _, version, place in rows:
        module, _, name = place.strip("`").rpartition(".")
        assert getattr(importlib.import_module(module), name) == int(version), place


def test_statuses_on_the_pages_are_those_of_the_code():
    readme = table((ROOT / "README.md").read_text(), "**How a run ends:**")
    assert {row[0].strip("`"): int(row[2]) for row in readme} == STATUSES
    glossary = table((ROOT / "docs" / "glossary.md").read_text(), "| status | how a run ended")
    assert [row[0].strip("`") for row in glossary] == list(STATUSES)


def test_the_losses_on_the_metrics_page_are_those_of_the_code_with_their_largest_values():
    rows = table((ROOT / "docs" / "metrics.md").read_text(), "## Losses")
    assert [row[0].strip("`") for row in rows] == list(LOSSES)
    for name, _, span in rows:
        worst = LOSSES[name.strip("`")].worst
        assert float(span.split(" to ")[1]) == pytest.approx(worst, abs=0.01)


def test_the_metrics_page_lists_what_a_run_logs(served, api, tiny_set, tmp_path):
    """A real run of one epoch on the local server: its history, summary and config."""
    command = [sys.executable, str(ROOT / "train.py"), f"--data={tiny_set}", f"--runs={tmp_path}"]
    options = ["--epochs=1", "--batch-size=32", "--learning-rate=0.002"]
    served.run([*command, *options], cwd=tmp_path, WANDB_RUN_ID="documented", WANDB_PROJECT="docs")
    run = api.run("docs/documented")
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows, summary, config = (
        {row[0].strip("`") for row in table(page, f"## {title}")}
        for title in ("One row per epoch", "Summary of a run", "Config of a run")
    )

    def own(names) -> set[str]:
        return {name for name in names if not name.startswith("_")}

    logged = own(next(iter(run.scan_history())))
    assert logged == rows
    assert own(run.summary.keys()) - logged == summary
    assert own(run.config) - set(Config.__dataclass_fields__) == config


def test_the_leaderboard_agrees_with_the_replays():
    """Each number of docs/searches.md stands in results/replay/README.md."""
    replays = (ROOT / "results" / "replay" / "README.md").read_text()
    page = (ROOT / "docs" / "searches.md").read_text()

    def replayed(task: str, budget: str) -> dict[str, list[str]]:
        return {row[0]: row for row in table(replays, f"## {task}: 4 agents, {budget} epochs")}

    made_up, real = replayed("synthetic", "1,944"), replayed("dubai", "1,944")
    rows = table(page, "## Leaderboard")
    assert len(rows) == 13
    for _, engine, *numbers, _, _ in rows:
        expected = [table_[engine][i] for table_ in (made_up, real) for i in (1, 6, 7)]
        assert numbers == expected, engine
    assert [int(row[2]) for row in rows] == sorted(int(row[2]) for row in rows)

    made_up, real = replayed("synthetic", "486"), replayed("dubai", "486")
    for _, engine, epochs, milliseconds, real_epochs, _, _ in table(page, "### Slow searches"):
        assert [epochs, milliseconds] == [made_up[engine][i] for i in (1, 10)], engine
        assert real_epochs == (real[engine][1] if engine in real else "-")


def test_each_row_of_the_leaderboard_names_commits_of_its_date():
    git = ["git", "-C", str(ROOT)]
    shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True)
    if shallow.stdout.strip() != b"false":
        pytest.skip("no git history here")
    page = (ROOT / "docs" / "searches.md").read_text()
    for *_, date, commits in table(page, "## Leaderboard") + table(page, "### Slow searches"):
        shown = [*git, "show", "-s", "--format=%ad", "--date=short", *commits.split(", ")]
        dates = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.split()
        assert max(dates) == date


def test_the_data_card_is_what_its_command_prints(real_set):
    text = (ROOT / "docs" / "data.md").read_text()
    printed = f"{data_card.files_table(real_set)}\n\n{data_card.sizes_table(real_set)}"
    marker = "<!-- made by: python -m docs.data_card data/dubai -->\n"
    assert text.partition(marker)[2].partition("\n<!-- end")[0] == printed


def test_the_workflow_runs_make_test_and_hooks_use_installed_tools():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make test"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks[0]["hooks"])


def test_the_citation_names_the_version_and_licence_of_the_project():
    import tomllib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (str(citation["version"]), citation["license"]) == (
        project["version"],
        project["license"],
    )
    assert citation["cff-version"] == "1.2.0" and citation["title"] and citation["authors"]

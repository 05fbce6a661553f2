"""No file holds words that stop a reader and have plain replacements (see CONTRIBUTING.md)."""

import re
from pathlib import Path

import pytest
from project_helpers import ROOT

FOLDERS = (
    "segmentation",
    "search",
    "analysis",
    "benchmarks",
    "loopback",
    "sweeps",
    "tests",
    "docs",
)
FILES = sorted(
    file
    for file in [
        *ROOT.glob("*.*"),
        *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.*")),
    ]
    if file.suffix in {".py", ".md", ".yaml", ".html", ".css", ".js", ".graphql", ".sql", ".toml"}
    and file != Path(__file__).resolve()
)

# pattern -> what to write instead
INSTEAD = {
    r"(?<!ask and )\b(tell|tells|told)\b(?!\(| whether)": "report, list, say",
    r"\b(go|goes|going|went|gone) on\b": "resume, continue",
    r"\blest\b": "so that ... not",
    r"\banew\b": "again",
    r"\bbut for\b": "except",
    r"\bof its own\b": "its own ..., separate",
    r"\bforesee[ns]?\b|\bforeseen\b": "predict, predicted",
    r"\bfor ever\b|\bforever\b": "permanently, without end",
    r"\b(one|an?) (?!of|per)\w+ an? (run|epoch|patch|class|step|split|rung|seed|core)\b": "per",
}


@pytest.mark.parametrize("pattern", INSTEAD, ids=INSTEAD.values())
def test_no_file_holds_a_word_that_has_a_plainer_one(pattern: str):
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in FILES
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if re.search(pattern, line, re.IGNORECASE)
    ]
    assert not found, f"write '{INSTEAD[pattern]}' instead:\n" + "\n".join(found)

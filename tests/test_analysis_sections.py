"""sections.py: tables in every format."""

import csv
import math

import pytest

from analysis import sections


def test_a_table_has_the_same_numbers_in_every_format(tmp_path):
    table = sections.Table(
        tmp_path / "t",
        "50 % of a_b & c",
        ("a|b", "x"),
        [("é_1", 0.123456), ("n", math.nan)],
        ("csv", "md", "tex"),
    )
    read = {path.suffix: path.read_text(encoding="utf-8") for path in table.write()}
    assert read[".csv"] == "a|b,x\né_1,0.123456\nn,\n"
    assert "| é_1 | 0.1235 |" in read[".md"]
    assert r"é\_1 & 0.1235 \\" in read[".tex"]
    assert r"50 \% of a\_b \& c" in read[".tex"]
    assert '<td class="n">0.1235</td>' in table.html()


FORMULA = '=HYPERLINK("http://example.org")'


@pytest.mark.parametrize("text", [FORMULA, "+cmd|x", "-a", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_reads_no_cell_as_a_formula(text, tmp_path):
    rows = [(text, -0.5, "-0.5", "-1e-05", None, f"a\r{text}")]
    table = sections.Table(
        tmp_path / "t", "c", (text, "x", "n", "s", "u", "two lines"), rows, ("csv",)
    )
    table.write()
    with (tmp_path / "t.csv").open(newline="") as file:
        header, cells = csv.reader(file)
    assert header[0] == cells[0] == f"'{text}"
    assert cells[1:] == ["-0.5", "-0.5", "-1e-05", "", f"a {text}"]  # numbers stay numbers


def test_html_in_a_markdown_table_is_escaped(tmp_path):
    hostile = "<img src=x onerror=alert(1)>\n\n<b>&amp;"
    table = sections.Table(tmp_path / "t", hostile, (hostile, "x"), [(hostile, 0.5)]).markdown()
    assert "<" not in table and "&lt;img" in table and "&amp;amp;" in table
    assert len(table.splitlines()) == 5  # caption, an empty line, header, rule, row

"""sections.py: tables in every format."""

import csv
import math
import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from analysis import sections

NAMES = [
    '=HYPERLINK("http://example.org")',
    "+cmd|x",
    "-a",
    "@SUM(A1)",
    "\t=1",
    "\n\r =1",
    "\uff1d1",  # a full-width equals sign
    "<img src=x onerror=alert(1)>\n\n<b>&amp;",
    "![x](http://example.org/x.png) [y](javascript:alert(1)) [z]: <http://z>",
    "`a` ``b *c* **d** ~~e~~ $f$ _g_ __h__ i_j",
    "\\| a\\|b \\",
    "| --- |",
]


def table(*cells: sections.Cell, caption: str = "caption") -> sections.Table:
    """A table of one row, whose header has the same cells."""
    return sections.Table("unused", caption, tuple(map(str, cells)), [cells])


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


@pytest.mark.parametrize("text", NAMES)
def test_a_spreadsheet_reads_no_cell_as_a_formula(text):
    shown = " ".join(text.split())
    made = table(text, f"a\r{text}", f"a\t{text}", f"a; {text}", f'a";{text}').csv()
    assert made.count("\n") == 2 and "\r" not in made and "\t" not in made
    for row in csv.reader(made.splitlines()):
        assert [cell.replace("'", "") for cell in row[:3]] == [shown, f"a {shown}", f"a {shown}"]
        for part in (part for cell in row for part in cell.split(";")):
            assert not re.match(r"\s*[=+\-@\uff1d]", part)


def test_numbers_stay_numbers_in_a_csv_file():
    cells = (-0.5, "-0.5", "-1e-05", "+1", 3, None, math.nan, "1; 2")
    row = next(csv.reader([table(*cells).csv().splitlines()[1]]))
    assert row == ["-0.5", "-0.5", "-1e-05", "+1", "3", "", "", "1; 2"]


def rendered(made: sections.Table) -> list[str]:
    """Caption, header and cells of a Markdown table as a parser of Markdown shows them."""
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(made.markdown())
    assert set(re.findall(r"</?(\w+)", html)) <= {"p", "table", "thead", "tbody", "tr", "th", "td"}
    found = re.findall(r"<(p|th|td)(?: style=[^>]*)?>(.*?)</\1>", html, re.DOTALL)
    return [unescape(text) for _, text in found]


@pytest.mark.parametrize("text", NAMES)
def test_a_markdown_parser_shows_a_cell_as_it_was(text):
    shown = " ".join(text.split())
    assert rendered(table(text, -0.5, caption=f"Table of {text}")) == [
        f"Table of {shown}",
        *(shown, "-0.5"),
        *(shown, "-0.5000"),
    ]


@given(st.text(st.sampled_from(r"ab_*`\|<>&[]()!$~#:;= '" + '"\n1.-')))
def test_a_markdown_parser_shows_any_text_as_it_was(text):
    shown = " ".join(text.split())
    assert rendered(table("x", text))[1:] == ["x", shown, "x", shown]


@given(st.text(st.sampled_from("a<>&;#\"'\n ") | st.characters()))
def test_html_shows_any_text_as_it_was(text):
    shown = " ".join(text.split())
    made = table("x", text, caption=text).html()
    caption, *cells = re.findall(r"<(?:caption|t[hd])(?: class=[^>]*)?>([^<]*)</", made)
    assert [unescape(cell) for cell in (caption, *cells)] == [text, "x", shown, "x", shown]

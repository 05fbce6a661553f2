"""Sections: the notes, figures and tables of one analysis.

Commands print and write them; the report shows them.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

Cell = str | int | float | None
BREAKABLE = 30  # cells with more characters, such as checksums, may break anywhere in HTML
MISSING = "–"  # noqa: RUF001 - an en dash stands for an undefined value
FORMULA = re.compile(r"(^|;) ?(?=[=+\-@＝＋－＠])")  # noqa: RUF001 - full-width signs count too
"""Where a spreadsheet would start to read a formula. Some read a semicolon as the end of a cell."""
MARKDOWN = re.compile(r"[\\`*\[\]~$|]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown would read inside a line as formatting, a link, a formula, or the end of a cell.

An underscore inside a word is none of these.
"""


@dataclass(frozen=True)
class Picture:
    """A PNG file and its caption, which is also its alternative text."""

    file: Path
    caption: str

    @property
    def files(self) -> list[Path]:
        """The PNG, and the SVG of the same figure if it stands beside the PNG."""
        svg = self.file.with_suffix(".svg")
        return [self.file, svg] if svg.is_file() else [self.file]


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header.

    `file` is the path without suffix; `formats` are the suffixes. Of a `folded` table, the page
    shows the caption until a reader opens it. Prints show all of it.
    """

    file: Path
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    formats: Sequence[str] = ("csv", "md")
    folded: bool = False
    bold: Collection[tuple[int, int]] = ()
    """(row, column) of the cells that the page shows in bold type."""

    def write(self) -> list[Path]:
        """Writes the table in each format: the same bytes for the same cells. Returns the files."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        files = [self.file.with_name(f"{self.file.name}.{ending}") for ending in self.formats]
        for file, ending in zip(files, self.formats, strict=True):
            file.write_text(WRITERS[ending](self), encoding="utf-8", newline="")
        return files

    def csv(self) -> str:
        """CSV text with all digits; undefined cells are empty. One line per row.

        A spreadsheet runs no cell as a formula.
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows(
            [
                ["" if _undefined(cell) else _no_formula(cell) for cell in row]
                for row in (self.header, *self.rows)
            ]
        )
        return out.getvalue()

    def markdown(self) -> str:
        """A Markdown pipe table under its caption, numbers right-aligned.

        HTML and Markdown in a cell show as text.
        """
        header, *rows = [
            [_markdown(_text(cell)) for cell in row] for row in (self.header, *self.rows)
        ]
        rule = ["---:" if right else "---" for right in self.numeric()]
        lines = ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]
        return "\n".join([_markdown(self.caption), "", *lines, ""])

    def latex(self) -> str:
        """A LaTeX table environment with a booktabs tabular."""
        columns = "".join("r" if right else "l" for right in self.numeric())
        rows = [
            " & ".join(_latex(_text(cell)) for cell in row) + r" \\"
            for row in (self.header, *self.rows)
        ]
        body = [r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
        inner = [rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"]
        return "\n".join(
            [r"\begin{table}", rf"\caption{{{_latex(self.caption)}}}", *inner, r"\end{table}", ""]
        )

    def html(self) -> str:
        """An HTML table element with its caption."""
        right = self.numeric()

        def line(cells: Iterable[Cell], tag: str, row: int = -1) -> str:
            texts = [escape(_text(cell)) for cell in cells]
            kinds = [
                "n" if is_right else "long" if len(text) > BREAKABLE else ""
                for is_right, text in zip(right, texts, strict=True)
            ]
            texts = [
                f"<b>{text}</b>" if (row, column) in self.bold else text
                for column, text in enumerate(texts)
            ]
            marks = [f' class="{kind}"' if kind else "" for kind in kinds]
            return (
                "<tr>"
                + "".join(
                    f"<{tag}{mark}>{text}</{tag}>" for mark, text in zip(marks, texts, strict=True)
                )
                + "</tr>"
            )

        body = "\n".join(line(row, "td", i) for i, row in enumerate(self.rows))
        return (
            f"<table><caption>{escape(self.caption)}</caption>\n"
            f"<thead>{line(self.header, 'th')}</thead>\n<tbody>\n{body}\n</tbody></table>"
        )

    def numeric(self) -> list[bool]:
        """(columns,) whether a column holds only numbers."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.header))]
        return [
            bool(cells) and all(not isinstance(cell, str) for cell in cells) for cells in columns
        ]


@dataclass(frozen=True)
class Note:
    """One statement of a section."""

    text: str
    warning: bool = False

    def __str__(self) -> str:
        return f"Warning: {self.text}" if self.warning else self.text


@dataclass(frozen=True)
class Section:
    """One part of the report: notes, then figures and tables. `command` makes this part again."""

    title: str
    command: str = ""
    notes: Sequence[Note] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    links: Mapping[str, str] = field(default_factory=dict)

    def write(self) -> list[Path]:
        """Writes the tables. Returns all files of the section, pictures included."""
        tables = [file for table in self.tables for file in table.write()]
        return [file for picture in self.pictures for file in picture.files] + tables


def fixed(value: float | None, digits: int = 4) -> str:
    """A number with `digits` digits after the point; a dash for None or NaN."""
    return MISSING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def value_text(value: object) -> str:
    """A hyperparameter's value as text: floats with four significant digits, None as `null`."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else str(value)


def _undefined(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _text(cell: Cell) -> str:
    return fixed(cell) if cell is None or isinstance(cell, float) else _one_line(str(cell))


def _one_line(text: str) -> str:
    """The text with each run of spaces, tabs and line breaks as one space, and none at the ends."""
    return " ".join(text.split())


def _no_formula(cell: Cell) -> Cell:
    """The cell, with an apostrophe before text that a spreadsheet would run.

    Numbers as text are kept.
    """
    if not isinstance(cell, str):
        return cell
    text = _one_line(cell)
    return text if _is_number(text) else FORMULA.sub(r"\g<0>'", text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _markdown(text: str) -> str:
    """The text on one line, with a backslash before what Markdown would not show as it is."""
    return escape(MARKDOWN.sub(r"\\\g<0>", _one_line(text)), quote=False)


def _latex(text: str) -> str:
    """The text with the special characters of LaTeX escaped."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        MISSING: "--",
    }
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    return "".join(special.get(letter, letter) for letter in _one_line(text))


WRITERS: dict[str, Callable[[Table], str]] = {
    "csv": Table.csv,
    "md": Table.markdown,
    "tex": Table.latex,
}

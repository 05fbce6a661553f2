"""Sections: the notes, figures and tables of one analysis.

Commands print and write them; the report shows them.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

Cell = str | int | float | None
BREAKABLE = 30  # cells with more characters, such as checksums, may break anywhere in HTML
MISSING = "–"  # noqa: RUF001 - an en dash stands for an undefined value


@dataclass(frozen=True)
class Picture:
    """A PNG file and its caption, which is also its alternative text."""

    file: Path
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header.

    `file` is the path without suffix; `formats` are the suffixes.
    """

    file: Path
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    formats: Sequence[str] = ("csv", "md")
    folded: bool = False

    def write(self) -> list[Path]:
        """Writes the table in each format: the same bytes for the same cells. Returns the files."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        files = [self.file.with_name(f"{self.file.name}.{ending}") for ending in self.formats]
        for file, ending in zip(files, self.formats, strict=True):
            file.write_text(WRITERS[ending](self), encoding="utf-8", newline="")
        return files

    def csv(self) -> str:
        """CSV text with all digits; undefined cells are empty.

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

        HTML in a cell shows as text.
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

        def line(cells: Iterable[Cell], tag: str) -> str:
            texts = [escape(_text(cell)) for cell in cells]
            kinds = [
                "n" if is_right else "long" if len(text) > BREAKABLE else ""
                for is_right, text in zip(right, texts, strict=True)
            ]
            marks = [f' class="{kind}"' if kind else "" for kind in kinds]
            return (
                "<tr>"
                + "".join(
                    f"<{tag}{mark}>{text}</{tag}>" for mark, text in zip(marks, texts, strict=True)
                )
                + "</tr>"
            )

        body = "\n".join(line(row, "td") for row in self.rows)
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
        return [picture.file for picture in self.pictures] + tables


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
    return fixed(cell) if cell is None or isinstance(cell, float) else str(cell)


def _no_formula(cell: Cell) -> Cell:
    """The cell, with an apostrophe before text that a spreadsheet would run.

    Numbers as text are kept.
    """
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r", " ")  # starts a line, and the csv module does not quote it
    return (
        f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) and not _is_number(text) else text
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _markdown(text: str) -> str:
    """The text on one line, with HTML and column separators escaped."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _latex(text: str) -> str:
    """The text with the special characters of LaTeX escaped."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        MISSING: "--",
    }
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    return "".join(special.get(letter, letter) for letter in text)


WRITERS: dict[str, Callable[[Table], str]] = {
    "csv": Table.csv,
    "md": Table.markdown,
    "tex": Table.latex,
}

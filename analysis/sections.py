"""What an analysis hands over: figures, tables, words. A command prints and keeps them, the report puts them on its page."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

Cell = str | int | float | None
LONG = 30  # letters of a word that may be broken anywhere
MISSING = "–"  # noqa: RUF001 - the dash of a table, for a value that is undefined


@dataclass(frozen=True)
class Picture:
    """A PNG file and the words under it, which also tell who cannot see it what it shows."""

    file: Path
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; `file` is its path without the ending."""

    file: Path
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    formats: Sequence[str] = ("csv", "md")

    def write(self) -> list[Path]:
        """Write it in each of its formats; the same bytes for the same cells."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        files = [self.file.with_name(f"{self.file.name}.{ending}") for ending in self.formats]
        for file, ending in zip(files, self.formats, strict=True):
            file.write_text(WRITERS[ending](self), encoding="utf-8", newline="")
        return files

    def csv(self) -> str:
        """All digits, empty where undefined; no cell is a formula to a spreadsheet."""
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
        """A pipe table under its caption, numbers to the right. HTML in a cell is shown as text."""
        header, *rows = [
            [_markdown(_text(cell)) for cell in row] for row in (self.header, *self.rows)
        ]
        rule = ["---:" if right else "---" for right in self.numeric()]
        lines = ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]
        return "\n".join([_markdown(self.caption), "", *lines, ""])

    def latex(self) -> str:
        """A booktabs tabular in a table environment."""
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
        """A table element with its caption."""
        right = self.numeric()

        def line(cells, tag):
            texts = [escape(_text(cell)) for cell in cells]
            kinds = [
                "n" if is_right else "long" if len(text) > LONG else ""
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
            f"<table><caption>{escape(self.caption)}</caption>\n<thead>{line(self.header, 'th')}</thead>"
            f"\n<tbody>\n{body}\n</tbody></table>"
        )

    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.header))]
        return [
            bool(cells) and all(not isinstance(cell, str) for cell in cells) for cells in columns
        ]


@dataclass(frozen=True)
class Section:
    """A part of the report: its words first, then figures and tables; `command` makes just this part again."""

    title: str
    command: str = ""
    notes: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)

    def files(self) -> list[Path]:
        """Write the tables; every file of this section."""
        return [picture.file for picture in self.pictures] + [
            file for table in self.tables for file in table.write()
        ]


def fixed(value: float | None, digits: int = 4) -> str:
    """A number to so many digits after the point, or a dash."""
    return MISSING if _undefined(value) else f"{value:.{digits}f}"


def value_text(value) -> str:
    """A hyperparameter in a sentence or beside an axis: floats in at most four significant digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else str(value)


def _undefined(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _text(cell: Cell) -> str:
    if _undefined(cell):
        return MISSING
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def _no_formula(cell: Cell) -> Cell:
    """The cell; text that a spreadsheet would run as a formula gets an apostrophe before it. Numbers as text are kept."""
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r", " ")  # the csv module does not quote it, and it starts a new line
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
    """The text on one line, without HTML and column separators."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _latex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        MISSING: "--",
    }
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    return "".join(special.get(letter, letter) for letter in text)


WRITERS = {"csv": Table.csv, "md": Table.markdown, "tex": Table.latex}

"""The report as one HTML file, which needs no other file and no network. It prints on A4."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from analysis.sections import Note, Picture, Section, Table

FOLDER = Path(__file__).parent
TICK, CROSS, QUESTION = (
    "M4 13l5 5L20 6",
    "M6 6l12 12M18 6L6 18",
    "M7.5 8.5a4.5 4.5 0 1 1 6.5 4c-1.3.7-2 1.5-2 3M12 20v.01",
)
SYMBOLS = {"won": TICK, "lost": CROSS, "noise": QUESTION, "unknown": QUESTION}
"""Kind of a verdict -> SVG path in a square of 24 x 24. The colours stand in page.css."""


def render(
    title: str,
    lead: str,
    key: Mapping[str, str],
    sections: Sequence[Section],
    verdict_kind: str | None = None,
) -> str:
    """The page as HTML text. Of the tables, those with a Markdown format are shown.

    Args:
        title: Title of the page.
        lead: First sentence, under the title.
        key: The few numbers at the top, label -> value.
        sections: The parts of the report, in order.
        verdict_kind: One of SYMBOLS: the first sentence is shown large, with a symbol and a colour.
            None: the sentence is no verdict.
    """
    html, style, script = (
        (FOLDER / f"page.{ending}").read_text(encoding="utf-8") for ending in ("html", "css", "js")
    )
    return Template(html).substitute(
        policy=_policy(style, script),
        style=style,
        script=script,
        title=escape(title),
        lead=_lead(lead, verdict_kind),
        key="".join(
            f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>"
            for label, value in key.items()
        ),
        contents=" ".join(
            f'<a href="#{_anchor(section.title)}">{escape(section.title)}</a>'
            for section in sections
        ),
        body="\n".join(map(_section, sections)),
    )


def _policy(style: str, script: str) -> str:
    """A Content-Security-Policy: this style, this script and images in the page, nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
        for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )


def _lead(text: str, verdict_kind: str | None) -> str:
    if verdict_kind is None:
        return f"<p>{escape(text)}</p>"
    path = SYMBOLS[verdict_kind]
    symbol = f'<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{path}"/></svg>'
    return f'<p class="verdict {verdict_kind}">{symbol}<span>{escape(text)}</span></p>'


def _section(section: Section) -> str:
    parts = [f'<section id="{_anchor(section.title)}">', f"<h2>{escape(section.title)}</h2>"]
    parts += map(_note, section.notes)
    parts += map(_figure, section.pictures)
    parts += [_table(table) for table in section.tables if "md" in table.formats]
    links = [
        f'<a href="{escape(url)}">{escape(text)}</a>'
        for text, url in section.links.items()
        if url.startswith(("http://", "https://"))
    ]
    parts += [f"<p>{' · '.join(links)}</p>"] if links else []
    parts += (
        [f'<p class="command">Made by <code>{escape(section.command)}</code></p>']
        if section.command
        else []
    )
    return "\n".join([*parts, "</section>"])


def _note(note: Note) -> str:
    kind = "note warning" if note.warning else "note"
    first, *rest = note.text.split(" ")
    words = [first.capitalize() if first.islower() and first.isalpha() else first, *rest]
    return f'<p class="{kind}">{escape(" ".join(words))}</p>'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.file.read_bytes()).decode("ascii")
    caption = escape(picture.caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    files = escape(", ".join(file.name for file in picture.files))
    caption += f' <span class="files">{files}</span>'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _table(table: Table) -> str:
    html = f'<div class="scroll">{table.html()}</div>'
    if not table.folded:
        return html
    summary = f"{escape(table.caption)} ({len(table.rows)} rows)"
    return f"<details><summary>{summary}</summary>{html}</details>"


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")

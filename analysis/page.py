"""The report as one HTML file, which needs no other file and no network. It prints on A4."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from analysis.sections import Note, Picture, Section

TEMPLATE = Path(__file__).with_name("page.html")


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
    """
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        lead=escape(lead),
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


def _section(section: Section) -> str:
    parts = [f'<section id="{_anchor(section.title)}">', f"<h2>{escape(section.title)}</h2>"]
    parts += map(_note, section.notes)
    parts += map(_figure, section.pictures)
    parts += [
        f'<div class="scroll">{table.html()}</div>'
        for table in section.tables
        if "md" in table.formats
    ]
    links = [
        f'<a href="{escape(url)}">{escape(text)}</a>'
        for text, url in section.links.items()
        if url.startswith("http")
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
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")

"""A report: one self-contained HTML page.

Pictures are embedded as PNG and styles inline; it has no script and no links, so that it can be mailed and read offline
for years. All text is escaped, so text from files, labels and recipes cannot become markup.
"""

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark;
  --ink: #1b1f24; --faint: #5b6570; --paper: #fafaf8; --line: #d8d8d4; --link: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e3; --faint: #9aa4ae; --paper: #16181b; --line: #383c42; --link: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { margin: 0; line-height: 1.2; } h2 { margin: 2.5rem 0 .5rem; }
.subtitle { margin: .25rem 0 1.5rem; color: var(--faint); }
nav ol { margin: 0; padding-left: 1.25rem; } a { color: var(--link); }
nav { padding: .75rem 1rem; border: 1px solid var(--line); border-radius: .5rem; }
p { max-width: 44rem; white-space: pre-line; }
figure { margin: 1rem 0; } figcaption { margin-top: .35rem; color: var(--faint); font-size: .9rem; }
img { display: block; max-width: 100%; height: auto; padding: .5rem; border-radius: .5rem; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
pre { padding: .75rem 1rem; overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; font-size: .85rem; }
"""


class Section(NamedTuple):
    """One part of a report.

    Args:
        title: Its heading, and its line in the table of contents.
        text: Paragraphs, separated by empty lines.
        figures: Pictures, each with a sentence that serves as caption and alternative text.
        table: Rows of cells, the first of them the headings; a float is shown with four digits.
        pre: Text whose spaces matter, such as a recipe.
    """

    title: str
    text: str = ""
    figures: tuple[tuple[Figure, str], ...] = ()
    table: Sequence[Sequence[object]] | None = None
    pre: str = ""


def page(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """Return a report as one self-contained HTML page, to be written as UTF-8.

    Examples:
        >>> text = page("Run 7", [Section("Loss", "It fell & fell.")])
        >>> "<p>It fell &amp; fell.</p>" in text
        True
    """
    contents = "".join(
        f'<li><a href="#section-{number}">{_text(section.title)}</a></li>' for number, section in enumerate(sections, 1)
    )
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Without it a browser asks the server for an icon.
        '<link rel="icon" href="data:,">',
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
        f"<h1>{_text(title)}</h1>",
        f'<p class="subtitle">{_text(subtitle)}</p>' if subtitle else "",
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>' if len(sections) > 1 else "",
        *(_section(section, number) for number, section in enumerate(sections, 1)),
        "</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes in every version of matplotlib."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def _section(section: Section, number: int) -> str:
    paragraphs = (part.strip() for part in section.text.split("\n\n"))
    parts = [
        f'<section id="section-{number}">\n<h2>{_text(section.title)}</h2>',
        *(f"<p>{_text(part)}</p>" for part in paragraphs if part),
        *(_picture(figure, caption) for figure, caption in section.figures),
        _table(section.table) if section.table else "",
        f"<pre>{_text(section.pre)}</pre>" if section.pre else "",
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _picture(figure: Figure, caption: str) -> str:
    source = base64.b64encode(png(figure)).decode("ascii")
    words = _text(caption)
    return (
        f'<figure><img alt="{words}" src="data:image/png;base64,{source}">\n<figcaption>{words}</figcaption></figure>'
    )


def _table(rows: Sequence[Sequence[object]]) -> str:
    head, *body = rows
    headings = "".join(f'<th scope="col">{_cell(cell)}</th>' for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>\n" for row in body)
    table = f"<table>\n<thead><tr>{headings}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table>"
    return f'<div class="wide">{table}</div>'


def _cell(cell: object) -> str:
    return _text(f"{cell:.4g}" if isinstance(cell, float) else str(cell))


def _text(text: str) -> str:
    return html.escape(text, quote=True)

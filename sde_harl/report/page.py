"""Writes HTML: one page that needs no other file and no network.

Text comes in as it is and is escaped here, at the one place where it becomes HTML. Functions that
return HTML have the type `Html`, so that the type checker tells the two apart.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NewType

from sde_harl.outside.text import printable

Html = NewType("Html", str)
MOST_ON_A_LINE = 30
"""Letters of a table's cell that are not broken into lines."""

CSS = """
:root { --paper: #ffffff; --ink: #222222; --soft: #5f6368; --rule: #dadce0; --card: #f6f7f9;
  --c0: #0072b2; --c1: #c04f00; --c2: #00805d; --c3: #b0588a; --c4: #a86f00; --c5: #2f8cc0;
  --c6: #6f6f6f; color-scheme: light; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e8eaed; --soft: #9aa0a6;
  --rule: #3c4043; --card: #1f2226; --c0: #4aa8e0; --c1: #ff8a3d; --c2: #2fc79a; --c3: #e39cc6;
  --c4: #f0b840; --c5: #8fd0f5; --c6: #a8a8a8; color-scheme: dark; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 90rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { margin: .5rem 0; max-width: 48rem; } .soft, figcaption, .card span { color: var(--soft); }
a { color: var(--c0); } nav a { display: inline-block; margin-right: 1rem; }
.cards { display: grid; gap: .75rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.cards.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: .5rem;
  padding: .75rem 1rem; }
.card b { display: block; font-size: 1.05rem; } .card span { display: block; font-size: .9rem; }
.card strong { font-size: 1.5rem; display: block; line-height: 1.3; }
.panels { display: grid; gap: 1rem 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); }
figure { margin: .5rem 0; min-width: 0; } figure svg { width: 100%; max-width: 32rem; height: auto;
  display: block; font-family: system-ui, sans-serif; }
figcaption { font-size: .85rem; max-width: 32rem; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .875rem; margin: .5rem 0;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; white-space: nowrap; }
td.long { white-space: normal; min-width: 16rem; max-width: 28rem; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; }
th { white-space: normal; vertical-align: bottom; }
summary { cursor: pointer; margin: .5rem 0; } footer { margin: 3rem 0 1rem; font-size: .85rem; }
"""


def text(value: object) -> Html:
    """Returns text as HTML, whatever stands in it."""
    return Html(html.escape(printable(str(value), keep="\n")))


def tag(name: str, content: Html, css_class: str = "") -> Html:
    if css_class:
        return Html(f'<{name} class="{css_class}">{content}</{name}>')
    return Html(f"<{name}>{content}</{name}>")


def join(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def paragraph(sentence: object, css_class: str = "") -> Html:
    return tag("p", text(sentence), css_class)


def heading(title: object, level: int = 3) -> Html:
    return tag(f"h{level}", text(title))


def section(name: str, title: str, parts: Iterable[Html]) -> Html:
    """Returns a section; `name` is its anchor, a word of ours."""
    return Html(f'<section id="{name}">{heading(title, 2)}{join(parts)}</section>')


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """Returns a table. Columns whose cells all look like numbers are aligned right."""
    cells = [[str(cell) for cell in row] for row in rows]
    right = [
        bool(cells) and all(_looks_like_a_number(row[column]) for row in cells)
        for column in range(len(head))
    ]
    lines = [join(_cell("th", each, r) for each, r in zip(head, right, strict=True))]
    for row in cells:
        lines.append(join(_cell("td", each, r) for each, r in zip(row, right, strict=True)))
    return tag("div", tag("table", join(tag("tr", line) for line in lines)), "wide")


def _cell(name: str, value: object, right: bool) -> Html:
    css_class = ""
    if right:
        css_class = "n"
    elif len(str(value)) > MOST_ON_A_LINE:
        css_class = "long"
    return tag(name, text(value), css_class)


def _looks_like_a_number(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit() or (cell[:1] in "+-\u2212" and cell[1:2].isdigit())


def panel(svg: str, caption: str) -> Html:
    """Returns a figure with a caption; `svg` is what svg.py made."""
    return tag("figure", Html(f"{svg}<figcaption>{text(caption)}</figcaption>"))


def panels(items: Iterable[Html]) -> Html:
    return tag("div", join(items), "panels")


def details(summary: object, content: Html) -> Html:
    return Html(f"<details><summary>{text(summary)}</summary>{content}</details>")


def card(name: object, value: object, lines: Iterable[object]) -> Html:
    """Returns a card with a name, the value that is read first, and lines below it."""
    below = join(tag("span", text(line)) for line in lines)
    return tag("div", Html(f"<b>{text(name)}</b><strong>{text(value)}</strong>{below}"), "card")


def page(title: str, body: Iterable[Html], reload_s: int = 0) -> str:
    """Returns the whole page; a browser loads it anew after `reload_s` seconds, 0: never."""
    reload = ""
    if reload_s:
        reload = f'<meta http-equiv="refresh" content="{reload_s}">'
    # Nothing that a record holds can load or run anything, even if it got past the escaping.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{reload}<title>{text(title)}</title><style>{CSS}</style></head>"
        f"<body>{join(body)}</body></html>\n"
    )

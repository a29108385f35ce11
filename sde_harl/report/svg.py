"""Turns figures into SVG that stands in a page and takes the page's colours, by day and by night.

SVG, because its lines and letters stay sharp at any size, it needs no program of its own in the
page, and a panel takes 5 to 30 kB; a bundled plotting library takes 1 to 4 MB.
"""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING

from sde_harl.analysis.figures import COLOURS, INK, RULE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = (4.6, 3.0)
"""Inches of a panel. A phone shows it at four fifths of that, where letters are still read."""
THEME = {
    **{colour: f"var(--c{number})" for number, colour in enumerate(COLOURS)},
    INK: "var(--ink)",
    RULE: "var(--rule)",
}
"""The page's variables in place of the figures' colours."""


def as_svg(figure: Figure, title: str) -> str:
    """Returns the figure as an <svg> element; `title` tells those who don't see it what it is."""
    from matplotlib import rc_context

    stream = io.StringIO()
    # The title salts the names of clips and markers, so that two figures of a page share none.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # Numbered by matplotlib from 1 in each figure; a page may have an id once.
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    text = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, variable in THEME.items():
        text = text.replace(colour, variable)
    width, height = (72 * each for each in figure.get_size_inches())
    opening = (
        f'<svg role="img" aria-label="{html.escape(title)}" viewBox="0 0 {width:g} {height:g}"'
        ' xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg">'
    )
    return opening + text[text.index(">") + 1 :]

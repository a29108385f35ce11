"""The panel beside a game's picture: what each agent's last decision has cost.

N agents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from sde_harl.drawing.canvas import BRIGHT, DIM, FOE, GROUND, Colour, Picture, font

MOST_HEIGHT = 480
"""Pixels; a taller picture is made smaller."""
WIDTH = 250
MARGIN = 12
HEAD = 86
"""Pixels above the headings of the agents' rows."""
HEADINGS = 14
MOST_ROW = 24
LEAST_ROW = 13
MULTIPLE = 2
"""Sides of pictures are multiples of it: codecs of videos halve the resolution of colours."""


class AgentRow(NamedTuple):
    """One agent's row of the panel."""

    name: str
    colour: Colour
    alive: bool
    sent_bytes: float
    """Payload of its message for the last decision; 0 where there was none."""
    age: str
    """How old the latent was that the decision used."""


class Panel(NamedTuple):
    """The contents of the panel."""

    title: str
    lines: tuple[str, ...]
    """Lines below the title, at most three."""
    rows: Sequence[AgentRow]


def with_panel(picture: Picture, panel: Panel) -> Picture:
    """Returns the picture with the panel to its right."""
    picture = _at_most(picture, MOST_HEIGHT)
    rows = max(len(panel.rows), 1)
    height = max(len(picture), HEAD + HEADINGS + MARGIN + rows * LEAST_ROW)
    height += -height % MULTIPLE
    width = picture.shape[1] + WIDTH
    width += -width % MULTIPLE
    image = Image.new("RGB", (width, height), GROUND)
    image.paste(Image.fromarray(picture), (0, (height - len(picture)) // 2))
    draw = ImageDraw.Draw(image)
    left = picture.shape[1] + MARGIN
    draw.text((left, 10), panel.title, fill=BRIGHT, font=font(14))
    for number, line in enumerate(panel.lines):
        draw.text((left, 30 + 16 * number), line, fill=DIM, font=_fitting(draw, line))
    for at, heading in ((14, "agent"), (104, "bytes"), (200, "latent")):
        draw.text((left + at, HEAD - 4), heading, fill=DIM, font=font(10))
    row_height = min(MOST_ROW, (height - HEAD - HEADINGS - MARGIN) // rows)
    most = max([each.sent_bytes for each in panel.rows] + [1.0])
    for number, row in enumerate(panel.rows):
        _write_row(draw, row, left=left, top=HEAD + HEADINGS + number * row_height, most=most)
    return np.asarray(image)


def _fitting(draw: ImageDraw.ImageDraw, text: str) -> Any:
    """Returns the largest font, of 12 pixels or less, in which a text fits into the panel."""
    for size in range(12, 7, -1):
        if draw.textlength(text, font=font(size)) <= WIDTH - 2 * MARGIN:
            break
    return font(size)


def _at_most(picture: Picture, height: int) -> Picture:
    """Returns the picture, made smaller where it is taller than `height`."""
    if len(picture) <= height:
        return picture
    width = round(picture.shape[1] * height / len(picture))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def _write_row(
    draw: ImageDraw.ImageDraw, row: AgentRow, *, left: int, top: int, most: float
) -> None:
    """Writes an agent's row: its role's colour, name, bytes as a bar and as a number, and age."""
    ink = BRIGHT
    if not row.alive:
        ink = DIM
    small = font(11)
    draw.rectangle((left, top + 2, left + 8, top + 10), fill=row.colour if row.alive else DIM)
    draw.text((left + 14, top), row.name[:14], fill=ink, font=small)
    bar = left + 104
    if row.sent_bytes > 0:
        length = round(50 * row.sent_bytes / most)
        draw.rectangle((bar, top + 4, bar + length, top + 8), fill=row.colour)
    draw.text((bar + 56, top), _bytes(row.sent_bytes), fill=ink, font=small)
    late = row.age not in ("", "now")
    draw.text((bar + 96, top), row.age, fill=FOE if late else DIM, font=small)


def _bytes(size: float) -> str:
    if not size:
        return "-"
    return f"{size:,.0f} B"

"""A picture that is drawn in a game's own coordinates.

Shapes are drawn at twice the picture's size, which is then halved: that smooths their edges.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
"""(H, W, 3), red, green, blue."""
Colour = tuple[int, int, int]
Point = tuple[float, float]

FINER = 2
GROUND: Colour = (27, 30, 36)
DIM: Colour = (120, 126, 138)
BRIGHT: Colour = (235, 237, 240)
FOE: Colour = (232, 76, 61)
# Of equal lightness and told apart by colour-blind eyes (Okabe and Ito), without the reds: those
# are the opponents'.
ROLE_COLOURS: tuple[Colour, ...] = (
    (86, 180, 233),
    (240, 228, 66),
    (0, 190, 140),
    (204, 121, 167),
    (230, 159, 0),
    (150, 160, 255),
    (170, 220, 120),
    (200, 200, 200),
)


class View(NamedTuple):
    """The part of the game's plane that a picture shows; y grows upwards."""

    left: float
    bottom: float
    right: float
    top: float


class Canvas:
    """One picture that is being drawn, `width` pixels wide."""

    def __init__(self, view: View, *, width: int, ground: Colour = GROUND) -> None:
        self._view = view
        self._scale = width * FINER / (view.right - view.left)
        height = round(width * (view.top - view.bottom) / (view.right - view.left))
        self._image = Image.new("RGB", (width * FINER, height * FINER), ground)
        # RGBA lets a shape be seen through.
        self._draw = ImageDraw.Draw(self._image, "RGBA")

    def circle(
        self,
        centre: Point,
        radius: float,
        *,
        fill: Colour | None = None,
        edge: Colour | None = None,
        edge_px: float = 1.5,
        opacity: float = 1.0,
    ) -> None:
        """Draws a disc, or a ring where `fill` is None."""
        x, y = self._place(centre)
        reach = radius * self._scale
        self._draw.ellipse(
            (x - reach, y - reach, x + reach, y + reach),
            fill=_with(fill, opacity),
            outline=_with(edge, opacity),
            width=round(edge_px * FINER),
        )

    def polygon(self, points: list[Point], colour: Colour, *, opacity: float = 1.0) -> None:
        """Fills a polygon."""
        self._draw.polygon([self._place(each) for each in points], fill=_with(colour, opacity))

    def line(
        self, start: Point, end: Point, colour: Colour, *, px: float = 1.5, opacity: float = 1.0
    ) -> None:
        """Draws a straight line, `px` pixels wide."""
        places = (self._place(start), self._place(end))
        self._draw.line(places, fill=_with(colour, opacity), width=round(px * FINER))

    def box(self, low: Point, high: Point, colour: Colour, *, opacity: float = 1.0) -> None:
        """Fills the box between its lower left and its upper right corner."""
        left, bottom = self._place(low)
        right, top = self._place(high)
        self._draw.rectangle((left, top, right, bottom), fill=_with(colour, opacity))

    def text(self, centre: Point, text: str, colour: Colour, *, px: int = 11) -> None:
        """Writes a text whose middle is at `centre`."""
        self._draw.text(self._place(centre), text, fill=colour, font=font(px * FINER), anchor="mm")

    def picture(self) -> Picture:
        """Returns what has been drawn."""
        return np.asarray(self._image.reduce(FINER))

    def _place(self, point: Point) -> Point:
        x, y = point
        return (x - self._view.left) * self._scale, (self._view.top - y) * self._scale


@functools.cache
def font(px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Returns the font that comes with Pillow: none has to be installed."""
    return ImageFont.load_default(px)


def _with(colour: Colour | None, opacity: float) -> tuple[int, int, int, int] | None:
    if colour is None:
        return None
    return (*colour, round(255 * opacity))

"""A picture as text: two pixels in each letter of a terminal."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sde_harl.drawing.canvas import Picture

HOME = "\x1b[H\x1b[J"
"""Moves to the upper left corner, and clears the terminal."""
RESET = "\x1b[0m"
UPPER_HALF = "\u2580"


def as_text(picture: Picture, *, columns: int, lines: int) -> str:
    """Returns the picture as at most `lines` lines of at most `columns` letters, in 24-bit colours.

    A letter shows its upper half in the foreground's colour and its lower half in the ground's.
    """
    height, width = picture.shape[:2]
    factor = min(columns / width, 2 * lines / height)
    size = (max(1, int(width * factor)), max(1, int(height * factor / 2)) * 2)
    pixels = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    rows = [
        "".join(
            f"\x1b[38;2;{r};{g};{b};48;2;{red};{green};{blue}m{UPPER_HALF}"
            for (r, g, b), (red, green, blue) in zip(upper, lower)
        )
        for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist())
    ]
    return (RESET + "\n").join(rows) + RESET

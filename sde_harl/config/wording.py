"""How values and keys appear in error lines: always short, and always on one line."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = 60
_SHORT.maxother = 60
MOST_LETTERS = 63


def brief(raw: Any) -> str:
    """Returns any value as one short line, even where YAML's aliases made it huge or endless."""
    # Arrays write each of their rows on a line of its own.
    text = _SHORT.repr(raw).replace("\n", " ")
    if len(text) <= MOST_LETTERS:
        return text
    return f"{text[: MOST_LETTERS - 3]}..."


def shown(text: str) -> str:
    """Returns a key, file name or message as it is, or quoted where it would break the line."""
    if text and text.isprintable():
        return text
    return repr(text)


def did_you_mean(word: str, valid: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns "; did you mean X?" for the nearest valid word, or nothing where none is near."""
    # difflib takes time with the square of the length, and a word may be a whole file.
    near = difflib.get_close_matches(word[:80], valid, 1, cutoff)
    if not near:
        return ""
    return f"; did you mean {near[0]}?"

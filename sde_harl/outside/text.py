"""Text that this program did not write: how it is printed, and how JSON is read.

Names, messages and files come from users, other hosts and strangers. Nothing in them may act on a
terminal or mean two things.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def printable(text: str, keep: str = "") -> str:
    """Returns the text with each character that doesn't print as an escape, but those in `keep`.

    Line breaks, escape sequences of terminals and marks that turn the writing direction are such
    characters, and halves of surrogate pairs, which no terminal could be sent.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else _escape(each) for each in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def read_text(path: Path, most_bytes: int) -> str:
    """Returns the text of a file in UTF-8.

    Raises OSError, and ValueError for a file that is larger: some, such as /dev/zero, have no end.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"more than {most_bytes:,} bytes")
    return content.decode()


def strict_json(text: str | bytes) -> Any:
    """Returns the value of a JSON text.

    Raises ValueError for what is not JSON, for a key that is given twice, for NaN and infinities,
    which Python reads although JSON has no such numbers, and for brackets nested too deep.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python takes the last of two equal keys without a word; another reader may take the first.
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:60]!r} is given twice")
        found[name] = value
    return found


def _finite(number: str) -> float:
    # 1e999 is JSON, but Python makes an infinity of it.
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number[:20]} is beyond the range of numbers")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")

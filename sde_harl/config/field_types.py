"""The types of configuration values, and the spellings of each in YAML and on the command line.

A value that can't be read as its type raises ValueError, which pydantic collects.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

UNPRINTABLE = "unprintable"
"""The type of the error for text that would break the line it is printed on."""


EXTREME = "extreme"
"""The type of the error for a number that learning can't compute with."""
# Nets compute in float32, which ends at 3e38 and at 1e-38.
LARGEST = 1e30
LEAST = 1e-30


def as_number(raw: Any) -> float:
    """Reads a number. YAML 1.1 takes 3e-4 for text, so text that spells a number is one."""
    # In Python True is the number 1; in a configuration it is a mistake.
    if isinstance(raw, bool) or not isinstance(raw, (str, int, float)):
        raise ValueError("not a number")
    try:
        return float(raw)
    except OverflowError as error:  # a whole number beyond the range of floats
        raise ValueError("not a number") from error


def as_whole_number(raw: Any) -> int:
    """Reads a whole number. 2.0 and 1e6 are whole numbers too."""
    number = as_number(raw)
    if not number.is_integer():
        raise ValueError("not a whole number")
    if isinstance(raw, int):
        return raw  # a float would round beyond 2**53
    return int(number)


def as_text(raw: Any) -> str:
    """Reads text. A number becomes text: an experiment may be called 7."""
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return str(raw)
    if not isinstance(raw, str):
        raise ValueError("not text")
    return raw


def as_groups(raw: Any) -> tuple[tuple[int, ...], ...]:
    """Reads lists of agent indices."""
    if not isinstance(raw, (list, tuple)) or not all(isinstance(e, (list, tuple)) for e in raw):
        raise ValueError("not a list of lists")
    return tuple(tuple(as_whole_number(agent) for agent in group) for group in raw)


def as_assignment(raw: Any) -> dict[int, int]:
    """Reads a map of agent to rank. An agent given twice, as 0 and as "0", is a mistake."""
    if not isinstance(raw, dict):
        raise ValueError("not a map")
    ranks = {as_whole_number(agent): as_whole_number(rank) for agent, rank in raw.items()}
    if len(ranks) < len(raw):
        raise ValueError("an agent is given twice")
    return ranks


def _printable(text: str) -> str:
    if not (text and text.isprintable()):
        raise PydanticCustomError(UNPRINTABLE, "empty or not printable")
    return text


def _not_extreme(number: float) -> float:
    if number and not LEAST <= abs(number) <= LARGEST:
        raise PydanticCustomError(EXTREME, "beyond what float32 holds")
    return number


TEXT = BeforeValidator(as_text)
"""For choices: Annotated[Literal["a", "b"], TEXT]."""

Number = Annotated[float, BeforeValidator(as_number), AfterValidator(_not_extreme)]
WholeNumber = Annotated[int, BeforeValidator(as_whole_number)]
Text = Annotated[str, TEXT, AfterValidator(_printable)]
Groups = Annotated[tuple[tuple[int, ...], ...], BeforeValidator(as_groups)]
Assignment = Annotated[dict[int, int], BeforeValidator(as_assignment)]

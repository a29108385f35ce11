"""Turns pydantic's errors into this program's words: "expected X" for each wrong key."""

from __future__ import annotations

import math

from pydantic import ValidationError

from sde_harl.config.field_types import EXTREME, LARGEST, LEAST, UNPRINTABLE
from sde_harl.config.keys import Bounds, Key, spelt
from sde_harl.config.schema import PROFILES, LinkProfile

# pydantic's names of the errors of a number that has the right type.
OUT_OF_BOUNDS = ("greater_than", "greater_than_equal", "less_than_equal", "finite_number")

KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "lists of agent indices",
    dict: "a map of agent to rank, each agent once",
    LinkProfile: (
        f"one of {', '.join(PROFILES)}, or some of loss (0 to 0.9), delay_ms and jitter_ms"
    ),
}


def expectations(section: str, keys: dict[str, Key], error: ValidationError) -> dict[str, str]:
    """Returns what each wrong key of a section should have been, by flat name."""
    found: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        # The first part of a location is the field. More parts stand inside a link's profile.
        name = spelt(str(problem["loc"][0]))
        if section:
            name = f"{section}.{name}"
        found.setdefault(name, _expected(keys[name], problem["type"]))
    return found


def _expected(key: Key, error_type: str) -> str:
    if key.kind in (int, float) and error_type in OUT_OF_BOUNDS:
        return _range(key.bounds)
    if error_type == EXTREME:
        return f"0, or a number from {LEAST:g} to {LARGEST:g}"
    if error_type == "literal_error":
        return f"one of {', '.join(key.choices)}"
    if error_type == UNPRINTABLE:
        return "text that is neither empty nor holds control characters"
    return KINDS[key.kind]


def _range(bounds: Bounds) -> str:
    if bounds.above > -math.inf and bounds.most < math.inf:
        return f"a number above {bounds.above}, {bounds.most} at most"
    if bounds.above > -math.inf:
        return f"a number above {bounds.above}"
    if bounds.most == math.inf:
        return f"{bounds.least} or more"
    return f"{bounds.least} to {bounds.most}"

"""Says what the lists in /meta hold, which a stranger may have written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _is_text(item: Any) -> bool:
    return isinstance(item, str)


def _is_count(item: Any) -> bool:
    return type(item) is int and 0 <= item < 1 << 31  # True is an int too


def _is_host(item: Any) -> bool:
    # Older records hold the host's name alone.
    return isinstance(item, (str, dict))


def _is_group(item: Any) -> bool:
    return isinstance(item, list) and all(map(_is_count, item))


ITEMS: dict[str, Callable[[Any], bool]] = {
    "agents": _is_text,
    "groups": _is_group,
    "hosts": _is_host,
    "obs_sizes": _is_count,
    "unit_types": _is_text,
}
"""The lists in /meta, and what each of their items is."""

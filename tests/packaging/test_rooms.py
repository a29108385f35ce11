"""A room of the package imports only the rooms below it, as docs/architecture.md lists them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sde_harl"
# The package itself is its version; a __main__ is the command line, in whichever room.
PROGRAM = "__main__"
OUTSIDE = {"__init__", PROGRAM}


def listed_rooms() -> list[str]:
    """Returns the rooms of the table, from top to bottom."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("| room |")[2].partition("\n\n")[0]
    return [
        name.strip("/").removesuffix(".py") for name in re.findall(r"^\| `([^`]+)`", table, re.M)
    ]


ROOMS = listed_rooms()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path: Path) -> Iterator[str]:
    """Gives the rooms that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module == "sde_harl":
            names = [f"sde_harl.{each.name}" for each in node.names if each.name != "__version__"]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        for name in names:
            if name.startswith("sde_harl."):
                yield name.split(".")[1]


def test_the_table_lists_every_room() -> None:
    there = {room_of(path) for path in PACKAGE.rglob("*.py")} - OUTSIDE
    assert set(ROOMS) == there
    assert len(ROOMS) == len(there)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    below = {*ROOMS[ROOMS.index(room) :], *OUTSIDE}
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) == room and path.stem != PROGRAM:
            assert set(imported_rooms(path)) <= below, path

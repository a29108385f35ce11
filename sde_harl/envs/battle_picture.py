"""Draws a battle of SMAX or SMAC: units with their health, their shots, and who is seen.

U units, allies first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.drawing.canvas import BRIGHT, DIM, FOE, Canvas, Colour, Picture, Point, View

WIDTH = 480
RIM = 0.6
"""Width of the ground around the field, in the field's units."""
HEALTHY: Colour = (110, 205, 110)
HURT: Colour = (235, 90, 70)
FIELD: Colour = (36, 40, 48)
SEEN_GROUND: Colour = (54, 62, 75)
LEGEND = "thick line: fires    thin: aims    hollow: unseen    cross: dead    light ground: seen"
LEGEND_PX = 18
"""Height of the strip below the field that holds the legend."""
LETTERS = {
    "marine": "m",
    "marauder": "M",
    "medivac": "+",
    "stalker": "s",
    "zealot": "Z",
    "colossus": "C",
    "zergling": "z",
    "baneling": "b",
    "hydralisk": "h",
    "spine crawler": "S",
}
"""By the name of a unit's type."""


class Battle(NamedTuple):
    """The drawn state of a battle; every field but the last two has an entry for each unit."""

    positions: NDArray[Any]
    """(U, 2)"""
    alive: NDArray[np.bool_]
    health: NDArray[Any]
    """Share of its full health, from 0 to 1."""
    types: Sequence[str]
    """Keys of LETTERS; of another type nothing is written."""
    radius: NDArray[Any]
    sight: NDArray[Any]
    """How far it sees; of opponents it isn't read."""
    target: NDArray[Any]
    """The unit that it was told to attack; its own number where it was told something else."""
    fired: NDArray[np.bool_]
    """It fired at its target in this step."""
    allies: int
    """How many of the units are."""
    size: tuple[float, float]
    """Width and height of the field."""


def draw(battle: Battle, colours: Sequence[Colour]) -> Picture:
    """Returns the battle as a picture; `colours` are the allies'."""
    right, top = battle.size
    strip = LEGEND_PX * (right + 2 * RIM) / WIDTH
    canvas = Canvas(View(-RIM, -RIM - strip, right + RIM, top + RIM), width=WIDTH)
    canvas.box((0, 0), battle.size, FIELD)
    canvas.text((right / 2, -(RIM + strip) / 2), LEGEND, DIM, px=11)
    alive = np.flatnonzero(battle.alive).tolist()
    positions = [(float(x), float(y)) for x, y in battle.positions]
    ours = [unit for unit in alive if unit < battle.allies]
    # One tone for all that the allies see together: overlapping discs of a see-through colour
    # would look like circles of their own.
    for unit in ours:
        canvas.circle(positions[unit], float(battle.sight[unit]), fill=SEEN_GROUND)
    for unit in set(range(len(positions))) - set(alive):
        _draw_dead(canvas, positions[unit], float(battle.radius[unit]))
    _draw_sight(canvas, battle, ours, alive=alive, positions=positions)
    team = [*colours, *[FOE] * (len(positions) - battle.allies)]
    _draw_shots(canvas, battle, team, positions=positions)
    for unit in alive:
        is_seen = unit < battle.allies or bool(_sees(battle, ours, unit).any())
        _draw_unit(canvas, battle, unit, place=positions[unit], colour=team[unit], seen=is_seen)
    return canvas.picture()


def _sees(battle: Battle, ours: Sequence[int], unit: int) -> NDArray[np.bool_]:
    """Returns which of the allies `ours` see a unit."""
    places = battle.positions
    distance = np.linalg.norm(places[list(ours)] - places[unit], axis=-1)
    seen: NDArray[np.bool_] = distance < battle.sight[list(ours)]
    return seen


def _draw_sight(
    canvas: Canvas,
    battle: Battle,
    ours: Sequence[int],
    *,
    alive: Sequence[int],
    positions: Sequence[Point],
) -> None:
    """Draws a faint line from each ally to each opponent that it sees."""
    for foe in alive:
        if foe >= battle.allies:
            for unit, sees in zip(ours, _sees(battle, ours, foe)):
                if sees:
                    canvas.line(positions[unit], positions[foe], BRIGHT, px=0.7, opacity=0.10)


def _draw_shots(
    canvas: Canvas, battle: Battle, team: Sequence[Colour], *, positions: Sequence[Point]
) -> None:
    """Draws who fired at whom in this step, and faintly who aims and reloads."""
    for unit, target in enumerate(battle.target.tolist()):
        if target == unit or not battle.alive[unit]:
            continue
        start = positions[unit]
        end = positions[target]
        if battle.fired[unit]:
            canvas.line(start, end, team[unit], px=2.2, opacity=0.95)
            canvas.circle(end, 0.35, fill=team[unit], opacity=0.8)
        else:
            canvas.line(start, end, team[unit], px=0.9, opacity=0.35)


def _draw_dead(canvas: Canvas, place: Point, radius: float) -> None:
    x, y = place
    canvas.line((x - radius, y - radius), (x + radius, y + radius), DIM, px=1.5, opacity=0.5)
    canvas.line((x - radius, y + radius), (x + radius, y - radius), DIM, px=1.5, opacity=0.5)


def _draw_unit(
    canvas: Canvas, battle: Battle, unit: int, *, place: Point, colour: Colour, seen: bool
) -> None:
    """Draws a unit, its type's letter and its health; one that no ally sees is hollow."""
    x, y = place
    radius = float(battle.radius[unit]) * 1.15
    if seen:
        canvas.circle(place, radius, fill=colour, edge=(15, 17, 20), edge_px=1)
    else:
        canvas.circle(place, radius, edge=colour, edge_px=1.5, opacity=0.7)
    letter = LETTERS.get(battle.types[unit], "")
    canvas.text(place, letter, (15, 17, 20) if seen else colour, px=11)
    health = float(battle.health[unit])
    bottom = y + radius + 0.15
    canvas.box((x - 0.7, bottom), (x + 0.7, bottom + 0.22), (15, 17, 20))
    shade = HEALTHY if health > 0.5 else HURT
    canvas.box((x - 0.7, bottom), (x - 0.7 + 1.4 * health, bottom + 0.22), shade)

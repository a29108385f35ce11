"""Draws a battle of SMAX: units with their health, their shots, and who is seen.

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
LETTERS = ("m", "M", "s", "Z", "z", "h")
"""Of the unit types, as JaxMARL abbreviates them."""


class Battle(NamedTuple):
    """What is drawn of a battle: JaxMARL's state, and what its game knows of types of units."""

    state: Any
    """JaxMARL's, as numpy arrays."""
    allies: int
    side: float
    """Length of the square field's side."""
    radius: NDArray[Any]
    """(U,) of each unit, as is all that follows."""
    sight: NDArray[Any]
    full_health: NDArray[Any]
    reload_s: NDArray[Any]
    target: NDArray[Any]
    """The unit that it was told to attack; its own number where it was told something else."""
    step_s: float
    """Time of the game that a step takes."""


def draw(battle: Battle, colours: Sequence[Colour]) -> Picture:
    """Returns the battle as a picture; `colours` are the allies'."""
    state = battle.state
    canvas = Canvas(View(-RIM, -RIM, battle.side + RIM, battle.side + RIM), width=WIDTH)
    canvas.box((0, 0), (battle.side, battle.side), FIELD)
    alive = np.flatnonzero(state.unit_alive).tolist()
    positions = [(float(x), float(y)) for x, y in state.unit_positions]
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
    places = battle.state.unit_positions
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
    state = battle.state
    # A weapon that has just fired has nearly all of its reloading time before it.
    fired = state.unit_weapon_cooldowns > battle.reload_s - battle.step_s
    for unit, target in enumerate(battle.target.tolist()):
        if target == unit or not state.unit_alive[unit]:
            continue
        start = positions[unit]
        end = positions[target]
        if fired[unit]:
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
    letter = LETTERS[int(battle.state.unit_types[unit])]
    canvas.text(place, letter, (15, 17, 20) if seen else colour, px=11)
    health = float(battle.state.unit_health[unit] / battle.full_health[unit])
    bottom = y + radius + 0.15
    canvas.box((x - 0.7, bottom), (x + 0.7, bottom + 0.22), (15, 17, 20))
    shade = HEALTHY if health > 0.5 else HURT
    canvas.box((x - 0.7, bottom), (x - 0.7 + 1.4 * health, bottom + 0.22), shade)

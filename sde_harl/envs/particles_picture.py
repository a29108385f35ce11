"""Draws a world of particles: agents, what they speak, and landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sde_harl.drawing.canvas import BRIGHT, DIM, FOE, Canvas, Colour, Picture, Point, View

WIDTH = 480
SIDE = 1.3
"""Half of the side that is always shown; more where somebody is further out."""
RIM = 1.15
DARK: Colour = (15, 17, 20)
LIGHTEST = 230.0
"""Of a landmark's red, green and blue."""
WORD_PX = 14


class Particle(NamedTuple):
    """An agent or a landmark."""

    place: Point
    radius: float
    colour: Colour
    goal: Colour | None = None
    """Colour of the landmark that it is to go to."""
    word: str = ""
    """What it says."""


def draw(landmarks: Sequence[Particle], agents: Sequence[Particle]) -> Picture:
    """Returns the world as a picture; agents stand before landmarks."""
    places = [each.place for each in (*landmarks, *agents)]
    side = max(SIDE, RIM * float(np.abs(places).max()))
    canvas = Canvas(View(-side, -side, side, side), width=WIDTH)
    # Forests are larger than what lies in them.
    for each in sorted(landmarks, key=lambda landmark: -landmark.radius):
        canvas.circle(each.place, each.radius, fill=each.colour)
    for each in agents:
        canvas.circle(each.place, each.radius, fill=each.colour, edge=DARK, edge_px=1)
        if each.goal:
            canvas.circle(each.place, each.radius, edge=each.goal, edge_px=3)
        if each.word:
            x, y = each.place
            canvas.text((x, y + each.radius + 0.04 * side), each.word, BRIGHT, px=WORD_PX)
    return canvas.picture()


def draw_world(world: Any, team: Sequence[Any], colours: Sequence[Colour]) -> Picture:
    """Returns a world of mpe2's as a picture; `colours` are those of the team's agents."""
    own = {id(agent): colour for agent, colour in zip(team, colours)}
    # The fields themselves: mpe2's properties of these names raise where there is no goal.
    told = [vars(agent) for agent in world.agents if vars(agent).get("_goal_b")]
    goals = {id(each["_goal_a"]): _lit(each["_goal_b"].color) for each in told}
    landmarks = [
        Particle(place=_place(each), radius=each.size, colour=_lit(each.color))
        for each in world.landmarks
    ]
    agents = [
        Particle(
            place=_place(each),
            radius=each.size,
            colour=own.get(id(each), FOE),
            goal=goals.get(id(each)),
            word=_word(each),
        )
        for each in world.agents
    ]
    return draw(landmarks, agents)


def _place(entity: Any) -> Point:
    x, y = entity.state.p_pos
    return float(x), float(y)


def _lit(colour: Any) -> Colour:
    """Returns mpe2's colour, made as light as can be seen on a dark ground; grey is one grey."""
    shares = np.asarray(colour, float)
    if np.ptp(shares) == 0:
        return DIM
    red, green, blue = (shares / shares.max() * LIGHTEST).astype(int).tolist()
    return red, green, blue


def _word(agent: Any) -> str:
    """Returns the word that an agent says loudest, as a letter; "" where it says nothing."""
    if agent.silent or not np.any(agent.state.c):
        return ""
    return chr(ord("A") + int(np.argmax(agent.state.c)))

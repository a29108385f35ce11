"""Draws a position of football from above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sde_harl.drawing.canvas import BRIGHT, FOE, Canvas, Colour, Picture, View

WIDTH = 640
HALF_LENGTH = 1.0
HALF_WIDTH = 0.42
RIM = 0.06
GRASS: Colour = (30, 58, 40)
LINE: Colour = (110, 140, 118)
OUR_SIDE: Colour = (150, 170, 200)
"""Of our players that no agent controls."""
GOAL = 0.044
"""Half of a goal's width."""
BOX_DEPTH = 0.28
BOX_WIDTH = 0.24
DARK: Colour = (15, 17, 20)


def draw(observation: dict[str, Any], colours: Sequence[Colour]) -> Picture:
    """Returns gfootball's observation as a picture; `colours` are the agents'."""
    side = HALF_WIDTH + RIM
    canvas = Canvas(View(-HALF_LENGTH - RIM, -side, HALF_LENGTH + RIM, side), width=WIDTH)
    _draw_field(canvas)
    controlled = dict(zip(observation["left_agent_controlled_player"], colours))
    # gfootball's y grows downwards.
    for x, y in observation["right_team"].tolist():
        canvas.circle((x, -y), 0.02, fill=FOE, edge=DARK, edge_px=1)
    for player, (x, y) in enumerate(observation["left_team"].tolist()):
        colour = controlled.get(player, OUR_SIDE)
        canvas.circle((x, -y), 0.02, fill=colour, edge=DARK, edge_px=1)
        if player in controlled:
            canvas.text((x, -y), str(player), DARK, px=10)
    x, y, z = observation["ball"].tolist()
    # A ball in the air looks larger.
    canvas.circle((x, -y), 0.013 + 0.003 * max(z, 0.0), fill=BRIGHT, edge=DARK, edge_px=1)
    ours, theirs = observation["score"]
    canvas.text((0.0, side - RIM / 2), f"{ours} : {theirs}", BRIGHT, px=14)
    return canvas.picture()


def _draw_field(canvas: Canvas) -> None:
    low = (-HALF_LENGTH, -HALF_WIDTH)
    high = (HALF_LENGTH, HALF_WIDTH)
    canvas.box(low, high, GRASS)
    corners = [low, (low[0], high[1]), high, (high[0], low[1]), low]
    _draw_path(canvas, corners)
    canvas.line((0.0, -HALF_WIDTH), (0.0, HALF_WIDTH), LINE, px=1)
    canvas.circle((0.0, 0.0), 0.14, edge=LINE, edge_px=1)
    for end in (-HALF_LENGTH, HALF_LENGTH):
        inner = end - BOX_DEPTH * end
        box = [(end, BOX_WIDTH), (inner, BOX_WIDTH), (inner, -BOX_WIDTH), (end, -BOX_WIDTH)]
        _draw_path(canvas, box)
        canvas.line((end, -GOAL), (end, GOAL), BRIGHT, px=4)


def _draw_path(canvas: Canvas, points: Sequence[tuple[float, float]]) -> None:
    for start, end in zip(points, points[1:]):
        canvas.line(start, end, LINE, px=1)

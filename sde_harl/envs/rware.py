"""Multi-Robot Warehouse (rware 2.0, MIT; Papoudakis et al., NeurIPS 2021).

env.map is "<size>-<agents>ag", with "-easy" or "-hard" for more or fewer requests than agents:
"tiny-2ag" is EPyMARL's "rware-tiny-2ag-v2". Shelves that are asked for are carried to the goals;
each earns 1. Nothing ends an episode but its 500 steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sde_harl.envs.grid_team import GridTeam, Limits
from sde_harl.envs.settings import EnvConfig
from sde_harl.errors import UserError

if TYPE_CHECKING:
    from sde_harl.drawing.canvas import Colour, Picture

STEPS = 500
SIZES = {"tiny": (1, 3), "small": (2, 3), "medium": (2, 5), "large": (3, 5)}
"""Rows and columns of shelves."""
REQUESTS = {"": 1.0, "-easy": 2.0, "-hard": 0.5}
"""Shelves that are asked for at a time, for each agent."""
MAP = re.compile(r"(tiny|small|medium|large)-(\d+)ag(-easy|-hard)?")
AGENTS = range(1, 20)
SHELF: Colour = (70, 78, 92)
ASKED_FOR: Colour = (0, 160, 150)
GOAL: Colour = (120, 110, 70)
AHEAD = {"UP": (0, 1), "DOWN": (0, -1), "LEFT": (-1, 0), "RIGHT": (1, 0)}


class Warehouse(GridTeam):
    """One warehouse."""

    def is_done(self) -> bool:
        return False

    def picture(self, colours: Sequence[Colour]) -> Picture:
        # Here, because a run that nobody watches needs no library that draws.
        from sde_harl.drawing.canvas import BRIGHT, Canvas, View

        env = self._env
        rows, columns = env.grid_size
        canvas = Canvas(View(-0.5, -0.5, columns - 0.5, rows - 0.5), width=420)
        for x, y in env.goals:
            _draw_cell(canvas, (int(x), int(rows - 1 - y)), GOAL)
        for shelf in env.shelfs:
            colour = ASKED_FOR if shelf in env.request_queue else SHELF
            _draw_cell(canvas, (int(shelf.x), int(rows - 1 - shelf.y)), colour)
        for agent, colour in zip(env.agents, colours):
            place = (int(agent.x), int(rows - 1 - agent.y))
            # A robot that carries a shelf has it around itself.
            edge = BRIGHT if agent.carrying_shelf else None
            canvas.circle(place, 0.34, fill=colour, edge=edge, edge_px=2.5)
            x, y = AHEAD[agent.dir.name]
            canvas.line(place, (place[0] + 0.34 * x, place[1] + 0.34 * y), (15, 17, 20), px=3)
        return canvas.picture()


def _draw_cell(canvas: Any, place: tuple[int, int], colour: Colour) -> None:
    x, y = place
    canvas.box((x - 0.44, y - 0.44), (x + 0.44, y + 0.44), colour)


def maps() -> list[str]:
    """Returns some of the values of env.map: those that EPyMARL's authors publish results of."""
    return ["tiny-2ag", "tiny-4ag", "small-4ag"]


def make_game(env_config: EnvConfig) -> Warehouse:
    """Makes one game. Raises UserError for an unknown map and for continuous actions."""
    from rware.warehouse import RewardType
    from rware.warehouse import Warehouse as Rware

    if env_config.continuous_actions:
        raise UserError("env.continuous_actions: rware has discrete actions only")
    match = MAP.fullmatch(env_config.map)
    agents = int(match[2]) if match else 0
    requests = int(agents * REQUESTS[match[3] or ""]) if match else 0
    # With no request there would be nothing to do: rware's "1ag-hard" has none.
    if match is None or agents not in AGENTS or not requests:
        raise UserError(
            "env.map: expected <size>-<agents>ag, then -easy, -hard or neither, with a size of"
            f" {', '.join(SIZES)} and 1 to 19 agents (2 or more for -hard), got {env_config.map!r}"
        )
    rows, columns = SIZES[match[1]]
    env: Any = Rware(
        column_height=8,
        shelf_rows=rows,
        shelf_columns=columns,
        n_agents=agents,
        msg_bits=0,
        sensor_range=1,
        request_queue_size=requests,
        max_inactivity_steps=None,
        max_steps=STEPS,
        reward_type=RewardType.INDIVIDUAL,
    )
    return Warehouse(env, Limits(name=f"rware/{env_config.map}", steps=STEPS, has_win=False))

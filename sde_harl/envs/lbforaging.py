"""Level-Based Foraging (lbforaging 2.0, MIT; Papoudakis et al., NeurIPS 2021).

env.map is "<side>x<side>-<players>p-<foods>f", with "-2s" for agents that see two cells far and
"-coop" for food that only all players together can load: "8x8-2p-2f-coop" is EPyMARL's
"Foraging-8x8-2p-2f-coop-v3". An episode that loads all food is won.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sde_harl.envs.grid_team import GridTeam, Limits
from sde_harl.envs.settings import EnvConfig
from sde_harl.errors import UserError

if TYPE_CHECKING:
    from sde_harl.drawing.canvas import Colour, Picture

STEPS = 50
SEEN = 2
"""Cells that agents see far, on maps that end in -2s."""
MAP = re.compile(r"(\d+)x\1-(\d+)p-(\d+)f(-2s)?(-coop)?")
SIDES = range(5, 20)
PLAYERS = range(2, 10)
FOODS = range(1, 5)
APPLE: Colour = (214, 69, 65)


class Map(NamedTuple):
    """A map, as its name describes it."""

    side: int
    players: int
    foods: int
    sight: int
    coop: bool


class Foraging(GridTeam):
    """One field of food."""

    def is_done(self) -> bool:
        return not self._env.field.any()

    def picture(self, colours: Sequence[Colour]) -> Picture:
        # Here, because a run that nobody watches needs no library that draws.
        from sde_harl.drawing.canvas import BRIGHT, Canvas, View

        rows, columns = self._env.field.shape
        canvas = Canvas(View(-0.5, -0.5, columns - 0.5, rows - 0.5), width=480)
        for number in range(1, columns):
            canvas.line((number - 0.5, -0.5), (number - 0.5, rows - 0.5), (45, 50, 58), px=1)
            canvas.line((-0.5, number - 0.5), (columns - 0.5, number - 0.5), (45, 50, 58), px=1)
        for row in range(rows):
            for column in range(columns):
                level = int(self._env.field[row, column])
                if level:
                    place = (column, rows - 1 - row)
                    canvas.circle(place, 0.32, fill=APPLE)
                    canvas.text(place, str(level), BRIGHT, px=14)
        for player, colour in zip(self._env.players, colours):
            row, column = player.position
            place = (int(column), int(rows - 1 - row))
            canvas.box(
                (place[0] - 0.36, place[1] - 0.36), (place[0] + 0.36, place[1] + 0.36), colour
            )
            canvas.text(place, str(int(player.level)), (15, 17, 20), px=14)
        return canvas.picture()


def maps() -> list[str]:
    """Returns some of the values of env.map: those that EPyMARL's authors publish results of."""
    return ["8x8-2p-2f-coop", "8x8-2p-2f-2s-coop", "10x10-3p-3f", "10x10-3p-3f-2s", "15x15-3p-4f"]


def parse_map(name: str) -> Map:
    """Returns the map of a name. Raises UserError for a name of none."""
    match = MAP.fullmatch(name)
    if match is not None:
        side, players, foods = map(int, match.group(1, 2, 3))
        if side in SIDES and players in PLAYERS and foods in FOODS:
            return Map(
                side=side,
                players=players,
                foods=foods,
                sight=SEEN if match[4] else side,
                coop=match[5] is not None,
            )
    raise UserError(
        "env.map: expected <side>x<side>-<players>p-<foods>f, then -2s, -coop or both, with a side"
        f" of 5 to 19, 2 to 9 players and 1 to 4 foods, got {name!r}"
    )


def make_game(env_config: EnvConfig) -> Foraging:
    """Makes one game. Raises UserError for an unknown map and for continuous actions."""
    from lbforaging.foraging.environment import ForagingEnv, Player

    if env_config.continuous_actions:
        raise UserError("env.continuous_actions: lbforaging has discrete actions only")
    chosen = parse_map(env_config.map)

    class NumberedPlayer(Player):  # type: ignore[misc]  # the base's type is Any
        """A player whose place in a set follows from its number.

        Who loads first is the first of a set of players. By default that follows from their
        addresses in memory, so that the same seed gives other episodes in another process.
        """

        number = 0

        def __hash__(self) -> int:
            return self.number

    env: Any = ForagingEnv(
        players=chosen.players,
        min_player_level=1,
        max_player_level=2,
        min_food_level=1,
        max_food_level=None,
        field_size=(chosen.side, chosen.side),
        max_num_food=chosen.foods,
        sight=chosen.sight,
        max_episode_steps=STEPS,
        force_coop=chosen.coop,
    )
    env.players = [NumberedPlayer() for _ in env.players]
    for number, player in enumerate(env.players):
        player.number = number
    name = f"lbforaging/{env_config.map}"
    return Foraging(env, Limits(name=name, steps=STEPS, has_win=True))

"""Plays the policies of a finished run, one game at a time, for who watches.

The games are those of the run's evaluations: episode k is the first one of evaluation environment
k. N agents.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sde_harl.config.schema import Config
from sde_harl.drawing.canvas import ROLE_COLOURS, Colour, Picture
from sde_harl.envs.base import EnvSpec, VectorEnv
from sde_harl.envs.registry import make, make_watched
from sde_harl.envs.vector.watching import Artist
from sde_harl.link.transport import Transport
from sde_harl.meters.cores import usable_cores
from sde_harl.meters.timing import Stages
from sde_harl.outside.process import interruption
from sde_harl.placement.registry import find_placement
from sde_harl.server.decision_log import Decisions
from sde_harl.training.build import FIRST_EVAL_ENV, build_policies
from sde_harl.training.env_slot import EnvSlot
from sde_harl.training.environments import Environments
from sde_harl.training.episodes import Episodes
from sde_harl.training.publishing import publish

FIRST_VERSION = 1


class Moment(NamedTuple):
    """One position of a game, and what led to it."""

    picture: Picture | None
    """None where the game can't be drawn, or nobody asked for pictures."""
    seed: int
    """The episode's."""
    steps: int
    """Steps so far; at 0 nothing has been decided."""
    total_reward: float
    active: NDArray[np.bool_]
    """(N,), agents that were alive when they decided."""
    decisions: Decisions | None
    """The step's decision, K = 1; None at the beginning."""
    ended: Episodes | None
    """The episode, where it ended here."""
    void: bool = False
    """The game failed, and the episode counts for nothing."""


class Player:
    """The policies that `train.load` names, ready to play."""

    def __init__(self, config: Config, transport: Transport) -> None:
        """Raises UserError for everything that the user can mend."""
        torch.set_num_threads(config.train.threads or len(usable_cores()))
        self._config = config
        self._environments = Environments(config)
        parts = build_policies(config, transport, self._environments)
        self._pool = parts.pool
        self._policy = publish(
            parts.learned, parts.pool, version=FIRST_VERSION, codec=config.codec.name
        ).acting
        self.spec: EnvSpec = parts.spec
        self.colours = _colours(parts.roles.groups)
        """(N,) of each agent's role group."""
        self.pictures_per_s = 0.0
        """Speed at which the pictures are shown; of the episode that was begun last."""

    def play(self, episode: int, *, drawn: bool, replays: Path | None = None) -> Iterator[Moment]:
        """Yields the moments of an episode from its beginning to its end, with pictures or not.

        `replays`: folder for the game's own recording.
        """
        config = self._config
        number = FIRST_EVAL_ENV + episode
        artist: Artist | None = None
        if drawn or replays:
            watched = make_watched(
                config.env, self.colours, seed=config.seed, env=number, replays=replays
            )
            self.pictures_per_s = watched.pictures_per_s
            vector = watched.vector
            artist = watched.artist
        else:
            vector = make(config.env, num_envs=1, seed=config.seed, first_env=number)
        try:
            yield from self._moments(vector, artist)
        finally:
            vector.close()

    def close(self) -> None:
        """Frees what the environments hold."""
        self._environments.close()

    def _moments(self, vector: VectorEnv, artist: Artist | None) -> Iterator[Moment]:
        stages = Stages()
        placement = find_placement(self._config.placement, self._config.policy)
        slot = EnvSlot(
            0,
            vector,
            placement=placement(0, spec=self.spec, pool=self._pool, stages=stages),
            stages=stages,
            note=self._pool.note,
        )
        now = Moment(
            picture=_drawn(artist),
            seed=int(slot.seeds[0]),
            steps=0,
            total_reward=0.0,
            active=slot.step.active[0].copy(),
            decisions=None,
            ended=None,
        )
        yield now
        is_over = False
        while not is_over:
            interruption.check()
            active = slot.step.active[0].copy()
            slot.decide(now.steps, self._policy, None)
            ended = slot.advance()
            is_over = bool(slot.step.terminated[0] | slot.step.truncated[0])
            now = now._replace(
                picture=_drawn(artist),
                steps=now.steps + 1,
                total_reward=now.total_reward + float(slot.step.rewards[0]),
                active=active,
                decisions=self._pool.report().decisions,
                ended=ended,
                void=bool(slot.step.void[0]),
            )
            yield now


def _drawn(artist: Artist | None) -> Picture | None:
    if artist is None:
        return None
    return artist.picture()


def _colours(groups: tuple[tuple[int, ...], ...]) -> list[Colour]:
    """Returns each agent's colour, that of its role group."""
    number = {agent: group for group, agents in enumerate(groups) for agent in agents}
    return [ROLE_COLOURS[number[agent] % len(ROLE_COLOURS)] for agent in sorted(number)]

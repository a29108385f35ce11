"""A battle of SMAC or SMACv2 as a `Game`: what both have in common.

N agents, A actions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec
from sde_harl.envs.settings import EnvConfig
from sde_harl.envs.starcraft.supervisor import GameLostError, Supervisor
from sde_harl.envs.vector.games import Game, ObservationBuffers, Outcome

if TYPE_CHECKING:
    from sde_harl.drawing.canvas import Colour, Picture

NO_OP = 0
"""The only action of a dead agent, and no action of a living one. Action 1 is to stop."""


class Battle(Game):
    """One client with its game, which is started by the first reset."""

    seed_bits = 31
    """What fits the protocol's unsigned seed of 32 bits with room to spare."""
    pictures_per_s = 6.0

    def __init__(
        self, client: Any, env_config: EnvConfig, *, unit_types: tuple[str, ...] = ()
    ) -> None:
        self._client = client
        self._supervisor = Supervisor(client)
        self._with_last_action = env_config.last_action
        self._with_id = env_config.agent_id
        n = client.n_agents
        size = client.get_obs_size()
        size += client.n_actions * self._with_last_action + n * self._with_id
        self.spec = EnvSpec(
            name=f"{env_config.name}/{env_config.map}",
            agents=tuple(f"ally_{i}" for i in range(n)),
            obs_sizes=(size,) * n,
            action_sizes=((client.n_actions,),) * n,
            state_size=client.get_state_size(),
            episode_limit=client.episode_limit,
            continuous=False,
            unit_types=unit_types or ("",) * n,
            has_win=True,
            noop=NO_OP,
        )

    @abstractmethod
    def configurations(self, seed: int) -> Iterator[tuple[Any, ...]]:
        """Yields the arguments of the client's reset for the episode of `seed`.

        The second and later ones are for games that can't place the units of the one before.
        """

    def reset(self, seed: int, out: ObservationBuffers) -> None:
        self._supervisor.begin(seed, self.configurations(seed))
        self._write(out)

    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        try:
            # As Python's own numbers: protobuf takes no others.
            reply = self._supervisor.step(actions[:, 0].tolist())
        except GameLostError:
            return Outcome(reward=0.0, terminated=True, truncated=False, void=True)
        self._write(out)
        return Outcome(
            reward=reply.reward,
            terminated=reply.over and not reply.truncated,
            truncated=reply.truncated,
            won=int(reply.won),
        )

    def picture(self, colours: Sequence[Colour]) -> Picture:
        # Here, because a run that nobody watches needs no library that draws.
        from sde_harl.envs.battle_picture import draw
        from sde_harl.envs.starcraft.view import battle_of

        return draw(battle_of(self._client), colours)

    def record(self, folder: Path) -> bool:
        self._supervisor.replays = folder
        return True

    def close(self) -> None:
        self._supervisor.close()

    def _write(self, out: ObservationBuffers) -> None:
        client = self._client
        parts: list[NDArray[Any]] = [np.asarray(client.get_obs(), np.float32)]  # (N, ...)
        if self._with_last_action:
            parts.append(client.last_action)  # (N, A), one-hot
        if self._with_id:
            parts.append(np.eye(client.n_agents))
        out.obs[:] = np.concatenate(parts, -1)
        out.state[:] = client.get_state()
        out.available_actions[:] = client.get_avail_actions()
        out.active[:] = ~out.available_actions[:, NO_OP]

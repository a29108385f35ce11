"""mpe2's simple_spread as one compiled step for all environments, with mpe2's rules in float32.

JaxMARL's own particle worlds follow the rules of PettingZoo's older MPE where these differ from mpe2's; tests hold this
one to mpe2. Starts are drawn from the same distribution by another generator, so episodes are not mpe2's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_harl.envs.base import EnvConfig, EnvSpec, unknown
from sde_harl.envs.vector.compiled import CompiledVector, JaxOutcome, JaxView, Rules, set_up

N = 3
"""Agents, and landmarks."""
EPISODE_LIMIT = 25
FORCE, MOVES = 5.0, 5
DT, DAMPING = 0.1, 0.25
REACH = 0.3
"""Distance at which two agents touch: twice their size."""
CONTACT_FORCE, CONTACT_MARGIN = 100.0, 1e-3
WORDS = 2
"""Numbers that agents could say to each other; in this scenario all stay silent."""
OTHERS = np.nonzero(~np.eye(N, dtype=bool))[1].reshape(N, -1)
"""(N, N - 1) of each agent."""


class World(NamedTuple):
    """One game. It is one array, because each costs microseconds on its way into a step and out of it."""

    bodies: Any  # (3, N, 2)

    @property
    def agents(self) -> Any:
        """(N, 2) positions."""
        return self.bodies[..., 0, :, :]

    @property
    def speeds(self) -> Any:
        """(N, 2) of the agents."""
        return self.bodies[..., 1, :, :]

    @property
    def landmarks(self) -> Any:
        """(N, 2) positions."""
        return self.bodies[..., 2, :, :]


class Spread(Rules):
    """The rules of simple_spread."""

    background = False

    def __init__(self, continuous: bool) -> None:
        size = 4 + 2 * N + (2 + WORDS) * (N - 1)
        self.spec = EnvSpec(
            name="mpe/simple_spread" + "-continuous" * continuous,
            agents=tuple(f"agent_{i}" for i in range(N)),
            obs_sizes=(size,) * N,
            action_sizes=((MOVES,),) * N,
            state_size=size * N,
            episode_limit=EPISODE_LIMIT,
            continuous=continuous,
            unit_types=("agent",) * N,
            has_win=False,
        )

    def begin(self, key: jax.Array) -> tuple[World, JaxView]:
        agents, landmarks = jax.random.uniform(key, (2, N, 2), minval=-1.0, maxval=1.0)
        world = World(jnp.stack([agents, jnp.zeros((N, 2)), landmarks]))
        return world, self._view(world)

    def play(self, game: World, actions: jax.Array) -> JaxOutcome:
        force = self._push(actions) + _contacts(game.agents)
        agents = game.agents + game.speeds * DT
        speeds = game.speeds * (1 - DAMPING) + force * DT  # every mass is 1
        world = World(jnp.stack([agents, speeds, game.landmarks]))
        return JaxOutcome(world, self._view(world), _reward(world), jnp.array(False), jnp.int8(-1))

    def _push(self, actions: jax.Array) -> jax.Array:
        """(N, 2) forces of moves 0 to 4 (nothing, left, right, down, up), or of how hard each is pressed, 0 to 1."""
        pressed = (
            jnp.clip(actions, 0, 1) if self.spec.continuous else actions == jnp.arange(MOVES)
        )  # (N, 5)
        pressed = pressed.astype(jnp.float32)
        return jnp.stack([pressed[:, 2] - pressed[:, 1], pressed[:, 4] - pressed[:, 3]], -1) * FORCE

    def _view(self, world: World) -> JaxView:
        to_landmarks = world.landmarks - world.agents[:, None]  # (N, N, 2)
        to_others = world.agents[OTHERS] - world.agents[:, None]  # (N, N - 1, 2)
        parts = (world.speeds, world.agents, to_landmarks.reshape(N, -1), to_others.reshape(N, -1))
        obs = jnp.concatenate([*parts, jnp.zeros((N, WORDS * (N - 1)))], -1)  # (N, O)
        return JaxView(obs, obs.reshape(-1), jnp.array(self.spec.choices()), jnp.ones(N, bool))


def _contacts(agents: jax.Array) -> jax.Array:
    """(N, 2) forces between agents that overlap; softplus of how deep."""
    apart = agents[:, None] - agents  # (N, N, 2)
    distance = _length(apart) + jnp.eye(N)  # nobody pushes himself: there, `apart` is zero
    depth = jax.nn.softplus((REACH - distance) / CONTACT_MARGIN) * CONTACT_MARGIN
    return (CONTACT_FORCE * apart * (depth / distance)[..., None]).sum(1)


def _reward(world: World) -> jax.Array:
    """The mean over agents: half how far landmarks are from the nearest agent, half how many touch."""
    shared = -_length(world.agents[:, None] - world.landmarks).min(0).sum()
    touching = (_length(world.agents[:, None] - world.agents) < REACH).sum() - N
    return 0.5 * shared - 0.5 * touching / N


def _length(vectors: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(vectors).sum(-1))


def make(env_config: EnvConfig, num_envs: int, seed: int, first_env: int) -> CompiledVector:
    """See `sde_harl.envs.make`. Raises UserError for every other scenario."""
    if env_config.map != "simple_spread":
        raise unknown("env.map", env_config.map, ["simple_spread"])
    set_up()
    return CompiledVector(Spread, env_config.continuous_actions, num_envs, seed, first_env)

"""mpe2's simple_spread as one compiled step for all environments, with mpe2's rules in float32.

JaxMARL has particle worlds too, but they follow PettingZoo's older MPE where that differs from
mpe2. Tests hold this one to mpe2. Starts are drawn from mpe2's distribution by another generator,
so the episodes of a seed are not mpe2's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_harl.envs.base import EnvSpec
from sde_harl.envs.settings import EnvConfig, unknown_value
from sde_harl.envs.vector.compiled import CompiledVector
from sde_harl.envs.vector.jax_setup import set_up
from sde_harl.envs.vector.rules import JaxObservation, JaxOutcome, Rules

if TYPE_CHECKING:
    from sde_harl.drawing.canvas import Colour, Picture

N = 3
"""Agents; there are as many landmarks."""
EPISODE_LIMIT = 25
FORCE = 5.0
"""Force of a full push."""
MOVES = 5
DT = 0.1
DAMPING = 0.25
REACH = 0.3
"""Distance at which two agents touch: twice their size."""
LANDMARK_RADIUS = 0.05
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3
WORDS = 2
"""Numbers that each agent could say to the others; in this scenario all stay silent, so they are 0
in every observation."""
OTHERS = np.nonzero(~np.eye(N, dtype=bool))[1].reshape(N, -1)
"""(N, N - 1) numbers of the agents other than each."""


class World(NamedTuple):
    """One game.

    It is one array, not three: each array costs microseconds on its way into a step and out of it,
    which is as much as the arithmetic of the step.
    """

    bodies: Any  # (3, N, 2)

    @property
    def agents(self) -> Any:
        """(N, 2) positions of the agents."""
        return self.bodies[..., 0, :, :]

    @property
    def speeds(self) -> Any:
        """(N, 2) speeds of the agents."""
        return self.bodies[..., 1, :, :]

    @property
    def landmarks(self) -> Any:
        """(N, 2) positions of the landmarks."""
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
            action_bounds=(((0.0, 1.0),) * MOVES,) * N if continuous else (),
        )

    def begin(self, key: jax.Array) -> tuple[World, JaxObservation]:
        agents, landmarks = jax.random.uniform(key, (2, N, 2), minval=-1.0, maxval=1.0)
        world = World(bodies=jnp.stack([agents, jnp.zeros((N, 2)), landmarks]))
        return world, self._observation(world)

    def play(self, game: World, actions: jax.Array) -> JaxOutcome:
        # mpe2's order: positions move by the speeds from before this step's forces
        force = self._push(actions) + _contacts(game.agents)
        agents = game.agents + game.speeds * DT
        speeds = game.speeds * (1 - DAMPING) + force * DT  # every mass is 1
        world = World(bodies=jnp.stack([agents, speeds, game.landmarks]))
        return JaxOutcome(
            game=world,
            observation=self._observation(world),
            reward=_reward(world),
            terminated=jnp.array(False),
            won=jnp.int8(-1),
        )

    def picture(self, game: World, colours: Sequence[Colour]) -> Picture:
        # Here, because a run that nobody watches needs no library that draws.
        from sde_harl.drawing.canvas import DIM
        from sde_harl.envs.particles_picture import Particle, draw

        landmarks = [
            Particle(place=(x, y), radius=LANDMARK_RADIUS, colour=DIM)
            for x, y in game.landmarks.tolist()
        ]
        agents = [
            Particle(place=(x, y), radius=REACH / 2, colour=colour)
            for (x, y), colour in zip(game.agents.tolist(), colours)
        ]
        return draw(landmarks, agents)

    def _push(self, actions: jax.Array) -> jax.Array:
        """Returns (N, 2) forces of the actions.

        Moves 0 to 4 are: nothing, left, right, down, up. A continuous action says how hard each of
        the five is pressed, 0 to 1.
        """
        if self.spec.continuous:
            pressed = jnp.clip(actions, 0, 1)
        else:
            pressed = actions == jnp.arange(MOVES)
        pressed = pressed.astype(jnp.float32)  # (N, 5)
        return jnp.stack([pressed[:, 2] - pressed[:, 1], pressed[:, 4] - pressed[:, 3]], -1) * FORCE

    def _observation(self, world: World) -> JaxObservation:
        obs = _agents_view(world)
        return JaxObservation(
            obs=obs,
            state=obs.reshape(-1),
            available_actions=jnp.array(self.spec.choices()),
            active=jnp.ones(N, bool),
        )


def _agents_view(world: World) -> jax.Array:
    """Returns the agents' observations (N, O), in mpe2's order."""
    to_landmarks = world.landmarks - world.agents[:, None]  # (N, N, 2)
    to_others = world.agents[OTHERS] - world.agents[:, None]  # (N, N - 1, 2)
    parts = [
        world.speeds,
        world.agents,
        to_landmarks.reshape(N, -1),
        to_others.reshape(N, -1),
        jnp.zeros((N, WORDS * (N - 1))),
    ]
    return jnp.concatenate(parts, -1)


def _contacts(agents: jax.Array) -> jax.Array:
    """Returns (N, 2) forces between agents that overlap: the softplus of how deep they do."""
    apart = agents[:, None] - agents  # (N, N, 2)
    # An agent doesn't push itself: `apart` is zero there, and so is the force, as long as it isn't
    # divided by a distance of zero. The 1 on the diagonal prevents that.
    distance = _length(apart) + jnp.eye(N)
    depth = jax.nn.softplus((REACH - distance) / CONTACT_MARGIN) * CONTACT_MARGIN
    return (CONTACT_FORCE * apart * (depth / distance)[..., None]).sum(1)


def _reward(world: World) -> jax.Array:
    """Returns the mean over agents.

    Half of it is how far landmarks are from the nearest agent, half of it how many agents touch.
    """
    shared = -_length(world.agents[:, None] - world.landmarks).min(0).sum()
    # every agent is within reach of itself: those N are no touches
    touching = (_length(world.agents[:, None] - world.agents) < REACH).sum() - N
    return 0.5 * shared - 0.5 * touching / N


def _length(vectors: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(vectors).sum(-1))


def maps() -> list[str]:
    """Returns the valid values of env.map."""
    return ["simple_spread"]


def spec_of(env_config: EnvConfig) -> EnvSpec:
    """Returns the spec, without compiling the step."""
    return Spread(env_config.continuous_actions).spec


def make(env_config: EnvConfig, *, num_envs: int, seed: int, first_env: int) -> CompiledVector:
    """Makes the vector; see `registry.make`. Raises UserError for every other scenario."""
    if env_config.map not in maps():
        raise unknown_value("env.map", env_config.map, maps())
    set_up()  # before CompiledVector, which computes with JAX
    return CompiledVector(
        Spread, env_config.continuous_actions, num_envs=num_envs, seed=seed, first_env=first_env
    )

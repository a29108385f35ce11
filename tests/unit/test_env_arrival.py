"""Numbers that are not finite are refused from every vector, and recorded seeds are those given."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from games import spec
from playing import play

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.mpe_jax import Spread
from sde_harl.envs.registry import make
from sde_harl.envs.vector.compiled import CompiledVector
from sde_harl.envs.vector.games import Game, ObservationBuffers, Outcome, SerialVector
from sde_harl.envs.vector.rules import JaxObservation, JaxOutcome, Rules
from sde_harl.errors import UserError

SPEC = spec(((2,), (2,)), obs=3)._replace(episode_limit=4)
LINES = {
    "obs": r"in the observation of agent agent_1, got nan \(test/game, environment 7\)$",
    "final_obs": r"in the observation of agent agent_1, got nan \(test/game, environment 7\)$",
    "state": r"in the state, got nan \(test/game, environment 7\)$",
    "rewards": r"in the reward, got nan \(test/game, environment 7\)$",
}
pytestmark = pytest.mark.usefixtures("compile_cache")


class Breaks(Game):
    """Has one number that is NaN in its second step, or in its last."""

    spec = SPEC

    def __init__(self, what: str) -> None:
        self._what = what

    def reset(self, seed: int, out: ObservationBuffers) -> None:
        self._ticks = 0
        out.obs[:] = 1
        out.state[:] = 1

    def step(self, actions: Any, out: ObservationBuffers) -> Outcome:
        self._ticks += 1
        is_over = self._ticks == 4
        out.obs[1] = [1, 1, np.nan if self._breaks("obs") or self._breaks("final_obs") else 1]
        out.state[:] = np.nan if self._breaks("state") else 1
        reward = np.nan if self._breaks("rewards") else 1.0
        return Outcome(reward=reward, terminated=False, truncated=is_over)

    def _breaks(self, what: str) -> bool:
        return self._what == what and self._ticks == (4 if what == "final_obs" else 2)

    def close(self) -> None:
        """Does nothing."""


@pytest.mark.parametrize(("what", "line"), LINES.items())
def test_games_are_checked(what: str, line: str) -> None:
    games = [Breaks(""), Breaks(what)]
    with pytest.raises(UserError, match=line):
        play(SerialVector(games, seed=1, first_env=6), 6)


class JaxBreaks(Rules):
    """The same in JAX; every second game breaks."""

    spec = SPEC
    background = False

    def __init__(self, what: str) -> None:
        self._what = what

    def begin(self, key: jax.Array) -> tuple[Any, JaxObservation]:
        return jnp.int32(0), self._observation(jnp.int32(0))

    def play(self, game: Any, actions: jax.Array) -> JaxOutcome:
        ticks = game + 1
        return JaxOutcome(
            game=ticks,
            observation=self._observation(ticks),
            reward=self._broken("rewards", ticks),
            terminated=jnp.array(False),
            won=jnp.int8(-1),
        )

    def _broken(self, what: str, ticks: Any) -> Any:
        when = 4 if what == "final_obs" else 2
        return jnp.where((self._what == what) & (ticks == when), jnp.nan, 1.0)

    def _observation(self, ticks: Any) -> JaxObservation:
        last = self._broken("obs", ticks) * self._broken("final_obs", ticks)
        return JaxObservation(
            obs=jnp.ones((2, 3)).at[1, 2].set(last),
            state=jnp.ones(3) * self._broken("state", ticks),
            available_actions=jnp.array(SPEC.choices()),
            active=jnp.ones(2, bool),
        )


@pytest.mark.parametrize(("what", "line"), LINES.items())
def test_compiled_steps_are_checked(what: str, line: str) -> None:
    env = CompiledVector(JaxBreaks, what, num_envs=2, seed=1, first_env=7)
    with pytest.raises(UserError, match=line):
        play(env, 6)


def test_a_compiled_episode_begins_with_the_recorded_seed() -> None:
    env = make(
        EnvConfig(name="mpe", map="simple_spread", backend="jax"), num_envs=2, seed=5, first_env=3
    )
    step = env.reset()
    for e, seed in enumerate(env.episode_seeds().tolist()):
        key = jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32)
        _, seen = Spread(False).begin(key)
        np.testing.assert_allclose(step.obs[e], seen.obs, rtol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        EnvConfig(name="mamujoco", map="Reacher-2x1"),
        EnvConfig(name="pettingzoo", factory="odd_envs:Corridor"),
    ],
    ids=["mamujoco", "pettingzoo"],
)
def test_the_environment_is_given_the_recorded_seed(
    config: EnvConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    env: Any = make(config, num_envs=1, seed=5)
    played = env._games[0]._env
    reset = played.reset
    given = []

    def noted(seed: int | None = None, options: Any = None) -> Any:
        given.append(seed)
        return reset(seed=seed)

    monkeypatch.setattr(played, "reset", noted)
    recorded = []
    step = env.reset()
    for _ in range(60):
        recorded.append(int(env.episode_seeds()[0]))
        env.send(np.zeros((1, len(env.spec.agents), len(env.spec.branches)), step.obs.dtype))
        step = env.recv()
    recorded.append(int(env.episode_seeds()[0]))
    assert list(dict.fromkeys(recorded)) == given
    assert len(given) > 1

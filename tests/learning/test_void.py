"""A void episode, whose game failed, is played but never learnt from, counted or recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from games import learner, spec
from numpy.typing import NDArray
from small_runs import made

from sde_harl.buffers.rollout import Rollout
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.vector.games import Game, ObservationBuffers, Outcome, SerialVector
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.training import environments
from sde_harl.training.episodes import Episodes

STEPS = 4
LIMIT = 3


class Fragile(Game):
    """Counts its steps and shows them beside its seed; fails where `fails` says."""

    spec = EnvSpec(
        name="test/fragile",
        agents=("a",),
        obs_sizes=(1,),
        action_sizes=((2,),),
        state_size=1,
        episode_limit=LIMIT,
        continuous=False,
        unit_types=("",),
        has_win=True,
    )

    def __init__(self, fails: list[int]) -> None:
        self.seeds: list[int] = []
        self._fails = fails  # the numbers of the steps, over all episodes, in which it fails
        self._steps = 0

    def reset(self, seed: int, out: ObservationBuffers) -> None:
        self.seeds.append(seed)
        self._tick = 0
        out.obs[:] = 0

    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        self._steps += 1
        self._tick += 1
        if self._steps in self._fails:
            return Outcome(reward=0.0, terminated=False, truncated=False, void=True)
        out.obs[:] = self._tick
        return Outcome(reward=1.0, terminated=self._tick == LIMIT, truncated=False, won=1)

    def close(self) -> None:
        pass


def test_a_void_episode_ends_and_its_seed_is_played_again() -> None:
    game = Fragile(fails=[5])
    env = SerialVector([game], seed=1, first_env=0)
    env.reset()
    steps = []
    for _ in range(8):
        env.send(np.zeros((1, 1, 1), np.int32))
        step = env.recv()
        steps.append((bool(step.terminated[0]), bool(step.void[0]), float(step.obs[0, 0, 0])))
    on = (False, False)
    assert steps == [
        (*on, 1),
        (*on, 2),
        (True, False, 0),
        (*on, 1),
        (True, True, 0),
        (*on, 1),
        (*on, 2),
        (True, False, 0),
    ]
    assert game.seeds[1] == game.seeds[2]
    assert len(set(game.seeds)) == 3
    assert env.state_dict()["episodes"].tolist() == [2]


def test_only_the_steps_of_the_void_episode_are_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fragile(config: object, *, first_env: int, **settings: object) -> SerialVector:
        return SerialVector([Fragile(fails=[5]), Fragile(fails=[])], seed=1, first_env=first_env)

    monkeypatch.setattr(environments, "make", fragile)
    words = ["--env", "mpe", "policy.groups=[]", "train.envs=2", "train.slots=1", "train.rollout=8"]
    trainer = made(tmp_path, *words)
    trainer.publish()
    episodes = Episodes.join(list(trainer.collector.collect(trainer._published.acting, 0)))
    rollout = trainer.collector.rollout
    assert np.flatnonzero(rollout.void[:, 0]).tolist() == [3, 4]
    assert not rollout.void[:, 1].any()
    np.testing.assert_array_equal(rollout.active_masks[0], ~rollout.void)
    assert episodes.environment.tolist() == [0, 1, 1, 0]
    assert episodes.length.tolist() == [3] * 4
    assert [fault.reason for fault in trainer.pool.faults()] == ["void"]
    trainer.logger.close()


def filled(envs: int, *, recurrent: bool) -> Rollout:
    """Returns a rollout of random play, the same in every environment of the same number."""
    game = spec(((3,), (3,)), 4)
    rollout = Rollout(
        game,
        steps=STEPS,
        envs=envs,
        latent_size=4,
        critic_input=make_critic_input("EP", game),
        chunk=2 if recurrent else 1,
        memory_size=16 if recurrent else 0,
    )
    for e in range(envs):
        rng = np.random.default_rng(e)
        rollout.obs[:, :, e] = rng.normal(size=rollout.obs[:, :, e].shape)
        rollout.critic_inputs[:, :, e] = rng.normal(size=rollout.critic_inputs[:, :, e].shape)
        rollout.actions[:, :, e] = rng.integers(3, size=rollout.actions[:, :, e].shape)
        rollout.log_probs[:, :, e] = -1.1
        rollout.rewards[:, e] = rng.normal(size=STEPS)
        rollout.terminated[:, e] = rng.random(STEPS) < 0.3
    rollout.available_actions[:] = True
    rollout.active_masks[:] = True
    return rollout


def learnt(name: str, rollout: Rollout, *, recurrent: bool) -> dict[str, Any]:
    """Returns everything that an update with two minibatches leaves of an algorithm."""
    algorithm = learner(
        spec(((3,), (3,)), 4), name, recurrent=recurrent, epochs=2, minibatches=2, chunk=2
    )
    torch.manual_seed(0)
    algorithm.rate_coef = 0.1
    scalars = algorithm.update(rollout, 0.0)
    nets = {**algorithm.policy.state_dict(), **algorithm.critic_trainer.critic.state_dict()}
    return {**nets, **{name: torch.tensor(value) for name, value in scalars.items()}}


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
@pytest.mark.parametrize("name", ["happo", "hatrpo"])
def test_void_rows_teach_nothing(name: str, recurrent: bool) -> None:
    """What is learnt with a void environment is what is learnt without it."""
    whole = filled(4, recurrent=recurrent)
    whole.void[:, 3] = True
    whole.active_masks[:, :, 3] = False
    whole.rewards[:, 3] = 1e6
    with_void = learnt(name, whole, recurrent=recurrent)
    without = learnt(name, filled(3, recurrent=recurrent), recurrent=recurrent)
    for key, value in without.items():
        torch.testing.assert_close(with_void[key], value)

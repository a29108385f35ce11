"""Interrupted episodes are brought back to the step at which they stood, or begin anew."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sde_harl.config.arguments import parse
from sde_harl.envs.base import EnvStep, VectorEnv
from sde_harl.envs.registry import make

WORLDS = {
    "games": ["env.backend=mpe2", "env.workers=0"],
    "workers": ["env.backend=mpe2", "env.workers=2"],
    "compiled": ["env.backend=jax"],
}


def made(words: list[str]) -> VectorEnv:
    config = parse(["--algo", "happo", "--env", "mpe", *words]).config
    assert config
    return make(config.env, num_envs=3, seed=5)


def actions(env: VectorEnv, draw: np.random.Generator) -> NDArray[np.int32]:
    shape = (env.num_envs, len(env.spec.agents), len(env.spec.branches))
    return draw.integers(0, min(env.spec.branches), shape, np.int32)


def play(env: VectorEnv, draw: np.random.Generator, steps: int) -> EnvStep:
    for _ in range(steps):
        env.send(actions(env, draw))
        step = env.recv()
    return step


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("steps", [0, 7, 40])
def test_a_vector_goes_on_where_another_stood(kind: str, steps: int) -> None:
    first = made(WORLDS[kind])
    step = first.reset()
    if steps:
        step = play(first, np.random.default_rng(1), steps)
    state = {name: array.copy() for name, array in first.state_dict().items()}
    second = made(WORLDS[kind])
    second.load_state_dict(state)
    again = second.reset()
    assert second.is_brought_back
    for name in ("obs", "state", "available_actions", "active"):
        assert (getattr(step, name) == getattr(again, name)).all(), name
    assert (first.episode_seeds() == second.episode_seeds()).all()
    wanted = play(first, np.random.default_rng(2), 60)
    found = play(second, np.random.default_rng(2), 60)
    for name, array in wanted._asdict().items():
        assert (array == getattr(found, name)).all(), name
    for key, value in first.state_dict().items():
        assert (value == second.state_dict()[key]).all(), key
    first.close()
    second.close()


def test_games_that_do_not_repeat_begin_anew() -> None:
    first = made(WORLDS["games"])
    first.reset()
    play(first, np.random.default_rng(1), 7)
    state = first.state_dict()
    state["seen"][1] += 1  # what another game would have shown
    second = made(WORLDS["games"])
    second.load_state_dict(state)
    step = second.reset()
    assert not second.is_brought_back
    assert (step.obs == made(WORLDS["games"]).reset().obs).all()


@pytest.mark.parametrize("kind", ["games", "compiled"])
def test_games_in_which_the_same_can_not_be_done_begin_anew(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment may raise for an action that isn't available."""
    first = made(WORLDS[kind])
    first.reset()
    play(first, np.random.default_rng(1), 7)
    second = made(WORLDS[kind])
    second.load_state_dict({name: each.copy() for name, each in first.state_dict().items()})
    recv = second.recv

    def recv_another_game() -> EnvStep:
        step = recv()
        return step._replace(available_actions=np.zeros_like(step.available_actions))

    monkeypatch.setattr(second, "recv", recv_another_game)
    monkeypatch.setattr(second, "send", lambda actions: pytest.fail("it was done"))
    second.reset()
    assert not second.is_brought_back


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("actions", np.full((3, 7, 3, 1), -1, np.int32)),
        ("actions", np.full((3, 7, 3, 1), 5, np.int32)),
        ("episodes", np.array([0, 0, -1])),
        ("episodes", np.array([0, 0, 1 << 40])),
        ("episodes", np.zeros(3)),
        ("lengths", np.zeros(4, np.int64)),
        ("lengths", np.array([1, 2, 10**9])),
        ("actions", np.zeros((3, 7, 3, 1), np.float32)),
        ("seen", np.zeros(3, np.int32)),
    ],
)
def test_a_state_of_other_environments_is_refused(name: str, array: NDArray[np.generic]) -> None:
    env = made(WORLDS["games"])
    env.reset()
    play(env, np.random.default_rng(1), 7)
    with pytest.raises(ValueError, match=rf"^({name}|actions): "):
        env.load_state_dict({**env.state_dict(), name: array})

"""Parallel environments of the user's own."""

from __future__ import annotations

import numpy as np
import pytest
from odd_envs import LIMIT
from playing import kept, play

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.base import EnvStep
from sde_harl.envs.registry import make
from sde_harl.errors import UserError

CORRIDOR = EnvConfig(name="pettingzoo", factory="odd_envs:Corridor")
TORQUE = EnvConfig(name="pettingzoo", factory="odd_envs:Torque")


def walk(*choices: tuple[int, int, int]) -> list[EnvStep]:
    """The steps of one corridor from its reset, a's choice and b's two in each."""
    env = make(CORRIDOR, num_envs=1, seed=1)
    steps = [kept(env.reset())]
    for a, *b in choices:
        env.send(np.array([[[a, 0], b]], np.int32))
        steps.append(kept(env.recv()))
    return steps


def test_spec_of_discrete_agents() -> None:
    spec = make(CORRIDOR, num_envs=1, seed=1).spec
    assert (spec.name, spec.agents) == ("pettingzoo/odd_envs.Corridor", ("a", "b"))
    assert (spec.obs_sizes, spec.state_size, spec.continuous) == ((3, 4), 7, False)
    assert (spec.action_sizes, spec.branches) == (((5,), (2, 3)), (5, 3))


def test_choices_reach_the_agents_and_an_image_is_flat() -> None:
    start, first = walk((3, 1, 2))
    np.testing.assert_array_equal(first.obs[0, 0, :2], [1, 13])  # its choices begin at 10
    np.testing.assert_array_equal(first.obs[0, 1], [1, 1, 2, 255])
    np.testing.assert_array_equal(first.state[0], [*first.obs[0, 0, :3], *first.obs[0, 1]])
    assert 0 < start.obs[0, 0, 2] < 1


def test_a_mask_says_what_is_available() -> None:
    even, odd, _ = walk((0, 0, 0), (0, 0, 0))
    np.testing.assert_array_equal(
        even.available_actions[0], [[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 1, 1, 1]]
    )
    np.testing.assert_array_equal(odd.available_actions[0, 0], [1, 0, 1, 1, 1, 1, 0, 0])


def test_who_leaves_early_is_inactive_and_the_limit_truncates() -> None:
    steps = walk(*[(0, 0, 0)] * (LIMIT + 1))
    assert [step.active[0].tolist() for step in steps] == [[True, True]] * 2 + [
        [True, False]
    ] * 4 + [[True, True]] * 2
    assert steps[2].obs[0, 1].any()
    assert not steps[3].obs[0, 1].any()
    assert [bool(step.truncated[0]) for step in steps] == [False] * 6 + [True, False]
    assert not any(step.terminated[0] for step in steps)
    assert [float(step.rewards[0]) for step in steps[1:4]] == [
        1.0,
        1.0,
        0.5,
    ]  # the mean over both agents
    assert (steps[6].returns[0], steps[6].lengths[0]) == (4.0, 6)
    np.testing.assert_array_equal(steps[6].final_obs[0, 0], [6, 10, steps[0].obs[0, 0, 2], 0])


def test_a_win_terminates() -> None:
    step = walk((0, 0, 0), (4, 0, 0))[-1]
    assert step.terminated[0]
    assert not step.truncated[0]


def test_continuous_agents_are_clipped_and_have_the_environments_state() -> None:
    env = make(TORQUE, num_envs=1, seed=1)
    assert env.spec.continuous
    assert env.spec.action_sizes == ((2,), (1,))
    assert env.spec.state_size == 2
    assert env.spec.unit_types == ("joint", "joint")
    env.reset()
    env.send(np.array([[[-5, 5], [0.5, 9]]], np.float32))
    step = env.recv()
    np.testing.assert_array_equal(step.obs[0], [[-2, 3], [0.5, 0]])
    np.testing.assert_array_equal(step.rewards, np.float32([(-2 + 3 + 0.5) / 2]))
    assert step.state[0, 0] == 1


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("odd_envs.Corridor", r"env\.factory: expected module:function, got 'odd_envs\.Corridor'"),
        ("os;rm:x", r"env\.factory: expected module:function"),
        (
            "no_such_module:make",
            r"env\.factory: can't take make from no_such_module: No module named",
        ),
        ("odd_envs:make", r"env\.factory: can't take make from odd_envs: .*no attribute 'make'"),
        ("odd_envs:LIMIT", r"env\.factory: odd_envs:LIMIT is a int, not a function"),
        (
            "odd_envs:nothing",
            r"env\.factory: odd_envs:nothing made a NoneType, not a parallel environment",
        ),
        (
            "odd_envs:mixed",
            r"env\.factory: expected agents that all choose or all act continuously, got Disc",
        ),
        (
            "odd_envs:unplayable",
            r"env\.factory: expected actions in Discrete, .*, got Text.*, space of 'b'\)$",
        ),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_user_can_mend_is_named(factory: str, message: str, workers: int) -> None:
    with pytest.raises(UserError, match=message):
        make(
            CORRIDOR.model_copy(update={"factory": factory, "workers": workers}), num_envs=2, seed=1
        )


def test_actions_of_another_shape_are_refused() -> None:
    env = make(CORRIDOR, num_envs=2, seed=1)
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(2, 2, 1\), expected \(2, 2, 2\)"):
        env.send(np.zeros((2, 2, 1), np.int32))


def test_random_play_goes_through_all_ends() -> None:
    steps = play(make(CORRIDOR, num_envs=4, seed=1), 100)
    assert any(step.terminated.any() for step in steps)
    assert any(step.truncated.any() for step in steps)


def complaint(factory: str) -> str:
    with pytest.raises(UserError) as caught:
        play(make(EnvConfig(name="pettingzoo", factory=factory), num_envs=2, seed=1), 3)
    return str(caught.value)


@pytest.mark.parametrize(
    ("factory", "line"),
    [
        (
            "same",
            "env.factory: expected a new environment at each call, got the same object twice "
            "(odd_envs:same)",
        ),
        (
            "same_within_a_wrapper",
            "env.factory: expected a new environment at each call, got the same object twice "
            "(odd_envs:same_within_a_wrapper)",
        ),
        (
            "in_turns",
            "env.factory: expected a parallel environment, got an AEC environment "
            "(odd_envs:in_turns; pettingzoo.utils.conversions.aec_to_parallel makes one of it)",
        ),
        (
            "Unseeded",
            "env.factory: expected reset(seed=None, options=None), got a reset() without seed "
            "(odd_envs:Unseeded)",
        ),
        (
            "growing",
            "env.name: expected environments that are all alike, got obs_sizes that differ: "
            "(1, 1), (2, 2) (pettingzoo/odd_envs.growing)",
        ),
        (
            "a_class",
            "env.factory: odd_envs:a_class made a type, not a parallel environment",
        ),
    ],
)
def test_a_factory_that_makes_something_else_is_refused(factory: str, line: str) -> None:
    assert complaint(f"odd_envs:{factory}") == line


def test_an_environment_may_be_made_again_when_the_first_is_gone() -> None:
    config = EnvConfig(name="pettingzoo", factory="odd_envs:same")
    for _ in range(2):
        play(make(config, num_envs=1, seed=1), 3)


def test_whole_actions_are_rounded_within_their_bounds() -> None:
    env = make(EnvConfig(name="pettingzoo", factory="odd_envs:Whole"), num_envs=1, seed=1)
    env.reset()
    env.send(np.array([[[0.6, -0.6], [9, -9]]], np.float32))
    np.testing.assert_array_equal(env.recv().obs[0], [[1, -1], [2, -1]])


def test_bounds_between_two_float32_numbers_are_never_exceeded() -> None:
    env = make(EnvConfig(name="pettingzoo", factory="odd_envs:Fine"), num_envs=1, seed=1)
    env.reset()
    env.send(np.array([[[9], [-9]]], np.float32))  # the environment asserts that it contains them
    env.recv()


def test_who_is_not_in_turn_does_the_first_choice_and_decides_nothing() -> None:
    env = make(EnvConfig(name="pettingzoo", factory="odd_envs:Turns"), num_envs=1, seed=1)
    for at, step in enumerate(play(env, 20)):
        turn = at % LIMIT % 2
        assert step.active[0].tolist() == [turn == 0, turn == 1]
        waiting = step.available_actions[0, 1 - turn]
        assert waiting.tolist() == [True] + [False] * 4
        own = [2, 5][turn]
        assert step.available_actions[0, turn].tolist() == [True] * own + [False] * (5 - own)


def test_one_that_terminates_beside_one_that_is_cut_off_is_a_truncation() -> None:
    env = make(EnvConfig(name="pettingzoo", factory="odd_envs:BothEnds"), num_envs=1, seed=1)
    steps = play(env, LIMIT)
    assert steps[-1].truncated[0]
    assert not steps[-1].terminated[0]


def test_names_are_one_part_of_a_path() -> None:
    env = make(EnvConfig(name="pettingzoo", factory="odd_envs:Slashes"), num_envs=1, seed=1)
    assert env.spec.agents == ("red%2F0", "%2E", "100%25")
    assert len(play(env, 3)) == 4

"""Football is equal to gfootball's own environment, but for what the module says of seeds and ends.

Skipped where the engine is not built: `make football` builds it.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from launch import PATIENT, launch, needs_mpirun

from sde_harl.config.schema import EnvConfig
from sde_harl.drawing.canvas import ROLE_COLOURS
from sde_harl.envs.registry import make, make_watched
from sde_harl.errors import UserError

if importlib.util.find_spec("gfootball") is None:
    pytest.skip("football needs its engine: make football", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import gfootball.env as gfootball
    from gfootball.env.script_helpers import ScriptHelpers

RIGHT = 5
SHOT = 12
IDLE = 0
CONFIG = EnvConfig(name="football", map="academy_3_vs_1_with_keeper", rewards="scoring")


@pytest.fixture(autouse=True)
def no_warnings_of_gym() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def theirs(config: EnvConfig, agents: int, seed: int) -> Any:
    """Makes gfootball's own environment for the episode of a seed."""
    return gfootball.create_environment(
        env_name=config.map,
        representation=config.representation,
        stacked=config.stacked,
        rewards=config.rewards,
        number_of_left_players_agent_controls=agents,
        other_config_options={
            "game_engine_random_seed": seed,
            "reverse_team_processing": bool(seed % 2),
            # Its constructor and its reset add 1 each.
            "episode_number": seed // 2 % 2 - 2,
        },
    )


def harls_state(raw: list[dict[str, Any]]) -> np.ndarray:
    """Returns the state that HARL builds from raw observations."""
    state: list[float] = []
    parts = ["left_team", "left_team_direction", "right_team", "right_team_direction"]
    for number, part in enumerate(parts, start=1):
        state += raw[0][part].ravel().tolist()
        state += [-1] * (22 * number - len(state))
    state += [*raw[0]["ball"], *raw[0]["ball_direction"]]
    state += np.eye(3)[raw[0]["ball_owned_team"] + 1].tolist()
    state += np.eye(7)[raw[0]["game_mode"]].tolist()
    for each in raw:
        state += np.eye(11)[each["active"]].tolist()
    return np.array(state, np.float32)


def as_rows(obs: Any, agents: int) -> np.ndarray:
    return np.asarray(obs).reshape(agents, -1)


@pytest.mark.parametrize(
    ("scenario", "options"),
    [
        ("academy_3_vs_1_with_keeper", {"rewards": "scoring,checkpoints"}),
        ("academy_3_vs_1_with_keeper", {"representation": "extracted", "stacked": True}),
        ("academy_counterattack_easy", {"rewards": "scoring,checkpoints"}),
        ("academy_pass_and_shoot_with_keeper", {"representation": "extracted"}),
        ("academy_corner", {}),
        ("academy_empty_goal", {"rewards": "scoring,checkpoints"}),
        ("11_vs_11_stochastic", {}),
    ],
)
def test_it_plays_what_gfootball_plays(scenario: str, options: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update={"map": scenario, **options})
    env = make(config, num_envs=1, seed=3)
    agents = len(env.spec.agents)
    step = env.reset()
    rng = np.random.default_rng(0)
    for _ in range(3):
        twin = theirs(config, agents, int(env.episode_seeds()[0]))
        obs = twin.reset()
        np.testing.assert_array_equal(step.obs[0], as_rows(obs, agents))
        np.testing.assert_array_equal(step.state[0], harls_state(twin.unwrapped.observation()))
        for _ in range(25):
            # Mostly to the right, so that the ball comes nearer to the goal.
            moves = rng.integers(19, size=agents)
            actions = np.where(rng.random(agents) < 0.5, RIGHT, moves)
            env.send(actions[None, :, None].astype(np.int32))
            step = env.recv()
            obs, rewards, done, _ = twin.step(actions)
            np.testing.assert_array_equal(step.final_obs[0], as_rows(obs, agents))
            state = harls_state(twin.unwrapped.observation())
            np.testing.assert_array_equal(step.final_state[0], state)
            assert step.rewards[0] == np.ravel(rewards)[0]
            assert (step.terminated[0] | step.truncated[0]) == done
            if done:
                break
        twin.close()
        if not done:
            break
    env.close()


def test_a_goal_ends_a_drill_and_wins_it() -> None:
    config = EnvConfig(name="football", map="academy_empty_goal_close")
    env = make(config, num_envs=1, seed=1)
    env.reset()
    total = 0.0
    for t in range(60):
        env.send(np.full((1, 1, 1), RIGHT if t < 12 else SHOT, np.int32))
        step = env.recv()
        total += float(step.rewards[0])
        if step.terminated[0]:
            break
    assert (step.won[0], step.truncated[0]) == (1, False)
    # The goal, and all ten checkpoints: those that were not passed count with the goal.
    assert total == pytest.approx(2.0)
    assert step.returns[0] == pytest.approx(2.0)
    env.close()


def test_time_that_runs_out_truncates() -> None:
    env = make(EnvConfig(name="football", map="1_vs_1_easy"), num_envs=1, seed=1)
    step = env.reset()
    for _ in range(env.spec.episode_limit):
        assert not (step.terminated | step.truncated).any()
        env.send(np.full((1, 1, 1), IDLE, np.int32))
        step = env.recv()
    assert step.lengths[0] == env.spec.episode_limit == 501
    assert (step.truncated[0], step.terminated[0]) == (True, False)
    env.close()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"map": "academy_4_vs_1"}, "env.map: unknown value 'academy_4_vs_1'"),
        ({"representation": "pixels"}, "env.representation: unknown value 'pixels'"),
        ({"rewards": "checkpoints"}, "env.rewards: unknown value 'checkpoints'"),
        ({"stacked": True}, "env.stacked: expected false"),
        ({"continuous_actions": True}, "env.continuous_actions: football has discrete"),
    ],
)
def test_what_gfootball_has_not_is_refused_by_name(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        make(CONFIG.model_copy(update=changes), num_envs=1, seed=1)


def test_every_scenario_plays_with_the_agents_of_harl() -> None:
    from sde_harl.envs.football import maps

    found = {}
    for name in maps():
        env = make(CONFIG.model_copy(update={"map": name}), num_envs=1, seed=1)
        found[name] = len(env.spec.agents)
        env.close()
    harls = {
        "academy_pass_and_shoot_with_keeper": 2,
        "academy_run_pass_and_shoot_with_keeper": 2,
        "academy_3_vs_1_with_keeper": 3,
        "academy_counterattack_easy": 4,
        "academy_counterattack_hard": 4,
        "academy_corner": 11,
        "academy_single_goal_versus_lazy": 11,
    }
    assert found | harls == found
    assert len(found) == 18
    assert found["11_vs_11_stochastic"] == 11
    # Its goalkeeper can't be controlled.
    assert found["5_vs_5"] == 4


def test_a_position_is_drawn() -> None:
    watched = make_watched(CONFIG, ROLE_COLOURS, seed=1, env=0)
    watched.vector.reset()
    before = watched.artist.picture()
    watched.vector.send(np.full((1, 3, 1), RIGHT, np.int32))
    watched.vector.recv()
    after = watched.artist.picture()
    assert before is not None
    assert after is not None
    assert before.shape == after.shape
    assert (before != after).any()
    assert (before == ROLE_COLOURS[1]).all(-1).any()
    watched.vector.close()


def test_an_episode_leaves_the_engines_own_dump(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"map": "academy_empty_goal_close"})
    watched = make_watched(config, ROLE_COLOURS, seed=1, env=0, replays=tmp_path)
    watched.vector.reset()
    steps = 0
    ended = False
    while not ended:
        watched.vector.send(np.full((1, 1, 1), RIGHT, np.int32))
        step = watched.vector.recv()
        ended = bool(step.terminated[0] | step.truncated[0])
        steps += 1
    watched.vector.close()
    [dump] = tmp_path.glob("*.dump")
    assert len(ScriptHelpers().load_dump(str(dump))) == steps


@needs_mpirun
@pytest.mark.slow
def test_small_maps_train_through_a_convolution_and_coded_latents(tmp_path: Path) -> None:
    env = "env.map=academy_pass_and_shoot_with_keeper env.representation=extracted env.workers=1"
    policy = "policy.local_blocks=1 policy.conv_kernel=8 policy.conv_stride=4 codec.name=entropy"
    size = "train.envs=8 train.rollout=50 train.steps=800 algo.epochs=2 eval.episodes=4"
    words = [*env.split(), *policy.split(), *size.split(), "placement.mode=agents", PATIENT]
    ended = launch(
        3, "-m", "sde_harl.run", "configs/football.yaml", *words, f"record.dir={tmp_path}"
    )
    assert ended.code == 0, ended.err
    [record] = tmp_path.glob("**/run.h5")
    with h5py.File(record) as file:
        assert file["meta"].attrs["env"].endswith("-extracted")
        assert len(file["training/step"]) == 2
        assert set(file["decisions/rank"][:]) == {1, 2}
        sent = file["decisions/payload_bytes"][:] / file["decisions/environments"][:]
    image = 72 * 96 * 4
    assert sent.mean() < image / 1000

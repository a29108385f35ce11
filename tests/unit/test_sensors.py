"""Executors that sense for themselves: their imports, their orders, and sensors that fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import robots
from pairs import ACTIONS, Pair
from playing import play as played
from pools import SHAPE, session_of, weights
from small_runs import acting, run

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.pettingzoo import make_game
from sde_harl.envs.registry import make
from sde_harl.envs.specs import from_json, to_json
from sde_harl.errors import UserError
from sde_harl.examples import pettingzoo_robot, replay
from sde_harl.executor.sensors import Senses, sensor_on_command_line
from sde_harl.link.wire import Header, Kind, WireError
from sde_harl.policy.shapes import OnDeviceShape, on_device_parameter_shapes
from sde_harl.protocol.requests import ActRequest
from sde_harl.protocol.session import ActuatorSpec, SessionSpec

pytestmark = pytest.mark.usefixtures("fresh_robots")


# ---- whose word it is


@pytest.mark.parametrize(
    ("words", "sensor"),
    [
        ([], "none"),
        (["a.yaml", "executor.sensor=a:b"], "a:b"),
        (["--executor.sensor", "a:b", "seed=1"], "a:b"),
        (["--executor.sensor=a:b", "executor.sensor=c:d"], "c:d"),
        (["executor.sensor=a:b", "executor.sensors=c:d", "x.executor.sensor=c:d"], "a:b"),
    ],
)
def test_the_command_line_names_the_sensor(words: list[str], sensor: str) -> None:
    assert sensor_on_command_line(words) == sensor


@pytest.mark.parametrize(
    ("sensor", "actions"), [("none", ACTIONS), ("robots_never_imported:Arm", None)]
)
def test_an_executor_imports_nothing_that_only_one_side_asks_for(
    sensor: str, actions: ActuatorSpec | None
) -> None:
    pair = Pair(sensor, actions=actions)
    with pytest.raises(
        UserError,
        match=r"executor 1 \(.+\): executor.sensor: expected .+ \(this executor's command",
    ):
        pair.pool.report()
    assert "robots_never_imported" not in sys.modules


def test_a_welcome_tells_what_actions_are_made_of_and_names_no_module() -> None:
    welcome = session_of(
        SHAPE,
        run_id=1,
        agents=(0, 2),
        codec="int8",
        frame_bytes=9,
        actions=ACTIONS,
        backend="torch",
    )
    assert SessionSpec.from_json(memoryview(welcome.to_json())) == welcome
    wrong = json.loads(welcome.to_json()) | {"actions": {"numbers": [1], "module": "os:abort"}}
    with pytest.raises(WireError):
        SessionSpec.from_json(memoryview(json.dumps(wrong).encode()))


# ---- a decision


def test_an_agent_acts_on_its_own_reading_and_the_server_sends_none() -> None:
    pair, actions = Pair("robots:Arm"), np.array([[[3, 4]], [[5, 6]]], np.int32)
    pair.pool.publish(1, weights(), [])
    latents = [pair.decide(actions) for _ in range(2)]
    shown = Pair("none", actions=None)  # what the same nets make of these readings, were they sent
    shown.pool.publish(1, weights(), [])
    for look, values in enumerate(latents, start=1):
        readings = np.stack([np.full((1, 5), agent + 0.25 * look, np.float32) for agent in (0, 1)])
        shown.pool.sense(0, 7, readings)
        assert np.array_equal(shown.pool.latents(0).values, values)
    assert [size for kind, size in pair.sizes if kind is Kind.SENSOR] == [0, 0]
    arms = robots.Arm.made
    assert [[each.tolist() for each in arm.did] for arm in arms] == [[[3, 4]] * 2, [[5]] * 2]
    assert [arm.agent for arm in arms] == [0, 1]
    assert arms[0].did[0].dtype == np.int32
    pair.server.send(1, Header(kind=Kind.BYE))
    pair.server.flush(1.0)
    assert [arm.closed for arm in arms] == [1, 1]


def test_a_policy_on_the_device_does_at_once_what_it_chose() -> None:
    shape, on_device = SHAPE._replace(latent=8), OnDeviceShape((3, 2), False, 1)
    pair = Pair("robots:Arm", shape=shape, codec="none", on_device=on_device)
    sizes = [each[1:] for each in on_device_parameter_shapes(shape, on_device)]
    rng = np.random.default_rng(0)
    local = [(5, 8), (8,), *sizes]
    pair.pool.publish(
        1, [[rng.normal(size=size).astype(np.float32) for size in local] for _ in range(2)], []
    )
    request = ActRequest(
        available=np.ones((2, 1, 5), bool),
        begins=np.ones(1, bool),
        greedy=False,
        send_memory=False,
    )
    done = pair.pool.decide(0, 7, np.zeros((2, 1, 5), np.float32), request=request)
    did = [arm.did[0].tolist() for arm in robots.Arm.made]
    assert did == [done.actions[0, 0].tolist(), done.actions[1, 0, :1].tolist()]


# ---- what can fail

FAILS = {
    "nowhere:Arm": "can't take Arm from nowhere: No module named 'nowhere'",
    "robots": "expected module:function, got 'robots'",
    "robots:SIZE": "robots:SIZE is a int, not a function",
    "robots:absent": "making agent 0: LookupError: nothing is connected (",
    "robots:Short": "read() of agent 0 gave float32 of shape (4,), expected float32 of shape (5,)",
    "robots:Text": "read() of agent 0 gave <U1 of shape (5,), expected float32 of shape (5,)",
    "robots:Infinite": "read() of agent 0 gave a number that is not finite",
    "robots:Unplugged": "read() of agent 0: OSError: no such device really (",
    "robots:Stuck": "act() of agent 0: RuntimeError: a joint is stuck (",
}


@pytest.mark.parametrize("sensor", FAILS)
def test_what_fails_is_one_line_that_names_host_and_module(sensor: str) -> None:
    pair = Pair(sensor)
    pair.pool.publish(1, weights(), [])

    def decide_and_report() -> None:
        pair.decide(np.zeros((2, 1, 2), np.int32))
        pair.pool.report()

    with pytest.raises(UserError) as raised:
        decide_and_report()
    line = str(raised.value)
    assert line.startswith(f"executor 1 ({pair.pool.hosts[1].host}): executor.sensor: ")
    assert "\n" not in line
    assert FAILS[sensor] in line
    assert sensor in line.replace("can't take Arm from nowhere", "nowhere:Arm")


def test_a_run_that_may_go_on_notes_what_has_worn_out() -> None:
    pair = Pair("robots:Worn", survives_losses=True)
    pair.pool.publish(1, weights(), [])
    idle = np.zeros((2, 1, 2), np.int32)
    assert [pair.decide(idle).dtype for _ in range(3)] == [np.float32] * 3
    with pytest.raises(UserError, match="no executor is left"):
        pair.decide(idle)
    (fault,) = pair.pool.faults()
    assert (fault.rank, fault.reason) == (1, "lost")


def test_a_reason_that_is_no_text_is_one_line() -> None:
    pair = Pair("robots:Arm")
    pair.server.flush(1.0)  # the welcome has told the run's number
    pair.executor._transport.send(0, Header(kind=Kind.BYE), b"\xff\n\x1b[2J" + b"x" * 5000)
    with pytest.raises(UserError, match=r"executor 1 \(.+\): .+\\n\\x1b.*x+$") as raised:
        pair.pool.report()
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1200


def test_sensors_take_whole_actions_only_and_all_are_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    senses = Senses("robots:Arm", (3, 4), shape=SHAPE, actuators=ACTIONS)
    for payload in (b"", bytes(4), bytes(12)):  # one number an agent, where the first has two
        with pytest.raises(WireError):
            senses.act(payload)
    stuck = Senses("robots:Stuck", (3, 4), shape=SHAPE, actuators=ACTIONS)
    stuck.close()
    assert [f"close() of agent {agent}" in caplog.text for agent in (3, 4)] == [True, True]
    senses.close()
    senses.close()
    assert [arm.closed for arm in robots.Arm.made[:2]] == [1, 1]


def test_pixels_stay_bytes() -> None:
    shape = SHAPE._replace(obs_sizes=(5,), pixels=True)
    assert (
        Senses("robots:Arm", (0,), shape=SHAPE._replace(obs_sizes=(5,)), actuators=ACTIONS).read()
        == np.float32([0.25] * 5).tobytes()
    )
    with pytest.raises(UserError, match="gave float64 of shape"):
        Senses("robots:Arm", (0,), shape=shape._replace(pixels=True), actuators=ACTIONS).read()


# ---- an environment that nobody plays


SPECS = [
    EnvConfig(name="mpe", map="simple_speaker_listener"),
    EnvConfig(name="mamujoco", map="Reacher-2x1"),
    EnvConfig(name="pettingzoo", factory="odd_envs:Corridor"),
    EnvConfig(name="pettingzoo", factory="odd_envs:Seekers"),
]


@pytest.mark.parametrize("config", SPECS, ids=lambda config: config.map + config.factory)
def test_a_spec_comes_back_from_its_file(config: EnvConfig) -> None:
    env = make(config, num_envs=1, seed=1)
    assert from_json(to_json(env.spec)) == env.spec
    env.close()


SPEC = EnvSpec("a/b", ("x", "y"), (2, 3), ((2,), (2,)), 5, 7, False, ("", ""), True)
WRONG = {
    "name": ["ab", "a/b/c", 3, "a/\n"],
    "agents": [[], ["x", "x"], [1, 2], "xy"],
    "obs_sizes": [[2], [2, 0], [2, 1 << 40], [2, 3.0], 2],
    "action_sizes": [[[2]], [[2], []], [[2], [0]], [2, 2]],
    "state_size": [0, "5", True],
    "episode_limit": [-1, None],
    "continuous": [1],
    "unit_types": [[""]],
    "obs_images": [[[1, 1, 2]], [[1, 1, 2], [1, 1, 2]], [[1, 2], [1, 3]]],
    "obs_dtype": ["float64", "uint8"],
    "state_image": [[1, 1, 4], [5]],
    "noop": [-1],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_field_that_is_wrong_is_named(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=f"^{name}: "):
            from_json(json.dumps(SPEC._asdict() | {name: value}))
    with pytest.raises(ValueError, match=r"^colour: no such field"):
        from_json(json.dumps(SPEC._asdict() | {"colour": 1}))
    with pytest.raises(ValueError, match=r"^action_sizes: missing"):
        from_json(
            json.dumps(
                {key: value for key, value in SPEC._asdict().items() if key != "action_sizes"}
            )
        )


def test_devices_count_decisions_and_know_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(to_json(SPEC))
    env = make(EnvConfig(name="devices", spec=str(path), steps=3), num_envs=1, seed=1)
    assert env.spec == SPEC._replace(name="devices/a.b", episode_limit=3, has_win=False)
    steps = played(env, 6)
    assert [bool(step.truncated[0]) for step in steps[1:]] == [False, False, True] * 2
    assert all(
        np.isnan(step.rewards[0]) and step.won[0] == -1 and not step.terminated[0]
        for step in steps[1:]
    )
    assert np.isnan(steps[3].returns[0])
    assert steps[3].lengths[0] == 3
    assert all(
        step.available_actions.all() and step.active.all() and not step.obs.any() for step in steps
    )
    assert (
        make(EnvConfig(name="devices", spec=str(path)), num_envs=1, seed=1).spec.episode_limit == 7
    )
    path.write_text(to_json(SPEC._replace(episode_limit=0)))
    with pytest.raises(UserError, match=r"env.steps"):
        make(EnvConfig(name="devices", spec=str(path)), num_envs=1, seed=1)
    for text in ("", "[]", "{}", "[" * 10**5):
        path.write_text(text)
        with pytest.raises(UserError, match=r"env.spec: .*spec.json: not a run's"):
            make(EnvConfig(name="devices", spec=str(path)), num_envs=1, seed=1)
    with pytest.raises(UserError, match=r"env.spec: .*can't be read"):
        make(EnvConfig(name="devices", spec=str(tmp_path)), num_envs=1, seed=1)


# ---- whole runs


def test_a_replayed_episode_is_decided_as_it_was(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file, sensor = tmp_path / "episode.npz", "sde_harl.examples.replay:Replay"
    replay.main(str(trained / "run.h5"), "2", str(file))
    monkeypatch.setenv(replay.FILE, str(file))
    folder = run(*acting(trained, tmp_path, sensor), sensor=sensor)
    assert [line for line in capfd.readouterr().out.splitlines() if "recorded" in line] == [
        f"agent {agent}: 25 of 25 decisions as recorded" for agent in (2, 1, 0)
    ]
    with h5py.File(folder / "run.h5") as written:
        assert (
            written["meta"].attrs["env"] == "devices/pettingzoo.mpe2.simple_spread_v3.parallel_env"
        )
        assert written["episodes"]["length"][:].tolist() == [25]
        assert np.isnan(written["episodes"]["return"][0])
        assert written["episodes"]["won"][:].tolist() == [-1]
        assert np.isnan(written["evaluations"]["return_mean"][0])
        assert set(written["decisions"]["environments"][:]) == {1}
    with np.load(file) as arrays:
        np.savez(
            file,
            **{
                name: -array if name.startswith("seen") else array for name, array in arrays.items()
            },
        )
    run(*acting(trained, tmp_path, sensor), sensor=sensor)
    said = [line for line in capfd.readouterr().out.splitlines() if "recorded" in line]
    assert len(said) == 3, "whatever is seen, the same is done"
    assert not all("25 of 25" in line for line in said), "whatever is seen, the same is done"


def test_robots_in_a_world_of_their_own_earn_what_the_evaluation_did(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(trained / "run.h5") as written:
        episodes = {name: written["episodes"][name][:] for name in ("train", "seed", "return")}
    evaluated = ~episodes["train"]
    game = make_game(EnvConfig(name="pettingzoo", factory="mpe2.simple_spread_v3:parallel_env"))
    world = pettingzoo_robot.World(game, iter([*episodes["seed"][evaluated].tolist(), 0]))
    monkeypatch.setattr(pettingzoo_robot, "world", lambda: world)
    sensor = "sde_harl.examples.pettingzoo_robot:Robot"
    run(*acting(trained, tmp_path, sensor, "eval.episodes=4"), sensor=sensor)
    np.testing.assert_allclose(world.returns, episodes["return"][evaluated], rtol=1e-5)
    assert len(set(world.returns)) == 4

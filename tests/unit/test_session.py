"""The description of a session: made from a configuration, sent as JSON, read again."""

from __future__ import annotations

import json

import pytest
from pools import session_of

from sde_harl.config.arguments import parse
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.link.wire import WireError
from sde_harl.policy.shapes import FallbackShape, LocalShape, OnDeviceShape
from sde_harl.protocol.session import ActuatorSpec, SessionSpec
from sde_harl.server.settings import PoolSettings

SPEC = EnvSpec(
    name="test/game",
    agents=("a", "b", "c"),
    obs_sizes=(4, 3, 2),
    action_sizes=((3, 2), (3,), (3, 2)),
    state_size=5,
    episode_limit=9,
    continuous=False,
    unit_types=("", "", ""),
    has_win=False,
)
SHAPE = LocalShape((5, 4), 5, 8, 4, 1, True)


def config_of(*words: str) -> Config:
    config = parse(["--env", "mpe", "--algo", "happo", *words]).config
    assert config
    return config


def test_a_split_policy_with_fallback_heads() -> None:
    words = ["policy.fallback_head=true", "link.deadline_ms=20", "codec.name=int8"]
    session = SessionSpec.from_config(config_of(*words), SPEC)
    assert session.agents == (0, 1, 2)
    assert session.shape.obs_sizes == (4, 3, 2)
    assert session.codec == "int8"
    assert session.on_device is None
    assert session.actions is None
    assert session.fallback_head == FallbackShape((3, 2), False, pytest.approx(0.04))
    assert session.backend == "numpy"


def test_policies_on_devices_and_torch_on_their_hosts() -> None:
    words = ["policy.blocks=3", "policy.local_blocks=3", "codec.name=none", "seed=7"]
    config = config_of(*words, "policy.recurrent=true", "policy.width=16", "executor.backend=torch")
    session = SessionSpec.from_config(config, SPEC)
    assert session.on_device == OnDeviceShape((3, 2), False, 7, 16)
    assert session.backend == "torch"
    assert session.device == "cpu"


def test_an_executor_is_told_of_its_own_agents_alone() -> None:
    actions = ActuatorSpec(numbers=(2, 1, 2), continuous=False)
    session = SessionSpec.from_config(config_of(), SPEC)._replace(actions=actions)
    own = session.for_agents((0, 2), run_id=5, max_frame_bytes=99)
    assert own.agents == (0, 2)
    assert own.shape.obs_sizes == (4, 2)
    assert own.shape.obs == 4
    assert own.actions == ActuatorSpec(numbers=(2, 2), continuous=False)
    assert (own.run_id, own.frame_bytes) == (5, 99)
    assert (
        own._replace(
            run_id=0, agents=(0, 1, 2), shape=session.shape, frame_bytes=0, actions=actions
        )
        == session
    )


def test_the_settings_of_rank_0() -> None:
    words = ["train.envs=8", "train.slots=2", "link.deadline_ms=20", "link.failure_timeout_s=3"]
    settings = PoolSettings.from_config(config_of(*words, "link.on_fault=fallback"), SPEC)
    assert (settings.rows, settings.slots, settings.action_size) == (4, 2, 2)
    assert settings.survives_losses
    assert settings.decision_timeout_s == pytest.approx(0.02)
    assert settings._replace(deadline_s=0.0).decision_timeout_s == 3.0
    assert settings._replace(deadline_s=9.0).decision_timeout_s == 3.0


def test_golden_bytes() -> None:
    """Executors of the same protocol read these names, in whatever order."""
    session = session_of(SHAPE, run_id=3, on_device=OnDeviceShape((3,), False, 1))
    assert session.to_json() == (
        b'{"run_id": 3, "agents": [0, 1], "shape": {"obs_sizes": [5, 4], "obs": 5, "width": 8, '
        b'"latent": 4, "local_blocks": 1, "feature_norm": true, "layer_norm": false, '
        b'"conv": null, "pixels": false}, "codec": "float32", "pack": 0, "frame_bytes": 0, '
        b'"on_device": {"branches": [3], "continuous": false, "seed": 1, "memory": 0, '
        b'"heads": "sampled"}, '
        b'"idle_s": 0.0, "actions": null, "backend": "numpy", "device": "cpu", '
        b'"fallback_head": null, "plays": null}'
    )
    assert SessionSpec.from_json(memoryview(session.to_json())) == session


@pytest.mark.parametrize(
    "wrong",
    [{"extra": 1}, {"shape": None}, {"shape": {}}, {"on_device": {"seed": 1}}, {"on_device": {}}],
)
def test_other_fields_are_refused(wrong: dict[str, object]) -> None:
    fields = json.loads(session_of(SHAPE).to_json()) | wrong
    with pytest.raises(WireError, match="welcome"):
        SessionSpec.from_json(memoryview(json.dumps(fields).encode()))
    del fields["codec"]
    with pytest.raises(WireError, match="welcome"):
        SessionSpec.from_json(memoryview(json.dumps(fields).encode()))

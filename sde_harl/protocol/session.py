"""Describes a session: the WELCOME, which the server sends each executor before anything else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from sde_harl.link.wire import WireError, parse_json
from sde_harl.policy.shapes import (
    SAMPLED,
    ConvShape,
    FallbackShape,
    LocalShape,
    OnDeviceShape,
    fallback_shape,
    local_shape,
    on_device_shape,
)

if TYPE_CHECKING:  # an executor's host has neither pydantic nor the environments
    from sde_harl.config.schema import Config
    from sde_harl.envs.base import EnvSpec


class ActuatorSpec(NamedTuple):
    """Sizes of the actions of agents that have sensors and actuators of their own."""

    numbers: tuple[int, ...]
    """(n,) numbers of one action, D, of each agent."""
    continuous: bool
    """Actions are float32, else int32."""


class ShardSpec(NamedTuple):
    """Says which environments an executor plays by itself, and how."""

    first_slot: int
    slots: int
    """Slots of environments, from the first on."""
    heads: str
    """The algorithm's, as in `OnDeviceShape`."""
    critic: str
    """Kind of the critic's input, as in `CriticInput`."""
    replays: bool
    """The algorithm learns from a replay, which needs the last observations of an episode."""
    config: str
    """Digest of the server's configuration: the executor reads its own command line, and plays
    only where that says the same."""


class SessionSpec(NamedTuple):
    """Holds what an executor has to know for all of a run; travels as JSON.

    `from_config` describes all agents of a run, `for_agents` the message to one executor.
    """

    run_id: int
    agents: tuple[int, ...]
    shape: LocalShape
    """Sizes of these agents' local nets."""
    codec: str
    pack: int
    """Rows that share one coded string; 0 = all rows of a message."""
    frame_bytes: int
    """Size of the largest frame that the server sends."""
    on_device: OnDeviceShape | None
    """Sizes of policies that run on the device from end to end; None where policies are split."""
    idle_s: float
    """Pause in which the host measures its idle power."""
    actions: ActuatorSpec | None = None
    """Set where agents sense for themselves; None where the server sends their observations."""
    backend: str = "numpy"
    """What computes the local nets: numpy, torch or onnx."""
    device: str = "cpu"
    """Device on which it does."""
    fallback_head: FallbackShape | None = None
    """Sizes of the heads that act without the server; None where agents then do nothing."""
    plays: ShardSpec | None = None
    """Set where the executor plays environments of its own; None where the server does."""

    @classmethod
    def from_config(cls, config: Config, spec: EnvSpec, *, heads: str = SAMPLED) -> SessionSpec:
        """Describes all agents of a run; its id and frame size are known when executors are met.

        `heads` is the algorithm's, as in `OnDeviceShape`.
        """
        agents = tuple(range(len(spec.agents)))
        # `for_agents` replaces the run's id and the frame size once the executors are known.
        return cls(
            run_id=0,
            agents=agents,
            shape=local_shape(agents=agents, spec=spec, policy=config.policy),
            codec=config.codec.name,
            pack=config.codec.pack,
            frame_bytes=0,
            on_device=on_device_shape(
                spec=spec, policy=config.policy, seed=config.seed, heads=heads
            ),
            idle_s=config.meters.idle_s,
            actions=_actuators(config, spec),
            backend=config.executor.backend,
            device=config.executor.device,
            # An answer may take one deadline to the server and another one back.
            fallback_head=fallback_shape(
                spec=spec, policy=config.policy, wait_s=2e-3 * config.link.deadline_ms
            ),
        )

    def for_agents(
        self, agents: tuple[int, ...], *, run_id: int, max_frame_bytes: int
    ) -> SessionSpec:
        """Returns the message to the executor that holds these agents of the run."""
        actions = self.actions
        if actions is not None:
            actions = actions._replace(numbers=tuple(actions.numbers[agent] for agent in agents))
        # Everything else is the same on all executors, the padded size of observations too.
        return self._replace(
            run_id=run_id,
            agents=agents,
            shape=self.shape_of(agents),
            frame_bytes=max_frame_bytes,
            actions=actions,
        )

    def shape_of(self, agents: tuple[int, ...]) -> LocalShape:
        """Returns the sizes of some agents' local nets, of the spec of all agents."""
        return self.shape._replace(obs_sizes=tuple(self.shape.obs_sizes[agent] for agent in agents))

    def to_json(self) -> bytes:
        """Returns the payload of a WELCOME."""
        # json would write the named tuples inside as lists, which say nothing of their fields.
        shape = self.shape._asdict()
        shape["conv"] = _dict_or_none(self.shape.conv)
        fields: dict[str, Any] = {**self._asdict(), "shape": shape}
        for name in NESTED:
            fields[name] = _dict_or_none(fields[name])
        return json.dumps(fields).encode()

    @classmethod
    def from_json(cls, payload: memoryview) -> SessionSpec:
        """Reads a WELCOME. Raises WireError unless it has exactly the expected fields."""
        # A missing or unknown field shows a server of another version, which may mean other sizes.
        fields = parse_json(payload)
        if set(fields) != set(cls._fields):
            raise WireError("welcome")
        for name, kind in NESTED.items():
            if fields[name] is not None:
                fields[name] = _read_tuple(kind, fields[name])
        shape = _read_tuple(LocalShape, fields["shape"])
        if shape.conv is not None:
            shape = shape._replace(conv=_read_tuple(ConvShape, shape.conv))
        return cls(**{**_lists_to_tuples(fields), "shape": shape})


NESTED = {
    "on_device": OnDeviceShape,
    "actions": ActuatorSpec,
    "fallback_head": FallbackShape,
    "plays": ShardSpec,
}
"""Fields that are named tuples of their own, or None."""


def _actuators(config: Config, spec: EnvSpec) -> ActuatorSpec | None:
    """Returns the sizes of actions where executors have sensors and actuators of their own."""
    if config.executor.sensor == "none":
        return None
    # A discrete action has a number for each branch, a continuous one for each dimension.
    numbers = tuple(len(sizes) for sizes in spec.action_sizes)
    if spec.continuous:
        numbers = tuple(sizes[0] for sizes in spec.action_sizes)
    return ActuatorSpec(numbers=numbers, continuous=spec.continuous)


def _dict_or_none(fields: Any) -> dict[str, Any] | None:
    """Returns a named tuple as a dict; json would make it a list."""
    if fields is None:
        return None
    return dict(fields._asdict())


def _read_tuple(kind: Any, fields: Any) -> Any:
    """Returns the named tuple of these fields. Raises WireError unless they are exactly its own."""
    if not isinstance(fields, dict) or set(fields) != set(kind._fields):
        raise WireError("welcome")
    return kind(**_lists_to_tuples(fields))


def _lists_to_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields with tuples where JSON has lists, the only sequence that it knows."""
    result = {}
    for name, value in fields.items():
        if isinstance(value, list):
            value = tuple(value)
        result[name] = value
    return result

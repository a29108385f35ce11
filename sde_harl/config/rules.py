"""Rules that tie several keys together. What a single key may be stands in schema.py.

Each rule names the key whose value is wrong where the rule is broken. The rules are checked in this
order, and the first broken one is reported.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from sde_harl.codec.coder import least_bytes
from sde_harl.config.schema import PROFILES, Config


class Rule(NamedTuple):
    """A condition that a whole configuration must meet."""

    key: str
    """The key that an error line names."""
    holds: Callable[[Config], bool]
    wanted: str | Callable[[Config], str]
    """What the key's value should be: "expected <wanted>, got <value>"."""

    def value(self, config: Config) -> Any:
        """Returns the value of the rule's key."""
        return operator.attrgetter(self.key)(config)

    def expected(self, config: Config) -> str:
        """Returns what the value should be."""
        if isinstance(self.wanted, str):
            return self.wanted
        return self.wanted(config)


def first_broken(config: Config) -> Rule | None:
    """Returns the first rule that `config` breaks, or None."""
    return next((rule for rule in RULES if not rule.holds(config)), None)


def _on_device(config: Config) -> bool:
    """Returns whether the whole policy runs on the device, so that nothing is coded or sent up."""
    return config.policy.local_blocks == config.policy.blocks


def _remembers_on_device(config: Config) -> bool:
    return config.policy.recurrent and _on_device(config)


def _emulates_link(config: Config) -> bool:
    return config.link.model != PROFILES["none"]


def _uses_devices(config: Config) -> bool:
    """Returns whether executors play with their own sensors instead of an environment."""
    return config.env.name == "devices"


def _plays_remotely(config: Config) -> bool:
    """Returns whether executors play the environments."""
    return config.placement.mode == "envs"


def _groups_are_given(config: Config) -> bool:
    """Returns whether policy.groups is the source of the role groups."""
    return config.roles.source == "config" and config.roles.from_ == "none"


def _holds_each_agent_once(config: Config) -> bool:
    groups = config.policy.groups
    agents = sorted(agent for group in groups for agent in group)
    return agents == [*range(len(agents))] and () not in groups


def _chunk(config: Config) -> int:
    """Returns how many steps stay together in a minibatch."""
    if config.policy.recurrent:
        return config.algo.chunk
    return 1


def _rows(config: Config) -> int:
    """Returns how many rows, or chunks of a recurrent policy, a rollout holds for each agent."""
    return config.train.envs * config.train.rollout // _chunk(config)


def _minibatch_rows(config: Config) -> int:
    """Returns how many rows, or chunks, the smallest minibatch holds."""
    algo = config.algo
    return _rows(config) // max(algo.minibatches, algo.critic_minibatches)


def _least_bytes(config: Config) -> float:
    """Returns the payload bytes of a decision that remain when every symbol costs nothing."""
    return least_bytes(config.train.envs // config.train.slots, config.codec.pack)


def _is_power_of_2(number: float) -> bool:
    mantissa, _ = math.frexp(number)
    return mantissa == 0.5


def _is_folder_name(name: str) -> bool:
    return "/" not in name and name not in (".", "..")


# A device that missed a step would go on with a memory that lacks it, and no one could tell.
REMEMBERING = (
    "policy.recurrent, policy.local_blocks = policy.blocks: a device that misses a step remembers"
    " wrongly"
)

POLICY_RULES = (
    Rule(
        key="policy.local_blocks",
        holds=lambda config: config.policy.local_blocks <= config.policy.blocks,
        wanted=lambda config: f"policy.blocks ({config.policy.blocks}) or less",
    ),
    Rule(
        key="codec.name",
        holds=lambda config: config.codec.name != "none" or _on_device(config),
        wanted="a codec (policy.local_blocks < policy.blocks: latents are sent)",
    ),
    Rule(
        key="codec.name",
        holds=lambda config: config.codec.name == "none" or not _on_device(config),
        wanted="none (policy.local_blocks = policy.blocks: nothing is coded)",
    ),
    Rule(
        key="policy.fallback_head",
        holds=lambda config: not (config.policy.fallback_head and _on_device(config)),
        wanted="false (policy.local_blocks = policy.blocks: all of the policy is on the device)",
    ),
)

ROLE_RULES = (
    Rule(
        key="policy.groups",
        holds=_holds_each_agent_once,
        wanted="every agent from 0 on exactly once",
    ),
    Rule(
        key="policy.groups",
        holds=lambda config: not config.policy.groups or _groups_are_given(config),
        wanted="none, for roles.source or roles.from gives them",
    ),
    Rule(
        key="roles.source",
        holds=lambda config: config.roles.source == "config" or config.roles.from_ == "none",
        wanted="config, to have roles.from",
    ),
    Rule(
        key="roles.count",
        holds=lambda config: config.roles.count == 0 or config.roles.source != "config",
        wanted="0, for roles.source = config counts none",
    ),
)

ROLLOUT_RULES = (
    Rule(
        key="train.envs",
        holds=lambda config: config.train.envs % config.train.slots == 0,
        wanted=lambda config: f"a multiple of train.slots = {config.train.slots}",
    ),
    Rule(
        key="algo.minibatches",
        holds=lambda config: config.algo.minibatches <= _rows(config),
        wanted=lambda config: f"{_rows(config)} (a rollout's rows or chunks) or less",
    ),
    Rule(
        key="algo.critic_minibatches",
        holds=lambda config: config.algo.critic_minibatches <= _rows(config),
        wanted=lambda config: f"{_rows(config)} (a rollout's rows or chunks) or less",
    ),
    Rule(
        key="train.rollout",
        holds=lambda config: config.train.rollout % _chunk(config) == 0,
        wanted=lambda config: f"a multiple of algo.chunk ({_chunk(config)})",
    ),
    Rule(
        key="learner.ranks",
        holds=lambda config: config.learner.ranks <= _minibatch_rows(config),
        wanted=lambda config: f"{_minibatch_rows(config)} (a minibatch's rows or chunks) or less",
    ),
)

CODEC_RULES = (
    Rule(
        key="codec.target_bytes",
        holds=lambda config: config.codec.target_bytes == 0 or config.codec.name == "entropy",
        wanted="0 (codec.name is not entropy)",
    ),
    Rule(
        key="codec.target_bytes",
        holds=lambda config: (
            config.codec.target_bytes == 0 or config.codec.target_bytes > _least_bytes(config)
        ),
        wanted=lambda config: f"more than {_least_bytes(config):g}, what no rate can save",
    ),
    Rule(
        key="codec.latent_scale",
        holds=lambda config: _is_power_of_2(config.codec.latent_scale),
        wanted="a power of 2: weights are exact multiples then",
    ),
    Rule(
        # The weight is multiplied by factors: from 0 it could not be steered.
        key="codec.rate_coef",
        holds=lambda config: config.codec.target_bytes == 0 or config.codec.rate_coef > 0,
        wanted="a number above 0 for codec.target_bytes to start from",
    ),
)

LINK_RULES = (
    Rule(
        key="link.deadline_ms",
        holds=lambda config: config.link.deadline_ms > 0 or not _emulates_link(config),
        wanted="more than 0, with link.model",
    ),
    Rule(
        key="link.deadline_ms",
        holds=lambda config: config.link.deadline_ms == 0 or not _remembers_on_device(config),
        wanted=f"0 ({REMEMBERING})",
    ),
    Rule(
        key="link.on_fault",
        holds=lambda config: config.link.on_fault == "abort" or not _remembers_on_device(config),
        wanted=f"abort ({REMEMBERING})",
    ),
    Rule(
        key="link.on_fault",
        holds=lambda config: config.link.on_fault != "redeal" or config.executor.sensor == "none",
        wanted="abort or fallback (the agents have sensors of their own)",
    ),
    Rule(
        key="link.model",
        holds=lambda config: not (_emulates_link(config) and _on_device(config)),
        wanted="none (policy.local_blocks = policy.blocks)",
    ),
)

EXECUTOR_RULES = (
    Rule(
        key="executor.device",
        holds=lambda config: config.executor.device == "cpu" or config.executor.backend != "numpy",
        wanted="cpu (executor.backend is numpy)",
    ),
    Rule(
        key="executor.device",
        holds=lambda config: (
            config.executor.device != "tensorrt" or config.executor.backend == "onnx"
        ),
        wanted="cpu or cuda (executor.backend is not onnx)",
    ),
    Rule(
        key="executor.sensor",
        holds=lambda config: config.executor.sensor == "none" or _uses_devices(config),
        wanted="none (env.name is not devices)",
    ),
    Rule(
        key="executor.sensor",
        holds=lambda config: config.executor.sensor != "none" or not _uses_devices(config),
        wanted="module:function (env.name = devices)",
    ),
)

DEVICE_RULES = (
    Rule(
        key="env.spec",
        holds=lambda config: config.env.spec != "none" or not _uses_devices(config),
        wanted="a run's spec.json (env.name = devices)",
    ),
    Rule(
        key="train.load",
        holds=lambda config: config.train.load != "none" or not _uses_devices(config),
        wanted="a checkpoint (env.name = devices)",
    ),
    Rule(
        key="link.deadline_ms",
        holds=lambda config: (
            config.link.deadline_ms > 0
            or not config.policy.fallback_head
            or not _uses_devices(config)
        ),
        wanted="more than 0 (policy.fallback_head, env.name = devices)",
    ),
    Rule(
        key="train.steps",
        holds=lambda config: config.train.steps == 0 or not _uses_devices(config),
        wanted="0 (env.name = devices: nobody knows the rewards)",
    ),
    Rule(
        key="train.envs",
        holds=lambda config: config.train.envs == 1 or not _uses_devices(config),
        wanted="1 (env.name = devices: there is one world)",
    ),
    Rule(
        key="record.trajectories",
        holds=lambda config: config.record.trajectories == "none" or not _uses_devices(config),
        wanted="none (env.name = devices)",
    ),
)

PLACEMENT_RULES = (
    Rule(
        key="placement.mode",
        holds=lambda config: not (_plays_remotely(config) and _uses_devices(config)),
        wanted="agents (env.name = devices: there is one world)",
    ),
    Rule(
        key="placement.assign",
        holds=lambda config: not (_plays_remotely(config) and config.placement.assign),
        wanted="nothing (placement.mode = envs: each executor has all agents)",
    ),
    # Agents and environments are in one process there, so nothing can come late.
    Rule(
        key="link.deadline_ms",
        holds=lambda config: config.link.deadline_ms == 0 or not _plays_remotely(config),
        wanted="0 (placement.mode = envs)",
    ),
    Rule(
        key="link.on_fault",
        holds=lambda config: config.link.on_fault != "fallback" or not _plays_remotely(config),
        wanted="abort or redeal (placement.mode = envs: nothing is learnt without all slots)",
    ),
    Rule(
        key="train.overlap",
        holds=lambda config: not config.train.overlap or _plays_remotely(config),
        wanted=lambda config: (
            f"false (placement.mode = {config.placement.mode}: rank 0 plays, and can't learn"
            " meanwhile)"
        ),
    ),
    Rule(
        key="executor.backend",
        holds=lambda config: config.executor.backend == "numpy" or not _plays_remotely(config),
        wanted="numpy (placement.mode = envs)",
    ),
)

RECORD_RULES = (
    Rule(
        key="record.exp",
        holds=lambda config: _is_folder_name(config.record.exp),
        wanted="the name of a folder",
    ),
)

RULES = (
    *POLICY_RULES,
    *ROLE_RULES,
    *ROLLOUT_RULES,
    *CODEC_RULES,
    *LINK_RULES,
    *EXECUTOR_RULES,
    *DEVICE_RULES,
    *PLACEMENT_RULES,
    *RECORD_RULES,
)

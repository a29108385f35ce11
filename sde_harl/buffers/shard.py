"""A shard: the part of a rollout that one executor has played, as the arrays of one message.

N agents, T time, E environments of the shard, S slots of the shard; the others as in rollout.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from sde_harl.buffers.layout import Field
from sde_harl.buffers.rollout import Rollout

PLAYED = (
    "obs",
    "final_obs",
    "available_actions",
    "active_masks",
    "actions",
    "log_probs",
    "memory",
    "critic_inputs",
    "final_critic_inputs",
    "rewards",
    "terminated",
    "truncated",
    "void",
)
"""The arrays of a `Rollout` that travel. The latents don't: where none is late, learning makes them
from the observations again."""


def shard_fields(rollout: Rollout, *, envs: int, slots: int) -> dict[str, Field]:
    """Describes the arrays of a shard of so many `envs` in so many `slots`.

    `rollout` may have any number of environments. Behind its arrays lies what the decisions took:
    (T, S), (T, S, N) or (T, S, N, 3), as `Decisions` has it.
    """
    fields: dict[str, Field] = {}
    for name in PLAYED:
        array = getattr(rollout, name)
        axis = _env_axis(array)
        shape = (*array.shape[:axis], envs, *array.shape[axis + 1 :])
        fields[name] = Field(dtype=array.dtype.str, shape=shape)
    agents = len(rollout.obs)
    decisions = (len(rollout.rewards), slots)
    return {
        **fields,
        "payload_bytes": Field(dtype="<u4", shape=(*decisions, agents)),
        "ideal_bits": Field(dtype="<f4", shape=(*decisions, agents)),
        "decode_ns": Field(dtype="<u4", shape=(*decisions, agents)),
        "device_ns": Field(dtype="<u4", shape=(*decisions, agents, 3)),
        "policy_ns": Field(dtype="<u4", shape=decisions),
        "decision_ns": Field(dtype="<u4", shape=decisions),
    }


def write_in_place(rollout: Rollout, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Has a rollout lie in the arrays of a shard, so that playing it writes the message."""
    for name in PLAYED:
        setattr(rollout, name, arrays[name])


def join(rollout: Rollout, arrays: Mapping[str, NDArray[Any]], envs: slice) -> None:
    """Copies a shard into a rollout of all environments, to its own ones."""
    for name in PLAYED:
        whole = getattr(rollout, name)
        before = (slice(None),) * _env_axis(whole)
        whole[(*before, envs)] = arrays[name]


def _env_axis(array: NDArray[Any]) -> int:
    # (T, E), else (N, T, E, ...)
    if array.ndim == 2:
        return 1
    return 2

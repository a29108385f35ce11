"""The data that rank 0 gives the other learners at the beginning of an update.

That is all that learns, as it is before the update, and the rollout. So a learner keeps nothing
from one update to the next: one that starts with a run that goes on has lost nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sde_harl.buffers.rollout import Rollout
from sde_harl.link.wire import WireError
from sde_harl.training.learned import Learned

HEAD = struct.Struct("<dd?")


class Giver(Protocol):
    """Gives the first learner's arrays to the others."""

    rank: int

    def share(self, array: NDArray[Any]) -> None:
        """Writes the first learner's array over those of the others."""


class UpdateHead(NamedTuple):
    """The payload of a LEARN that asks for an update."""

    progress: float
    """As in `Algorithm.update`."""
    rate_coef: float
    has_latents: bool
    """Latents are learnt from only where some were late; else they don't travel."""

    def to_bytes(self) -> bytes:
        return HEAD.pack(*self)

    @classmethod
    def from_bytes(cls, payload: memoryview) -> UpdateHead:
        """Raises WireError for a payload of another length."""
        if len(payload) != HEAD.size:
            raise WireError("length")
        return cls(*HEAD.unpack(payload))


def share_update(team: Giver, learned: Learned, rollout: Rollout, *, has_latents: bool) -> None:
    """Brings all learners to what the first one has learnt and played."""
    _share_state(team, learned)
    for name, array in sorted(vars(rollout).items()):
        if isinstance(array, np.ndarray) and array.size and (has_latents or name != "latents"):
            team.share(array)


def _share_state(team: Giver, learned: Learned) -> None:
    state = {
        "policy": learned.policy.state_dict(),
        "algorithm": learned.algorithm.state_dict(),
        "generator": {"state": learned.generator.get_state()},
    }
    tensors = [each.detach().cpu().contiguous() for each in _tensors(state)]
    # One message, for the nets are many small tensors.
    message = torch.cat([each.reshape(-1).view(torch.uint8) for each in tensors])
    team.share(message.numpy())
    if team.rank == 0:
        return
    sizes = [each.nbytes for each in tensors]
    received = (
        part.clone().view(each.dtype).reshape(each.shape)
        for part, each in zip(message.split(sizes), tensors)
    )
    state = _replaced(state, received)
    learned.policy.load_state_dict(state["policy"])
    learned.algorithm.load_state_dict(state["algorithm"])
    learned.generator.set_state(state["generator"]["state"])


def _tensors(state: Mapping[str, Any]) -> Iterator[Tensor]:
    for value in state.values():
        if isinstance(value, Mapping):
            yield from _tensors(value)
        elif isinstance(value, Tensor):
            yield value


def _replaced(state: Mapping[str, Any], tensors: Iterator[Tensor]) -> dict[str, Any]:
    """Returns a state with other tensors, which come in the order of `_tensors`."""
    result: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            result[name] = _replaced(value, tensors)
        elif isinstance(value, Tensor):
            result[name] = next(tensors)
        else:
            result[name] = value
    return result

"""The interface of an algorithm, on-policy or off-policy, to the trainer."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from sde_harl.buffers.rollout import Rollout
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.shapes import SAMPLED
from sde_harl.policy.split_policy import SplitPolicy


class Net(Protocol):
    """A part whose state another run may take over, in torch's words."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> object: ...


class Algorithm(ABC):
    """Learns from what was played."""

    continuous: ClassVar[bool] = True
    """True if it can act in continuous action spaces."""
    discrete: ClassVar[bool] = True
    """True if it can act in spaces of choices."""
    most_choices: ClassVar[int] = sys.maxsize
    """The most choices that an action may consist of."""
    decentralised_critic: ClassVar[bool] = False
    """True if the critic sees only an agent's own observation, not the state."""
    replays: ClassVar[bool] = False
    """True if it learns from a replay of all that was played (off-policy), and so explores."""

    policy: SplitPolicy
    """What it updates: the run's, or a copy of it on another device."""
    rate_coef: float
    """Lambda of the next update, the weight of the rate in the loss."""

    @classmethod
    def heads(cls, spec: EnvSpec) -> str:
        """Returns what the heads' outputs mean in an environment (policy/shapes.py)."""
        return SAMPLED

    def start(self, rollout: Rollout) -> None:  # noqa: B027
        """Makes what depends on the size of a rollout, before the first one and before a state is
        loaded."""

    def store(self, folder: Path) -> None:  # noqa: B027
        """Stores beside the checkpoints in `folder` what is too large to be a part of them.

        Raises UserError where the disk refuses it.
        """

    def restore(self, folder: Path) -> str:
        """Brings back what `store` has stored, after `load_state_dict`.

        Returns a line that says what could not be brought back, or nothing.
        """
        return ""

    @abstractmethod
    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Learns after one rollout; returns scalars to log, the same names every time.

        `progress` of the run before the rollout, 0 to below 1, drives the decay of the learning
        rates: it goes from 1 down to one update's share, and never to 0.
        """

    @abstractmethod
    def nets(self) -> dict[str, Net]:
        """Returns what a run that starts from another's nets takes over of its algorithm.

        By the names that they have in `state_dict`, levels joined by slashes.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns what changes over a run, except the policy itself."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""

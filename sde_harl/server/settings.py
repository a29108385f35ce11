"""The settings that only rank 0 needs; protocol/session.py has those that executors get."""

from __future__ import annotations

from typing import NamedTuple

from sde_harl.config.schema import Config, LinkProfile
from sde_harl.envs.base import EnvSpec
from sde_harl.protocol.actions import action_dtype


class PoolSettings(NamedTuple):
    """Holds the settings of an `ExecutorPool`."""

    rows: int
    """E, environments of one slot: most rows of a message."""
    slots: int
    action_size: int
    """D, numbers of an action."""
    continuous: bool
    """Actions are float32, else int32."""
    assign: dict[int, int]
    """Executor rank of each agent that is pinned by hand."""
    failure_timeout_s: float
    """Silence after which an executor is given up."""
    deadline_s: float = 0.0
    """Time that a decision waits for its latents; 0 = `failure_timeout_s`."""
    max_age: int = 0
    """Decisions for which an agent's last latents may be used in place of missing ones."""
    survives_losses: bool = False
    """The run goes on without executors that are given up; else it ends."""
    redeals: bool = False
    """Others get the agents of executors that are given up; else these do nothing."""
    profile: LinkProfile = LinkProfile()
    """The radio links to emulate; the default emulates none."""
    seed: int = 0
    """Seed of the emulated links."""

    @classmethod
    def from_config(cls, config: Config, spec: EnvSpec) -> PoolSettings:
        """Takes the settings from a run's configuration."""
        return cls(
            rows=config.train.envs // config.train.slots,
            slots=config.train.slots,
            action_size=len(spec.branches),
            continuous=spec.continuous,
            assign=dict(config.placement.assign),
            failure_timeout_s=config.link.failure_timeout_s,
            deadline_s=1e-3 * config.link.deadline_ms,
            max_age=config.link.max_age,
            survives_losses=config.link.on_fault != "abort",
            redeals=config.link.on_fault == "redeal",
            profile=config.link.model,
            seed=config.seed,
        )

    @property
    def decision_timeout_s(self) -> float:
        """Time that a decision waits for its latents at most."""
        # A deadline beyond the failure timeout would never be reached.
        return min(self.deadline_s or self.failure_timeout_s, self.failure_timeout_s)

    @property
    def send_timeout_s(self) -> float:
        """Time that a frame waits until the last one of its kind has left."""
        # An executor that answers in time has taken what it was sent before: with a deadline there
        # is nothing to wait for, and waiting would make the decision late.
        if self.deadline_s:
            return 0.0
        return self.failure_timeout_s

    @property
    def action_dtype(self) -> str:
        """numpy's name of the type of actions on the wire."""
        return action_dtype(self.continuous)

"""Saves what was learnt, and starts a run from what another one saved."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sde_harl.algorithms.on_policy.base import OnPolicy
from sde_harl.auxiliary.distillation import Distillation
from sde_harl.config.layers import shown
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.policy.split_policy import SplitPolicy
from sde_harl.record.checkpoint import load, save

FALLBACK = "fallback_head."
"""What the fallback heads' names in a checkpoint begin with."""
SPARE = ("latent_model", FALLBACK)
"""What a checkpoint may have more than its reader needs: a plain codec has no entropy model."""


class Checkpoints:
    """Knows the stateful parts of a run, and how a checkpoint holds them."""

    def __init__(
        self,
        *,
        config: Config,
        spec: EnvSpec,
        policy: SplitPolicy,
        algorithm: OnPolicy,
        fallback: Distillation | None,
    ) -> None:
        self._config = config
        self._spec = spec
        self._policy = policy
        self._algorithm = algorithm
        self._fallback = fallback

    def save(self, path: Path, *, steps: int, version: int) -> None:
        """Writes a checkpoint. Raises UserError where it can't be written."""
        meta: dict[str, str | int | float] = {
            "env": self._spec.name,
            "algo": self._config.algo.name,
            "steps": steps,
            "version": version,
            "groups": self._groups(),
        }
        save(path, self.state(), meta)

    def state(self) -> dict[str, torch.Tensor]:
        """Returns everything that was learnt; of the optimisers, the fallback heads' alone."""
        critic_trainer = self._algorithm.critic_trainer
        tensors = {f"policy.{key}": value for key, value in self._policy.state_dict().items()}
        tensors |= {
            f"critic.{key}": value for key, value in critic_trainer.critic.state_dict().items()
        }
        if self._fallback:
            heads = self._fallback.state_dict()
            tensors |= {f"{FALLBACK}{key}": value for key, value in heads.items()}
        return tensors | {"value_norm": critic_trainer.value_norm.state_dict()["moments"]}

    def start_from(self, path: Path) -> None:
        """Takes over the nets of another run. Raises UserError where they don't fit this one's."""
        shapes = {name: tuple(each.shape) for name, each in self.state().items()}
        tensors, meta = load(path, shapes, SPARE, optional=FALLBACK)
        groups = self._groups()
        if meta.get("groups", groups) != groups:
            theirs = shown(str(meta["groups"]))
            raise UserError(f"train.load: {path} is of the role groups {theirs}, not {groups}")
        self._policy.load_state_dict(_below("policy.", tensors))
        critic_trainer = self._algorithm.critic_trainer
        critic_trainer.critic.load_state_dict(_below("critic.", tensors))
        critic_trainer.value_norm.load_state_dict({"moments": tensors["value_norm"]})
        if self._fallback:
            self._restore_fallback(self._fallback, path, _below(FALLBACK, tensors))

    def _groups(self) -> str:
        """Returns the role groups as a checkpoint names them."""
        return json.dumps([net.members for net in self._policy.groups])

    def _restore_fallback(
        self, fallback: Distillation, path: Path, tensors: dict[str, torch.Tensor]
    ) -> None:
        """Takes over fallback heads; a checkpoint without them leaves them to be learnt.

        Raises UserError where they are damaged, or missing in a run that doesn't learn.
        """
        if tensors:
            try:
                fallback.load_state_dict(tensors)
            except ValueError as error:
                raise UserError(
                    f"train.load: {path}: its exit heads are damaged: {error}"
                ) from error
        elif not self._config.train.steps:
            raise UserError(
                f"policy.fallback_head: expected false, for {path} has no exit heads and "
                "train.steps = 0"
            )


def _below(head: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors whose names begin with `head`, without it."""
    return {key[len(head) :]: each for key, each in tensors.items() if key.startswith(head)}

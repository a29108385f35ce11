"""The exit heads' training: after each update of the policies they learn what these do, on rows of the same rollout.

An agent's head minimises KL(pi_server(.|z^) || pi_exit(.|z)) (distillation: Hinton et al., arXiv 1503.02531, 2015, at
temperature 1), where z is what its present local net gives and z^ what the server decodes of it. Latents and the
server's outputs are data here: no gradient reaches the policies, and no random number is drawn that they could miss.
Continuous heads have the server's deviations.

N agents, n of a group, T time, E environments, S sequences, B rows, Z latent, A outputs of a head, D numbers of an
action.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.sequences import keep_masks
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.distributions import MASKED_LOGIT, Categoricals, Distribution, Gaussians
from sde_harl.policy.gru import RecurrentState
from sde_harl.policy.layers import affine
from sde_harl.policy.split_policy import SplitPolicy

ROWS, STEPS, LR = 1024, 16, 1e-2
"""Rows of an agent that are learnt from in an update, steps of Adam on all of them, its learning rate."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of a parameter."""


class Lesson(NamedTuple):
    """What is to be learnt from, of all agents."""

    latents: Tensor
    """(N, B, Z) before quantisation, in units of the local net's, not in the quantiser's steps."""
    outputs: Tensor
    """(N, B, A) of the server's heads."""
    std: Tensor
    """(N, 1, D) of continuous actions."""
    available: Tensor
    """(N, B, A) bool."""
    counts: Tensor
    """(N, B) 1.0 where the agent was alive and its policy decided."""

    def mean(self, values: Tensor) -> Tensor:
        """Of (N, B), over the rows that count."""
        return (values * self.counts).sum() / self.counts.sum().clamp(min=1.0)


class Distillation:
    """The exit heads of all agents, which start at zero: all that is available is alike to them."""

    def __init__(self, policy: SplitPolicy, spec: EnvSpec, seed: int) -> None:
        """`seed`: of the choice of rows."""
        self._policy, self._spec, self._seed = policy, spec, seed
        n, outputs = len(spec.agents), sum(spec.branches)
        self._weight = nn.Parameter(torch.zeros(n, policy.shape.latent_max(), outputs))
        self._bias = nn.Parameter(torch.zeros(n, 1, outputs))
        self._named = {"weight": self._weight, "bias": self._bias}
        self._optimizer = torch.optim.Adam(self._named.values(), LR, fused=True)
        self._set_moments(
            [
                (torch.zeros(()), torch.zeros_like(each), torch.zeros_like(each))
                for each in self._both()
            ]
        )

    def update(self, rollout: Rollout, step: int) -> dict[str, float]:
        """Learn from a rollout that ended with environment step `step`; what is logged is of before its rows were seen.

        fallback/kl in nats; fallback/agreement, the share of actions whose most likely choices are the server's, or, continuous
        ones, whose means are all within a deviation of the server's.
        """
        lesson = self._lesson(rollout, step)
        with torch.no_grad():
            scalars = {
                "fallback/kl": self._kl(lesson),
                "fallback/agreement": lesson.mean(self._agrees(lesson)),
            }
        for _ in range(STEPS):
            self._optimizer.zero_grad()
            self._kl(lesson).backward()
            self._optimizer.step()
        return {name: float(value) for name, value in scalars.items()}

    def arrays(self) -> list[list[np.ndarray]]:
        """Per agent, what its device holds, in wire order (policy/exit.py): the latent's scale is folded in.

        What an agent lacks of the layout it never chooses, whoever says what is available.
        """
        weight, bias = (each.detach().numpy() for each in self._both())
        weight = weight / np.float32(self._policy.groups[0].scale)
        if not self._spec.continuous:
            bias = np.where(self._spec.choices()[:, None], bias, np.float32(MASKED_LOGIT))
        return [[weight[agent], bias[agent, 0].copy()] for agent in range(len(weight))]

    def state_dict(self) -> dict[str, Tensor]:
        """The heads, and of their optimiser what the next update begins with."""
        moments = self._optimizer.state_dict()["state"]
        tensors = {
            f"{name}.{key}": moments[k][key]
            for k, name in enumerate(self._named)
            for key in MOMENTS
        }
        return {**self._named, **tensors}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave. Raises ValueError, and changes nothing, for numbers that it never gives."""
        least = {
            name: 0.0 if name.endswith(("step", "exp_avg_sq")) else -math.inf for name in tensors
        }
        if not all(
            each.isfinite().all() and (each >= least[name]).all() for name, each in tensors.items()
        ):
            raise ValueError("not finite, or below zero where only squares and counts are")
        with torch.no_grad():
            for name, each in self._named.items():
                each.copy_(tensors[name])
        self._set_moments(
            [
                tuple(tensors[f"{name}.{key}"].float().clone() for key in MOMENTS)
                for name in self._named
            ]
        )

    def _both(self) -> list[nn.Parameter]:
        return [*self._named.values()]

    def _set_moments(self, moments: list[tuple[Tensor, ...]]) -> None:
        state = {k: dict(zip(MOMENTS, each)) for k, each in enumerate(moments)}
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})

    @torch.no_grad()
    def _lesson(self, rollout: Rollout, step: int) -> Lesson:
        """Random sequences of the rollout through the present nets."""
        length, (steps, envs) = rollout.chunk, rollout.rewards.shape
        sequences = np.random.default_rng((self._seed, step)).permutation(steps // length * envs)
        chunk, env = np.divmod(sequences[: max(ROWS // length, 1)], envs)  # (S,)
        times, envs_at = (
            chunk[:, None] * length + np.arange(length),
            env[:, None],
        )  # (S, length), (S, 1)
        rows = lambda each: torch.from_numpy(each[:, times, envs_at]).flatten(1, 2)  # noqa: E731
        obs, available = rows(rollout.obs), rows(rollout.available_actions)
        n, size = obs.shape[:2]
        latents, outputs = (
            torch.empty(n, size, self._weight.shape[1]),
            torch.empty(n, size, self._bias.shape[-1]),
        )
        std = torch.ones(n, 1, len(self._spec.branches))
        keep = keep_masks(rollout.ended)[:, times, envs_at]
        for net in self._policy.groups:
            members = list(net.members)
            recall = (
                RecurrentState(torch.from_numpy(rollout.memory[members][:, chunk, env]), keep)
                if net.gru
                else None
            )
            z = net.encode(net.normalise(obs[members]))
            latents[members], outputs[members] = z / net.scale, net.decide(net.quantise(z), recall)
            if net.log_std is not None:
                std[members] = net.std()
        return Lesson(
            latents, outputs, std, available, rows(rollout.active_masks & rollout.decided).float()
        )

    def _kl(self, lesson: Lesson) -> Tensor:
        """Mean KL(server || exit head) in nats."""
        exits = self._distribution(affine(lesson.latents, self._weight, self._bias), lesson)
        return lesson.mean(exits.kl(self._distribution(lesson.outputs, lesson)))

    def _distribution(self, outputs: Tensor, lesson: Lesson) -> Distribution:
        if self._spec.continuous:
            return Gaussians(outputs, lesson.std, lesson.available)
        return Categoricals(outputs, self._spec.branches, lesson.available)

    def _agrees(self, lesson: Lesson) -> Tensor:
        """(N, B) bool."""
        exits = affine(lesson.latents, self._weight, self._bias)
        if self._spec.continuous:
            return (((exits - lesson.outputs).abs() <= lesson.std) | ~lesson.available).all(-1)
        both = (
            each.masked_fill(~lesson.available, MASKED_LOGIT) for each in (exits, lesson.outputs)
        )
        pairs = zip(*(each.split(self._spec.branches, -1) for each in both))
        return torch.stack([one.argmax(-1) == other.argmax(-1) for one, other in pairs]).all(0)

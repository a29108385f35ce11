"""The training of the fallback heads: small heads on the devices that act when the server's answer
doesn't come.

After each update of the policies an agent's fallback head learns to imitate the policy, on rows of
the same rollout. It minimises KL(pi_server(.|z^) || pi_fallback(.|z)) (distillation: Hinton et al.,
arXiv 1503.02531, 2015, at temperature 1), where z is the latent of the agent's present local net
and z^ is what the server decodes of it.

Nothing of it changes the policies: latents and the server's outputs are data here, so no gradient
reaches them, and its random numbers come from a generator of its own, so that runs with and without
fallback heads draw the same others. Continuous heads learn means only; they use the server's
deviations.

N agents, n of a group, T time, E environments, S sequences of L steps, B = S * L rows, Z latent, A
outputs of a head, D numbers of an action.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.sequences import keep_masks
from sde_harl.draws.counters import Purpose, generator
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.distributions import MASKED_LOGIT, Categoricals, Distribution, Gaussians
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.gru import RecurrentState
from sde_harl.policy.layers import affine
from sde_harl.policy.split_policy import SplitPolicy

ROWS = 1024
"""Rows of an agent that are learnt from in an update."""
STEPS = 16
"""Steps of Adam in an update, each on all of these rows."""
LR = 1e-2
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""Adam's state of a parameter, by torch's names."""


class Lesson(NamedTuple):
    """The data of one update, of all agents."""

    latents: Tensor
    """(N, B, Z) before quantisation, in units of the local net and not of the quantiser's steps."""
    outputs: Tensor
    """(N, B, A) of the server's heads, the targets."""
    std: Tensor
    """(N, 1, D) of continuous actions."""
    available_actions: Tensor
    """(N, B, A) bool."""
    counts: Tensor
    """(N, B) 1.0 where the agent was alive and its policy decided."""

    def mean(self, values: Tensor) -> Tensor:
        """Returns the mean of values (N, B) over the rows that count."""
        return (values * self.counts).sum() / self.counts.sum().clamp(min=1.0)


class SampledRows(NamedTuple):
    """Random sequences of a rollout, as indices into it."""

    chunk: NDArray[np.int64]
    """(S,), which chunk of L steps."""
    env: NDArray[np.int64]
    """(S,)."""
    times: NDArray[np.int64]
    """(S, L)."""

    def of(self, array: NDArray[Any]) -> Tensor:
        """Returns (N, B, ...), these rows of an array (N, T, E, ...)."""
        return torch.from_numpy(array[:, self.times, self.env[:, None]]).flatten(1, 2)


class Distillation:
    """Trains the fallback heads of all agents.

    They start at zero: all available actions are equally likely.
    """

    def __init__(self, policy: SplitPolicy, spec: EnvSpec, seed: int) -> None:
        """`seed` chooses the rows that are learnt from."""
        self._policy = policy
        self._spec = spec
        self._seed = seed
        agents = len(spec.agents)
        outputs = sum(spec.branches)
        self._weight = nn.Parameter(torch.zeros(agents, policy.shape.latent_max(), outputs))
        self._bias = nn.Parameter(torch.zeros(agents, 1, outputs))
        self._named = {"weight": self._weight, "bias": self._bias}
        self._optimizer = torch.optim.Adam(self._named.values(), LR, fused=True)
        # torch creates the moments at the first step; a checkpoint saved before it needs them too.
        self._set_moments(_zero_moments(each) for each in self._named.values())

    def update(self, rollout: Rollout, step: int) -> dict[str, float]:
        """Learns from a rollout that ended with environment step `step`; returns scalars to log.

        They are taken before the rows are learnt from. fallback/kl is in nats. fallback/agreement
        is the share of actions whose most likely choices are the server's; of continuous ones, of
        those whose means are all within one deviation of the server's.
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

    def arrays(self) -> list[list[NDArray[np.float32]]]:
        """Returns weight and bias of each agent's head as its device holds them, in wire order."""
        # A device's latents are in the quantiser's steps; the scale is folded into the weights.
        weight = self._weight.detach().numpy() / np.float32(self._policy.groups[0].scale)
        bias = self._bias.detach().numpy()
        if not self._spec.continuous:
            # Choices that an agent doesn't have are masked here for good, since the device of an
            # agent acts without the server's mask of available actions.
            bias = np.where(self._spec.choices()[:, None], bias, np.float32(MASKED_LOGIT))
        return [[weight[agent], bias[agent, 0].copy()] for agent in range(len(weight))]

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the heads, and Adam's moments by `parameter.moment`.

        Flat and not as torch's optimisers have it, since a checkpoint of any run holds the heads
        under these names.
        """
        moments = self._optimizer.state_dict()["state"]
        tensors = {
            f"{name}.{key}": moments[index][key]
            for index, name in enumerate(self._named)
            for key in MOMENTS
        }
        return {**self._named, **tensors}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state_dict` returned.

        Raises ValueError, and changes nothing, for numbers that it never returns.
        """
        for name, each in state.items():
            least = 0.0 if name.endswith(("step", "exp_avg_sq")) else -math.inf
            if not (each.isfinite().all() and (each >= least).all()):
                raise ValueError("not finite, or below zero where only squares and counts are")
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(state[name])
        self._set_moments(
            {key: state[f"{name}.{key}"].float().clone() for key in MOMENTS} for name in self._named
        )

    def _set_moments(self, moments: Iterable[dict[str, Tensor]]) -> None:
        """Sets Adam's moments of each parameter."""
        state = dict(enumerate(moments))
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})

    @torch.no_grad()
    def _lesson(self, rollout: Rollout, step: int) -> Lesson:
        """Runs random sequences of the rollout through the present nets."""
        rows = self._sample(rollout, step)
        obs = rows.of(rollout.obs)  # (N, B, O)
        agents, count = obs.shape[:2]
        latents = torch.empty(agents, count, self._weight.shape[1])
        outputs = torch.empty(agents, count, self._bias.shape[-1])
        std = torch.ones(agents, 1, len(self._spec.branches))
        for net in self._policy.groups:
            members = list(net.members)
            z = net.encode(net.normalise(obs[members]))  # (n, B, Z)
            latents[members] = z / net.scale
            outputs[members] = net.decide(net.quantise(z), _recurrent_state(rollout, net, rows))
            if net.log_std is not None:
                std[members] = net.std()
        return Lesson(
            latents=latents,
            outputs=outputs,
            std=std,
            available_actions=rows.of(rollout.available_actions),
            counts=rows.of(rollout.active_masks & rollout.decided).float(),
        )

    def _sample(self, rollout: Rollout, step: int) -> SampledRows:
        """Draws ROWS rows, as complete sequences; the same seed and step draw the same ones."""
        length = rollout.chunk
        steps, envs = rollout.rewards.shape
        draws = generator(self._seed, Purpose.DISTILLATION, step)
        sequences = draws.permutation(steps // length * envs)
        chunk, env = np.divmod(sequences[: max(ROWS // length, 1)], envs)
        times = chunk[:, None] * length + np.arange(length)  # (S, L)
        return SampledRows(chunk=chunk, env=env, times=times)

    def _kl(self, lesson: Lesson) -> Tensor:
        """Returns the mean KL(server || fallback head) in nats."""
        fallback = self._distribution(self._outputs(lesson), lesson)
        return lesson.mean(fallback.kl(self._distribution(lesson.outputs, lesson)))

    def _outputs(self, lesson: Lesson) -> Tensor:
        """Returns (N, B, A) of the fallback heads."""
        return affine(lesson.latents, self._weight, self._bias)

    def _distribution(self, outputs: Tensor, lesson: Lesson) -> Distribution:
        if self._spec.continuous:
            return Gaussians(outputs, lesson.std, lesson.available_actions)
        return Categoricals(outputs, self._spec.branches, lesson.available_actions)

    def _agrees(self, lesson: Lesson) -> Tensor:
        """Returns (N, B) bool, True where head and server agree as in `update`."""
        outputs = self._outputs(lesson)
        available = lesson.available_actions
        if self._spec.continuous:
            return (((outputs - lesson.outputs).abs() <= lesson.std) | ~available).all(-1)
        branches = self._spec.branches
        ours = outputs.masked_fill(~available, MASKED_LOGIT).split(branches, -1)
        servers = lesson.outputs.masked_fill(~available, MASKED_LOGIT).split(branches, -1)
        same = [one.argmax(-1) == other.argmax(-1) for one, other in zip(ours, servers)]
        return torch.stack(same).all(0)


def _zero_moments(parameter: Tensor) -> dict[str, Tensor]:
    """Returns Adam's state of a parameter before the first step, by MOMENTS."""
    return {
        "step": torch.zeros(()),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def _recurrent_state(rollout: Rollout, net: GroupNet, rows: SampledRows) -> RecurrentState | None:
    """Returns the memory that a group's sampled sequences began with, if it has any."""
    if not net.gru:
        return None
    memory = torch.from_numpy(rollout.memory[list(net.members)][:, rows.chunk, rows.env])
    keep = keep_masks(rollout.ended)[:, rows.times, rows.env[:, None]]  # (1, S, L)
    return RecurrentState(memory=memory, keep=keep)

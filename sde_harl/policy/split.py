"""The split policy in torch: what learns. One `GroupNet` holds the agents of one role group.

    obs (n,B,O) -> local nets (n stacked) -> z (n,B,Z) -> quantise -> trunk (shared) -> heads (n stacked)

A policy is `blocks` blocks deep; the first `local_blocks` belong to each agent, the rest are the group's trunk. The
trunk is conditioned on identity by a bias of the agent's own in its first block, which is what a one-hot identity
appended to the input amounts to. A group of one is an ordinary policy of its own.

n agents of the group, B rows, O observation, Z latent, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sde_harl.codec.entropy import LatentModel, quantise_plain
from sde_harl.codec.tables import Tables
from sde_harl.config import CodecConfig, PolicyConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.policy.acting import ActingPolicy
from sde_harl.policy.local import NORM_EPS, LocalShape, observation_mask

LATENT_SCALE = 4.0
"""Quantisation steps in one unit of a unit-variance latent: ~4 bits an element before the rate loss has its say. A
power of two, so that folding it into the published weights is exact."""


class GroupOutput(NamedTuple):
    logits: Tensor
    """(n, B, A), unmasked."""
    latents: Tensor
    """(n, B, Z), before quantisation: what the rate is taken of."""


def role_groups(groups: tuple[tuple[int, ...], ...], agents: int) -> tuple[tuple[int, ...], ...]:
    """The groups of the config, or every agent alone. Raises UserError where they are not the environment's agents."""
    if groups and sorted(agent for group in groups for agent in group) != list(range(agents)):
        raise UserError(f"policy.groups: this environment has {agents} agents, 0 to {agents - 1}, each in one group")
    return groups or tuple((agent,) for agent in range(agents))


def local_shape(spec: EnvSpec, policy: PolicyConfig, agents: tuple[int, ...]) -> LocalShape:
    """Shape of the local nets of `agents` (indices into spec.agents)."""
    sizes = tuple(spec.obs_sizes[agent] for agent in agents)
    latent = policy.latent or policy.width
    return LocalShape(sizes, max(spec.obs_sizes), policy.width, latent, policy.local_blocks, policy.feature_norm)


def orthogonal(agents: int, size_in: int, size_out: int, gain: float, generator: torch.Generator) -> nn.Parameter:
    """(agents, in, out) parameter, every agent's matrix orthogonal of its own."""
    weight = torch.empty(agents, size_in, size_out)
    for each in weight:
        nn.init.orthogonal_(each, gain, generator)
    return nn.Parameter(weight)


class GroupNet(nn.Module):
    """Local nets, trunk and heads of one role group."""

    mask: Tensor
    count: Tensor

    def __init__(
        self,
        members: tuple[int, ...],
        spec: EnvSpec,
        policy: PolicyConfig,
        codec: CodecConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.members = members
        self.shape = local_shape(spec, policy, members)
        self.codec = codec.name
        n, relu_gain = len(members), 2.0**0.5
        mask = torch.from_numpy(observation_mask(self.shape.obs_sizes, self.shape.obs))
        self.register_buffer("mask", mask[:, None], persistent=False)  # (n, 1, O)
        self.register_buffer("count", mask.sum(-1)[:, None, None], persistent=False)  # (n, 1, 1)
        if policy.local_blocks:
            inner = policy.local_blocks - 1
            widths = [self.shape.obs] + [policy.width] * inner + [self.shape.latent]
            self.local_weights, self.local_biases = _stack(n, widths, [relu_gain] * inner + [1.0], generator)
        else:
            self.local_weights = nn.ParameterList([nn.Parameter(mask[:, None].clone())])  # a gain (n, 1, O)
            self.local_biases = nn.ParameterList([nn.Parameter(torch.zeros(n, 1, self.shape.obs))])
        widths = [self.shape.latent_max()] + [policy.width] * (policy.blocks - policy.local_blocks)
        self.trunk_weights, self.trunk_biases = _stack(1, widths, [relu_gain] * (len(widths) - 1), generator)
        self.identity = nn.Parameter(torch.zeros(n, 1, policy.width))
        self.head_weight = orthogonal(n, policy.width, sum(spec.branches), policy.head_gain, generator)
        self.head_bias = nn.Parameter(torch.zeros(n, 1, sum(spec.branches)))
        self.latent_model = LatentModel(n, self.shape.latent_max()) if codec.name == "entropy" else None

    def forward(self, features: Tensor) -> GroupOutput:
        """Logits and latents of normalised observations (n, B, O)."""
        latents = self.encode(features)
        return GroupOutput(self.decide(self.quantise(latents)), latents)

    def normalise(self, obs: Tensor) -> Tensor:
        """Features (n, B, O) of observations (n, B, O). Has no parameters: once a rollout is enough."""
        if not self.shape.feature_norm:
            return obs
        x = (obs - obs.sum(-1, keepdim=True) / self.count) * self.mask
        return x.mul_(torch.rsqrt(torch.linalg.vecdot(x, x)[..., None] / self.count + NORM_EPS))

    def encode(self, features: Tensor) -> Tensor:
        """Latents (n, B, Z) before quantisation; `normalise` and this are the torch twin of `LocalNets`."""
        x = features
        if not self.shape.local_blocks:
            x = (x * self.local_weights[0] + self.local_biases[0]) * self.mask
        else:
            for index, (weight, bias) in enumerate(zip(self.local_weights, self.local_biases)):
                x = torch.baddbmm(bias, torch.relu(x) if index else x, weight)
        return x * LATENT_SCALE

    def quantise(self, latents: Tensor) -> Tensor:
        """What the server decodes, (n, B, Z), with a straight-through gradient."""
        decoded = self.latent_model.quantise(latents) if self.latent_model else quantise_plain(self.codec, latents)
        return decoded if self.shape.local_blocks else decoded * self.mask  # what an agent has not, nobody sends

    def decide(self, decoded: Tensor) -> Tensor:
        """Logits (n, B, A) from decoded latents (n, B, Z)."""
        n, rows = decoded.shape[0], decoded.shape[1]
        x = (decoded / LATENT_SCALE).reshape(n * rows, -1)
        for index, (weight, bias) in enumerate(zip(self.trunk_weights, self.trunk_biases)):
            x = torch.addmm(bias[0], x, weight[0])
            if not index:
                x = (x.view(n, rows, -1) + self.identity).view(n * rows, -1)
            x = torch.relu(x)
        return torch.baddbmm(self.head_bias, x.view(n, rows, -1), self.head_weight)

    def policy_parameters(self) -> list[nn.Parameter]:
        """What the policy's optimiser steps: everything but the entropy model."""
        return [each for name, each in self.named_parameters() if not name.startswith("latent_model")]


def _stack(
    n: int, widths: list[int], gains: list[float], generator: torch.Generator
) -> tuple[nn.ParameterList, nn.ParameterList]:
    pairs = list(zip(widths[:-1], widths[1:], gains))
    weights = nn.ParameterList(orthogonal(n, size_in, size_out, gain, generator) for size_in, size_out, gain in pairs)
    biases = nn.ParameterList(nn.Parameter(torch.zeros(n, 1, size_out)) for _, size_out, _ in pairs)
    return weights, biases


class SplitPolicy(nn.Module):
    """All role groups of a run."""

    def __init__(self, spec: EnvSpec, policy: PolicyConfig, codec: CodecConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = local_shape(spec, policy, tuple(range(len(spec.agents))))
        groups = role_groups(policy.groups, len(spec.agents))
        self.groups = [GroupNet(members, spec, policy, codec, generator) for members in groups]
        self.nets = nn.ModuleList(self.groups)  # registers their parameters; `groups` is the same list, typed

    def local_parameters(self) -> list[list[np.ndarray]]:
        """Per agent, its local net's arrays in wire order (without the agent axis), the latent scale folded in."""
        arrays: dict[int, list[np.ndarray]] = {}
        for net in self.groups:
            stacked = [each for pair in zip(net.local_weights, net.local_biases) for each in (pair[0], pair[1][:, 0])]
            if not self.shape.local_blocks:
                stacked = [each.reshape(len(net.members), -1) * net.mask[:, 0] for each in stacked]
            plain = [each.detach().numpy().copy() for each in stacked]
            for each in plain[-2:]:
                each *= LATENT_SCALE
            for row, agent in enumerate(net.members):
                arrays[agent] = [each[row] for each in plain]
        return [arrays[agent] for agent in range(len(arrays))]

    def build_tables(self, version: int) -> list[Tables]:
        """Per agent, the integer tables of the latent elements it sends."""
        built = {
            agent: tables
            for net in self.groups
            for agent, tables in zip(net.members, net.latent_model.build_tables(version) if net.latent_model else ())
        }
        return [
            Tables(version, *(array[:size] for array in built[agent][1:]))
            for agent, size in enumerate(self.shape.latent_sizes())
        ]

    def acting(self) -> ActingPolicy:
        """A numpy copy of the server's half, all agents stacked."""
        order = np.argsort([agent for net in self.groups for agent in net.members])

        def by_agent(parts: Sequence[Tensor]) -> np.ndarray:
            stacked: np.ndarray = np.concatenate([part.detach().numpy() for part in parts])[order]
            return stacked

        def shared(name: str, index: int) -> np.ndarray:
            return by_agent([getattr(net, name)[index].expand(len(net.members), -1, -1) for net in self.groups])

        depth = len(self.groups[0].trunk_weights)
        layers = [(shared("trunk_weights", k), shared("trunk_biases", k)) for k in range(depth)]
        first, bias = layers[0]
        layers[0] = (first / np.float32(LATENT_SCALE), bias + by_agent([net.identity for net in self.groups]))
        heads, biases = [net.head_weight for net in self.groups], [net.head_bias for net in self.groups]
        return ActingPolicy([*layers, (by_agent(heads), by_agent(biases))])

"""The split policy in torch: what learns. One `GroupNet` holds the agents of one role group.

    obs (n,B,O) -> local nets (n stacked) -> z (n,B,Z) -> quantise -> trunk (shared) [-> GRU] -> heads (n stacked)

A policy is `blocks` blocks deep; the first `local_blocks` belong to each agent, the rest are the group's trunk. The
trunk is conditioned on identity by a bias of the agent's own in its first block, which is what a one-hot identity
appended to the input amounts to. A group of one is an ordinary policy of its own. With `share` the agents of a group
have one local net and one head in common too. What a recurrent policy remembers is kept at the server, so that a device
is stateless: one that restarts has lost nothing. With all blocks local there is no trunk and nothing is quantised: the
whole policy runs on the device, as in HARL, and each agent's GRU with it.

n agents of the group, k sets of parameters (n, or 1 where they are shared), B rows, O observation, Z latent, A outputs
of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from sde_harl.codec.entropy import LatentModel, quantise_plain
from sde_harl.codec.tables import Tables
from sde_harl.config.schema import CodecConfig, PolicyConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.block import block
from sde_harl.policy.distributions import Categoricals, Distribution, Gaussians
from sde_harl.policy.gru import Gru, RecurrentState
from sde_harl.policy.inference.acting import ActingPolicy, GruArrays
from sde_harl.policy.inference.conv import ConvArrays
from sde_harl.policy.layers import (
    RELU_GAIN,
    UNIT,
    ConvLayer,
    FeatureNorm,
    affine,
    normalise,
    orthogonal,
    stack,
)
from sde_harl.policy.shapes import conv_shape, local_shape, role_groups, runs_on_device


class GroupOutput(NamedTuple):
    outputs: Tensor
    """(n, B, A): logits, unmasked, or means if actions are continuous."""
    latents: Tensor
    """(n, B, Z), before quantisation: what the rate is taken of."""


class Known(NamedTuple):
    """Latents that the server had, where those of the rows had not come."""

    latents: Tensor
    """(n, B, Z), decoded."""
    stale: Tensor
    """(n, B) bool, where they stand for the rows' own."""


class GroupNet(nn.Module):
    """Local nets, trunk and heads of one role group."""

    dimensions: Tensor

    def __init__(
        self,
        members: tuple[int, ...],
        spec: EnvSpec,
        policy: PolicyConfig,
        codec: CodecConfig,
        share: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.members = members
        self.shape = local_shape(agents=members, spec=spec, policy=policy)
        self.codec, self._branches = codec.name, spec.branches
        self.whole = runs_on_device(policy)
        self.scale = 1.0 if self.whole else codec.latent_scale
        n, k = len(members), 1 if share else len(members)
        conv = conv_shape(spec.obs_images, policy)
        self.unit = UNIT[spec.obs_dtype] if conv else 1.0
        self.conv = ConvLayer(k, self.shape.conv, self.unit, generator) if self.shape.conv else None
        at_server = conv if not policy.local_blocks else None  # where images themselves are sent
        self.trunk_conv = (
            ConvLayer(1, at_server, 1.0 / self.scale, generator) if at_server else None
        )
        self.normalise = FeatureNorm(self.shape.obs_sizes, self.shape.obs, self.shape.feature_norm)
        if policy.local_blocks:
            inner = policy.local_blocks - 1
            widths = [self.shape.size_in()] + [policy.width] * inner + [self.shape.latent]
            gains = [RELU_GAIN] * inner + [RELU_GAIN if self.whole else 1.0]
            self.local_weights, self.local_biases = stack(k, widths, gains, generator)
        else:
            self.local_weights = nn.ParameterList(
                [nn.Parameter(torch.ones(k, 1, self.shape.obs))]
            )  # a gain
            self.local_biases = nn.ParameterList([nn.Parameter(torch.zeros(k, 1, self.shape.obs))])
        decoded = at_server.size_out() if at_server else self.shape.latent_max()
        widths = [decoded] + [policy.width] * (policy.blocks - policy.local_blocks)
        self.trunk_weights, self.trunk_biases = stack(
            1, widths, [RELU_GAIN] * (len(widths) - 1), generator
        )
        self.identity = None if self.whole else nn.Parameter(torch.zeros(n, 1, policy.width))
        self.gru = (
            Gru(k if self.whole else 1, policy.width, policy.width, generator)
            if policy.recurrent
            else None
        )
        self.head_weight = orthogonal(
            k, policy.width, sum(spec.branches), policy.head_gain, generator
        )
        self.head_bias = nn.Parameter(torch.zeros(k, 1, sum(spec.branches)))
        self._std_coefs = (policy.std_x_coef, policy.std_y_coef)
        start = torch.full((k, 1, len(spec.branches)), policy.std_x_coef)
        self.log_std = nn.Parameter(start) if spec.continuous else None
        own = [spec.action_sizes[agent] for agent in members]
        dimensions = torch.tensor(
            [[float(sizes[0] if spec.continuous else len(sizes))] for sizes in own]
        )
        self.register_buffer(
            "dimensions", dimensions, persistent=False
        )  # (n, 1) numbers of each agent's own action
        model = (n, self.shape.latent_max(), self.scale, codec.share_tables)
        self.latent_model = LatentModel(*model) if codec.name == "entropy" else None

    def forward(
        self, features: Tensor, recall: RecurrentState | None = None, known: Known | None = None
    ) -> GroupOutput:
        """Outputs and latents of normalised observations (n, B, O); `recall` where the policy is recurrent.

        Where `known` stands for latents, the trunk learns to act on it, and no gradient reaches the local net.
        """
        latents = self.encode(features)
        decoded = self.quantise(latents)
        if known:
            decoded = torch.where(known.stale[..., None], known.latents, decoded)
        return GroupOutput(self.decide(decoded, recall), latents)

    def distribution(self, outputs: Tensor, available: Tensor | None) -> Distribution:
        """What outputs (n, B, A) say of actions; `available` (n, B, A) bool, None where everything is."""
        if self.log_std is not None:
            return Gaussians(outputs, self.std(), available)
        return Categoricals(outputs, self._branches, available)

    def std(self) -> Tensor:
        """(k, 1, D) deviations of continuous actions, HARL's parameterisation (`DiagGaussian`): y sigmoid(s / x)."""
        assert self.log_std is not None
        x, y = self._std_coefs
        return torch.sigmoid(self.log_std / x) * y

    def encode(self, features: Tensor) -> Tensor:
        """Latents (n, B, Z) before quantisation, or of a whole policy what its head sees.

        `normalise` and this are the torch twin of `LocalNets`.
        """
        *inner, (weight, bias) = zip(self.local_weights, self.local_biases)
        if not self.shape.local_blocks:
            return (features * (weight * self.unit) + bias) * (self.normalise.mask * self.scale)
        x = self.conv(features) if self.conv else features.to(self.head_bias.dtype)
        for each in inner:
            x = block(x, *each, self.shape.layer_norm)
        if self.whole:
            return block(x, weight, bias, self.shape.layer_norm)
        return affine(x, weight * self.scale, bias * self.scale)

    def quantise(self, latents: Tensor) -> Tensor:
        """What the server decodes, (n, B, Z), with a straight-through gradient."""
        if self.whole:
            return latents
        decoded = (
            self.latent_model.quantise(latents)
            if self.latent_model
            else quantise_plain(self.codec, latents)
        )
        if self.shape.local_blocks or not self.normalise.padded:
            return decoded
        return decoded * self.normalise.mask  # what an agent has not, nobody sends

    def decide(self, decoded: Tensor, recall: RecurrentState | None) -> Tensor:
        """Outputs (n, B, A) from decoded latents (n, B, Z)."""
        x = self.trunk_conv(decoded) if self.trunk_conv else decoded
        for each in self.trunk():
            x = block(x, *each, self.shape.layer_norm)
        if self.gru and recall:
            x = normalise(self.gru(x, recall), self.shape.layer_norm)
        return affine(x, self.head_weight, self.head_bias)

    def trunk(self) -> list[tuple[Tensor, Tensor]]:
        """Weight (1, in, W) and bias (n or 1, 1, W) of each block, latent scale and identities folded in."""
        layers = list(zip(self.trunk_weights, self.trunk_biases))
        if self.identity is not None:
            weight, bias = layers[0]
            layers[0] = (weight if self.trunk_conv else weight / self.scale, bias + self.identity)
        return layers

    def upper(self) -> list[Tensor]:
        """All behind the local nets of whole policies, in wire order (policy/whole.py): of GRU (k, ...) and head."""
        return [*(self.gru.arrays() if self.gru else ()), *self.head()]

    def head(self) -> list[Tensor]:
        """Weight (k, W, A) and bias (k, 1, A) of the heads; deviations (k, 1, D) if actions are continuous."""
        return [
            self.head_weight,
            self.head_bias,
            *([self.std()] if self.log_std is not None else []),
        ]

    def policy_parameters(self) -> list[nn.Parameter]:
        """What the policy's update steps: everything but the entropy model."""
        return [
            each for name, each in self.named_parameters() if not name.startswith("latent_model")
        ]


class SplitPolicy(nn.Module):
    """All role groups of a run."""

    def __init__(
        self,
        spec: EnvSpec,
        policy: PolicyConfig,
        codec: CodecConfig,
        share: bool,
        generator: torch.Generator,
    ) -> None:
        """`share`: the agents of a group share local net and head too; with no groups given, all are one."""
        super().__init__()
        self.shape = local_shape(agents=tuple(range(len(spec.agents))), spec=spec, policy=policy)
        self._branches = spec.branches
        groups = role_groups(policy.groups, agents=len(spec.agents), share=share)
        self.groups = [
            GroupNet(members, spec, policy, codec, share, generator) for members in groups
        ]
        self.nets = nn.ModuleList(
            self.groups
        )  # registers their parameters; `groups` is the same list, typed

    def local_parameters(self) -> list[list[np.ndarray]]:
        """Per agent, what its device holds, in wire order: local net (latent scale folded in), then all if whole."""
        arrays: dict[int, list[np.ndarray]] = {}
        for net in self.groups:
            n = len(net.members)
            pairs = zip(net.local_weights, net.local_biases)
            stacked = [each.expand(n, -1, -1) for weight, bias in pairs for each in (weight, bias)]
            if net.conv:
                stacked = [*(each.expand(n, -1, -1) for each in net.conv.arrays()), *stacked]
            if net.whole:
                stacked += [each.expand(n, -1, -1) for each in net.upper()]
            if not self.shape.local_blocks:
                gain, shift = (each * net.normalise.mask for each in stacked)
                stacked = [gain * net.unit, shift]
            plain = [each.detach().numpy().copy() for each in stacked]
            for each in plain[-2:] if not net.whole else ():
                each *= net.scale
            for row, agent in enumerate(net.members):
                arrays[agent] = [each[row] for each in plain]
        return [arrays[agent] for agent in range(len(arrays))]

    def build_tables(self, version: int) -> list[Tables]:
        """Per agent, the integer tables of the latent elements it sends."""
        built = {
            agent: tables
            for net in self.groups
            for agent, tables in zip(
                net.members, net.latent_model.build_tables(version) if net.latent_model else ()
            )
        }
        return [
            Tables(version, *(array[:size] for array in built[agent][1:]))
            for agent, size in enumerate(self.shape.latent_sizes())
        ]

    def acting(self) -> ActingPolicy:
        """A numpy copy of the server's half, all agents stacked; with whole policies on the devices, of the heads."""
        order = np.argsort([agent for net in self.groups for agent in net.members])

        def by_agent(part: Callable[[GroupNet], Tensor]) -> np.ndarray:
            parts = [
                part(net).expand(len(net.members), -1, -1).detach().numpy() for net in self.groups
            ]
            stacked: np.ndarray = np.concatenate(parts)[order]
            return stacked

        depth, conv = len(self.groups[0].trunk_weights), self.groups[0].trunk_conv
        layers = [
            (by_agent(lambda net: net.trunk()[k][0]), by_agent(lambda net: net.trunk()[k][1]))  # noqa: B023
            for k in range(depth)
        ]
        head = (by_agent(lambda net: net.head_weight), by_agent(lambda net: net.head_bias))
        std = by_agent(GroupNet.std) if self.groups[0].log_std is not None else None
        gru = convs = None
        if self.groups[0].gru:
            gru = GruArrays(
                *(
                    by_agent(lambda net: getattr(net.gru, name))  # noqa: B023
                    for name in GruArrays._fields
                )
            )
        if conv:
            pair = (
                by_agent(lambda net: cast(ConvLayer, net.trunk_conv).arrays()[k])  # noqa: B023
                for k in (0, 1)
            )
            convs = ConvArrays(conv.shape, *pair)
        return ActingPolicy(layers, head, self._branches, std, gru, self.shape.layer_norm, convs)

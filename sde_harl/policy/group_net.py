"""The networks of one role group in torch: the part of the policy that learns.

    observation      (n, B, O)
      -> normalise   (n, B, O)   feature normalisation, without parameters
      -> encode      (n, B, Z)   local nets: the first `local_blocks` blocks, an agent's own
      -> quantise    (n, B, Z)   the latents that the server decodes from a device's bytes
      -> decide      (n, B, A)   trunk: the group's other blocks [-> GRU]; heads, an agent's own
      -> distribution            of the actions

All above `quantise` runs on the agents' devices, all below at the server; acting is in numpy
(inference/local_nets.py, inference/acting.py). The trunk tells its agents apart by a bias of the
agent's own in its first block, which is equal to a one-hot identity appended to the trunk's input.
With `share`, as in parameter sharing, the agents also have one local net and one head in common.

With all blocks local the policy runs entirely on the device, as in HARL: there is no trunk, nothing
is quantised, and each agent has a GRU of its own. Else the GRU's memory stays at the server: a
device that restarts has lost nothing.

n agents of the group, k sets of parameters (n, or 1 where they are shared), B rows, O observation,
Z latent, W width of a block, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sde_harl.codec.entropy import LatentModel, quantise_plain
from sde_harl.config.schema import CodecConfig, PolicyConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.block import block, last_layer
from sde_harl.policy.distributions import Categoricals, Distribution, Gaussians
from sde_harl.policy.gru import Gru, RecurrentState
from sde_harl.policy.layers import (
    RELU_GAIN,
    UNIT,
    ConvLayer,
    FeatureNorm,
    affine,
    local_stack,
    normalise,
    orthogonal,
    stack,
)
from sde_harl.policy.shapes import (
    SAMPLED,
    VALUES,
    ConvShape,
    conv_shape,
    head_outputs,
    local_shape,
    runs_on_device,
    server_conv_shape,
)


class GroupOutput(NamedTuple):
    """The result of a forward pass through the nets of a group."""

    outputs: Tensor
    """(n, B, A): logits, unmasked, or means if actions are continuous."""
    latents: Tensor
    """(n, B, Z) before quantisation; the rate is estimated on them."""


class SubstitutedLatents(NamedTuple):
    """Older latents that the server acted on, where a row's own were not there by the deadline."""

    latents: Tensor
    """(n, B, Z), decoded."""
    stale: Tensor
    """(n, B) bool, True where they took the place of the row's own."""


class GroupNet(nn.Module):
    """Local nets, trunk and heads of one role group."""

    dimensions: Tensor
    """(n, 1) numbers of each agent's own action."""

    def __init__(
        self,
        *,
        members: tuple[int, ...],
        spec: EnvSpec,
        policy: PolicyConfig,
        codec: CodecConfig,
        share: bool,
        generator: torch.Generator,
        heads: str = SAMPLED,
    ) -> None:
        """`members` are the group's agents; with `share` they have one set of parameters.

        `heads` is what the algorithm takes their outputs for (policy/shapes.py).
        """
        super().__init__()
        n = len(members)
        k = n
        if share:
            k = 1
        self.members = members
        self.shape = local_shape(agents=members, spec=spec, policy=policy)
        self.on_device = runs_on_device(policy)
        self.scale = codec.latent_scale
        if self.on_device:
            self.scale = 1.0  # nothing is quantised
        self.computes_in: torch.dtype | None = None
        """Type that blocks compute in; None: that of the parameters."""
        self._codec = codec.name
        self._branches = spec.branches
        self._heads = heads
        # From here on the order of the statements is the order of the random draws, and that of the
        # parameters in an optimiser's state: old runs repeat only while it stays as it is.
        self.unit = _image_unit(spec, policy)
        self.conv = _conv_layer(self.shape.conv, k, self.unit, generator)
        server_conv = server_conv_shape(spec, policy)
        self.trunk_conv = _conv_layer(server_conv, 1, 1.0 / self.scale, generator)
        self.normalise = FeatureNorm(self.shape.obs_sizes, self.shape.obs, self.shape.feature_norm)
        self.local_weights, self.local_biases = local_stack(
            self.shape, k, on_device=self.on_device, generator=generator
        )
        self._make_trunk(policy, generator=generator)
        self.gru = _make_gru(policy, k=k, generator=generator)
        self._make_heads(spec, policy, k=k, generator=generator)
        # Not persistent: it follows from the spec, and a checkpoint holds what was learnt.
        self.register_buffer("dimensions", _dimensions(spec, members), persistent=False)
        self.latent_model: LatentModel | None = None
        if codec.name == "entropy":
            self.latent_model = LatentModel(
                n, self.shape.latent_max(), scale=self.scale, share=codec.share_tables
            )

    def _make_trunk(self, policy: PolicyConfig, *, generator: torch.Generator) -> None:
        """Makes the group's blocks and the agents' identities."""
        size_in = self.shape.latent_max()
        if self.trunk_conv:
            size_in = self.trunk_conv.shape.size_out()
        blocks = policy.blocks - policy.local_blocks
        widths = [size_in] + [policy.width] * blocks
        self.trunk_weights, self.trunk_biases = stack(
            1, widths, [RELU_GAIN] * blocks, generator=generator
        )
        self.identity: nn.Parameter | None = None
        if not self.on_device:
            # Zero: at first the agents of a group behave alike.
            self.identity = nn.Parameter(torch.zeros(len(self.members), 1, policy.width))

    def _make_heads(
        self, spec: EnvSpec, policy: PolicyConfig, *, k: int, generator: torch.Generator
    ) -> None:
        outputs = head_outputs(spec.branches, self._heads)
        if self._heads == VALUES:
            outputs += 1  # the value of the observation, beside the advantages of the choices
        # The heads' gain is small, so that the first policy chooses nearly uniformly.
        self.head_weight = orthogonal(k, policy.width, outputs, policy.head_gain, generator)
        self.head_bias = nn.Parameter(torch.zeros(k, 1, outputs))
        self._std_x = policy.std_x_coef
        self._std_y = policy.std_y_coef
        self.log_std: nn.Parameter | None = None
        if spec.continuous and self._heads == SAMPLED:
            self.log_std = nn.Parameter(torch.full((k, 1, len(spec.branches)), policy.std_x_coef))

    def forward(
        self,
        features: Tensor,
        recurrent_state: RecurrentState | None = None,
        substituted: SubstitutedLatents | None = None,
    ) -> GroupOutput:
        """Returns outputs and latents of `features` (n, B, O), which are normalised observations.

        `recurrent_state` is given where the policy is recurrent. Where `substituted` latents took
        the place of a row's own, the trunk learns to act on them and no gradient reaches the local
        net, whose latent no trunk acted on.
        """
        latents = self.encode(features)
        decoded = self.quantise(latents)
        if substituted:
            # `where`, not arithmetic: the gradient of the row's own latents is exactly 0.
            decoded = torch.where(substituted.stale[..., None], substituted.latents, decoded)
        return GroupOutput(outputs=self.decide(decoded, recurrent_state), latents=latents)

    def encode(self, features: Tensor) -> Tensor:
        """Returns latents (n, B, Z) before quantisation, in steps of the quantiser.

        Returns the inputs of the heads (n, B, W) where the policy runs on its device. `normalise`
        and this are the torch twin of `LocalNets`.
        """
        if not self.shape.local_blocks:
            return self._scaled(features)
        if self.conv:
            x = self.conv(features)
        else:
            x = features
        x = self._for_blocks(x)
        *inner, (last_weight, last_bias) = self.local_layers()
        for weight, bias in inner:
            x = block(x, weight, bias, layer_norm=self.shape.layer_norm)
        if self.on_device:
            return block(x, last_weight, last_bias, layer_norm=self.shape.layer_norm)
        # No ReLU: the quantiser is the last local block's non-linearity.
        return affine(x.to(last_bias.dtype), last_weight, last_bias)

    def _scaled(self, features: Tensor) -> Tensor:
        """Returns the latents where observations themselves are sent: (n, B, O)."""
        gain = self.local_weights[0] * self.unit
        scaled: Tensor = features * gain + self.local_biases[0]
        # Masked, because the shift would fill the padding of smaller observations.
        return scaled * (self.normalise.mask * self.scale)

    def quantise(self, latents: Tensor) -> Tensor:
        """Returns what the server decodes, (n, B, Z), with the gradient of `latents`."""
        if self.on_device:
            return latents
        if self.latent_model:
            decoded = self.latent_model.quantise(latents)
        else:
            decoded = quantise_plain(self._codec, latents)
        if self.shape.local_blocks or not self.normalise.padded:
            return decoded
        # Observations are sent, and each agent sends its own numbers alone: the server's array has
        # zeros in the padding, where a quantiser's median may be something else.
        return decoded * self.normalise.mask

    def decide(self, decoded: Tensor, recurrent_state: RecurrentState | None) -> Tensor:
        """Returns outputs (n, B, A) of decoded latents (n, B, Z): trunk, GRU and heads."""
        x = decoded
        if self.trunk_conv:
            x = self.trunk_conv(decoded)
        x = self._for_blocks(x)
        for weight, bias in self.trunk():
            x = block(x, weight, bias, layer_norm=self.shape.layer_norm)
        if self.gru and recurrent_state:
            x = normalise(self.gru(x, recurrent_state), self.shape.layer_norm)
        return last_layer(x, self.head_weight, self.head_bias)

    def _for_blocks(self, x: Tensor) -> Tensor:
        """Returns x in the type that blocks compute in."""
        return x.to(self.computes_in or self.head_bias.dtype)

    def distribution(self, outputs: Tensor, available: Tensor | None) -> Distribution:
        """Returns the distribution of actions that `outputs` (n, B, A) describe.

        `available` is (n, B, A) bool, None where everything is.
        """
        if self.log_std is not None:
            return Gaussians(outputs, self.std(), available)
        return Categoricals(outputs, self._branches, available)

    def acting_head(self) -> tuple[Tensor, Tensor]:
        """Returns weight (k, W, A) and bias (k, 1, A) of what the agents act by."""
        if self._heads != VALUES:
            return self.head_weight, self.head_bias
        # The value is the same for all choices, and acting compares them.
        return self.head_weight[..., :-1], self.head_bias[..., :-1]

    def std(self) -> Tensor:
        """Returns the deviations (k, 1, D) of continuous actions, y sigmoid(s / x).

        This is the parameterisation of HARL's `DiagGaussian`.
        """
        assert self.log_std is not None
        return torch.sigmoid(self.log_std / self._std_x) * self._std_y

    def local_layers(self) -> list[tuple[Tensor, Tensor]]:
        """Returns weight (k, in, out) and bias (k, 1, out) of each local block, as they act.

        The last ones give the latent in steps of the quantiser: `scale` is folded in. It is a power
        of 2, so this is exact.
        """
        layers: list[tuple[Tensor, Tensor]] = list(zip(self.local_weights, self.local_biases))
        if not self.on_device:
            weight, bias = layers[-1]
            layers[-1] = (weight * self.scale, bias * self.scale)
        return layers

    def trunk(self) -> list[tuple[Tensor, Tensor]]:
        """Returns weight (1, in, W) and bias (n or 1, 1, W) of each trunk block, as they act.

        The first block's undo the latents' `scale` and hold the agents' identities.
        """
        layers: list[tuple[Tensor, Tensor]] = list(zip(self.trunk_weights, self.trunk_biases))
        if self.identity is not None:
            weight, bias = layers[0]
            if not self.trunk_conv:  # which has undone the scale already
                weight = weight / self.scale
            layers[0] = (weight, bias + self.identity)
        return layers

    def policy_parameters(self) -> list[nn.Parameter]:
        """Returns what the policy's optimiser steps: everything but the entropy model."""
        # The densities have an optimiser of their own (auxiliary/rate.py).
        return [
            each for name, each in self.named_parameters() if not name.startswith("latent_model")
        ]


def _image_unit(spec: EnvSpec, policy: PolicyConfig) -> float:
    """Returns the factor of the observations' numbers before the first layer."""
    if conv_shape(spec.obs_images, policy) is None:
        return 1.0
    return UNIT[spec.obs_dtype]


def _conv_layer(
    shape: ConvShape | None, k: int, scale: float, generator: torch.Generator
) -> ConvLayer | None:
    if shape is None:
        return None
    return ConvLayer(k, shape, scale=scale, generator=generator)


def _make_gru(policy: PolicyConfig, *, k: int, generator: torch.Generator) -> Gru | None:
    if not policy.recurrent:
        return None
    if not runs_on_device(policy):
        k = 1  # the GRU is a part of the trunk, which the group shares
    return Gru(k=k, size_in=policy.width, size=policy.width, generator=generator)


def _dimensions(spec: EnvSpec, members: Sequence[int]) -> Tensor:
    """Returns (n, 1) how many numbers each agent's own action has."""
    sizes = [spec.action_sizes[agent] for agent in members]
    if spec.continuous:
        return torch.tensor([[float(dimensions)] for (dimensions,) in sizes])
    return torch.tensor([[float(len(branches))] for branches in sizes])

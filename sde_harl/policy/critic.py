"""The critic: the value of what a `CriticInput` shows, one for the team (EP) or one for each agent.

V values of a state, k sets of parameters (V, or 1 that all share), B rows, W size of what is seen, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sde_harl.config.schema import PolicyConfig
from sde_harl.policy.block import block
from sde_harl.policy.critic_input import CriticInput
from sde_harl.policy.gru import Gru, RecurrentState
from sde_harl.policy.layers import (
    RELU_GAIN,
    UNIT,
    ConvLayer,
    FeatureNorm,
    affine,
    normalise,
    stack,
)
from sde_harl.policy.shapes import conv_shape


class Critic(nn.Module):
    """Features (V, B, W) -> values (V, B), in the units of the value normaliser; recurrent if the policy is."""

    def __init__(
        self, view: CriticInput, policy: PolicyConfig, share: bool, generator: torch.Generator
    ) -> None:
        """`share`: one net gives all V values; else each has a net of its own."""
        super().__init__()
        k = 1 if share else len(view.sizes)
        conv = conv_shape((view.image,) if view.image else (), policy)
        self.conv = ConvLayer(k, conv, UNIT[view.dtype], generator) if conv else None
        self.normalise = FeatureNorm(view.sizes, view.size, policy.feature_norm and not conv)
        self._layer_norm = policy.layer_norm
        widths = (
            [conv.size_out() if conv else view.size]
            + [policy.critic_width] * policy.critic_blocks
            + [1]
        )
        gains = [RELU_GAIN] * policy.critic_blocks + [1.0]
        self.weights, self.biases = stack(k, widths, gains, generator)
        self.gru = (
            Gru(k, policy.critic_width, policy.critic_width, generator)
            if policy.recurrent
            else None
        )

    def forward(
        self, features: Tensor, recall: RecurrentState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values (V, B), and what they are made of (V, B, H): the memory after each row where there is a `recall`.

        `features` are what `normalise` makes of inputs: it has no parameters, so once a rollout is enough. Images it
        leaves as they are, of bytes too.
        """
        *inner, last = zip(self.weights, self.biases)
        x = self.conv(features) if self.conv else features.to(self.biases[0].dtype)
        for each in inner:
            x = block(x, *each, self._layer_norm)
        if self.gru and recall:
            memory = self.gru(x, recall)
            return affine(normalise(memory, self._layer_norm), *last)[..., 0], memory
        return affine(x, *last)[..., 0], x

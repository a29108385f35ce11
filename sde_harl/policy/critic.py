"""The critic: values of its input (`CriticInput`), one for the team (EP) or one for each agent.

V values of a state, k sets of parameters (V, or 1 that all share), B rows, W numbers of a critic's
input, M width of a block, H memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sde_harl.config.schema import PolicyConfig
from sde_harl.policy.block import block, last_layer
from sde_harl.policy.critic_input import CriticInput
from sde_harl.policy.gru import Gru, RecurrentState
from sde_harl.policy.layers import RELU_GAIN, UNIT, ConvLayer, FeatureNorm, normalise, stack
from sde_harl.policy.shapes import conv_shape


class Critic(nn.Module):
    """A value function: features (V, B, W) -> blocks [-> GRU] -> values (V, B).

    Values are in the units of the value normaliser. The critic is recurrent if the policy is.
    """

    def __init__(
        self,
        *,
        critic_input: CriticInput,
        policy: PolicyConfig,
        share: bool,
        generator: torch.Generator,
    ) -> None:
        """With `share` one net gives all V values; else each value has a net of its own."""
        super().__init__()
        k = len(critic_input.sizes)
        if share:
            k = 1
        images: tuple[tuple[int, ...], ...] = ()
        if critic_input.image:
            images = (critic_input.image,)
        shape = conv_shape(images, policy)
        size_in = critic_input.size
        # Registered and drawn in this order, which old checkpoints and repeated runs rely on.
        self.conv: ConvLayer | None = None
        if shape:
            size_in = shape.size_out()
            self.conv = ConvLayer(k, shape, scale=UNIT[critic_input.dtype], generator=generator)
        enabled = policy.feature_norm and not shape
        self.normalise = FeatureNorm(critic_input.sizes, critic_input.size, enabled)
        self._layer_norm = policy.layer_norm
        widths = [size_in] + [policy.critic_width] * policy.critic_blocks + [1]
        # No ReLU follows the last layer, which gives the value.
        gains = [RELU_GAIN] * policy.critic_blocks + [1.0]
        self.weights, self.biases = stack(k, widths, gains, generator=generator)
        self.gru: Gru | None = None
        if policy.recurrent:
            width = policy.critic_width
            self.gru = Gru(k=k, size_in=width, size=width, generator=generator)

    def forward(
        self, features: Tensor, state: RecurrentState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns values (V, B) and the inputs of the last layer.

        The latter are the memory (V, B, H) after each row where `state` is given, else the last
        block's output (V, B, M).

        `features` are what `normalise` makes of inputs. It has no parameters, so it is called once
        for a rollout, not here. Images it leaves as they are, bytes too.
        """
        *inner, (last_weight, last_bias) = zip(self.weights, self.biases)
        if self.conv:
            x = self.conv(features)
        else:
            x = features.to(self.biases[0].dtype)  # bytes, where an image is taken as numbers
        for weight, bias in inner:
            x = block(x, weight, bias, layer_norm=self._layer_norm)
        if self.gru and state:
            x = self.gru(x, state)
            normalised = normalise(x, self._layer_norm)
            return last_layer(normalised, last_weight, last_bias)[..., 0], x
        return last_layer(x, last_weight, last_bias)[..., 0], x

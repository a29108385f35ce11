"""The critic of off-policy algorithms: values Q(s, a) of a state and all agents' actions.

k critics are stacked (twins are k = 2), so that each layer is one product for all of them. The
first layer is a sum of two products, one of the state and one of the actions: where agents change
their actions in turn, the state's is computed once.

V values of a state (1, or N), B rows, S numbers of the critic's input, J numbers of a joint action,
M width of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sde_harl.config.schema import PolicyConfig
from sde_harl.policy.block import activate, block, values
from sde_harl.policy.critic_input import CriticInput
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.layers import RELU_GAIN, UNIT, ConvLayer, FeatureNorm, stack
from sde_harl.policy.shapes import conv_shape


class QCritic(nn.Module):
    """k value functions of states and joint actions. All V views of a state have the same one."""

    def __init__(
        self,
        *,
        critic_input: CriticInput,
        joint: int,
        critics: int,
        policy: PolicyConfig,
        generator: torch.Generator,
    ) -> None:
        """`joint`: J, the numbers of all agents' actions together; `critics`: k."""
        super().__init__()
        shape = conv_shape((critic_input.image,) if critic_input.image else (), policy)
        self._size = critic_input.size
        self.conv: ConvLayer | None = None
        if shape:
            self._size = shape.size_out()
            scale = UNIT[critic_input.dtype]
            self.conv = ConvLayer(critics, shape, scale=scale, generator=generator)
        enabled = policy.feature_norm and not shape
        self.normalise = FeatureNorm(critic_input.sizes, critic_input.size, enabled)
        self._layer_norm = policy.layer_norm
        self._critics = critics
        self.computes_in: torch.dtype | None = None
        """As of `GroupNet`. Values are float32 in any case."""
        widths = [self._size + joint] + [policy.critic_width] * policy.critic_blocks + [1]
        gains = [RELU_GAIN] * policy.critic_blocks + [1.0]
        self.weights, self.biases = stack(critics, widths, gains, generator=generator)

    def embed(self, features: Tensor) -> Tensor:
        """Returns (k, V B, M), the state's part of the first layer.

        `features` (V, B, S) are what `normalise` makes of the critic's inputs.
        """
        rows = features.reshape(1, -1, features.shape[-1]).expand(self._critics, -1, -1)
        x = self._for_blocks(self.conv(rows) if self.conv else rows)
        return torch.bmm(x, self.weights[0][:, : self._size].to(x.dtype))

    def forward(self, embedded: Tensor, actions: Tensor) -> Tensor:
        """Returns values (k, V, B) of embedded states (k, V B, M) and joint actions (B, J)."""
        views = embedded.shape[1] // len(actions)
        if views > 1:
            actions = actions.repeat(views, 1)
        rows = self._for_blocks(actions).expand(self._critics, -1, -1)  # (k, V B, J)
        x = torch.baddbmm(embedded, rows, self.weights[0][:, self._size :].to(rows.dtype))
        x = activate(x, self.biases[0], layer_norm=self._layer_norm)
        *inner, (last_weight, last_bias) = list(zip(self.weights, self.biases))[1:]
        for inner_weight, bias in inner:
            x = block(x, inner_weight, bias, layer_norm=self._layer_norm)
        return values(x, last_weight, last_bias).view(self._critics, views, -1)

    def _for_blocks(self, x: Tensor) -> Tensor:
        return x.to(self.computes_in or self.biases[0].dtype)


def joint_action(actions: Tensor) -> Tensor:
    """Returns (B, J), the actions (N, B, A) of all agents side by side."""
    return actions.transpose(0, 1).flatten(1)


def joint_with(net: GroupNet, own: Tensor, others: Tensor) -> Tensor:
    """Returns (B, J): the joint action in which a group does `own` (n, B, A) beside `others`."""
    return joint_action(others.index_copy(0, torch.tensor(net.members), own))

"""The critic of off-policy algorithms: values Q(s, a) of a state and all agents' actions.

k critics are stacked (twins are k = 2), so that each layer is one product for all of them. The
first layer is a sum of two products, one of the state and one of the actions: where agents change
their actions in turn, the state's is computed once. Nothing is normalised, whatever the policies
do: a normalised critic learnt Q more slowly (docs/learning.md, "Why HARL was ahead").

V values of a state (1, or N), B rows, S numbers of the critic's input, J numbers of a joint action,
M width of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sde_harl.config.schema import PolicyConfig
from sde_harl.policy.block import FAST, activate, block, last_layer
from sde_harl.policy.critic_input import CriticInput
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.layers import UNIT, ConvLayer, spare_columns, uniform_stack
from sde_harl.policy.least_value import least_value
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
        self._unit = UNIT[critic_input.dtype]
        self.conv: ConvLayer | None = None
        if shape:
            self._size = shape.size_out()
            self.conv = ConvLayer(critics, shape, scale=self._unit, generator=generator)
        self._critics = critics
        self._spare = spare_columns(joint)
        self.computes_in: torch.dtype | None = None
        """As of `GroupNet`. Values are float32 in any case."""
        widths = [self._size + joint] + [policy.critic_width] * policy.critic_blocks + [1]
        # Orthogonal first weights, as those of the value functions, learn Q more slowly.
        self.weights, self.biases = uniform_stack(critics, widths, generator)

    def embed(self, states: Tensor) -> Tensor:
        """Returns (k, V B, M), what the first layer makes of the critic's inputs (V, B, S)."""
        rows = states.reshape(1, -1, states.shape[-1]).expand(self._critics, -1, -1)
        x = self._for_blocks(self.conv(rows) if self.conv else rows)
        if not self.conv and self._unit != 1.0:
            x = x * self._unit
        return torch.bmm(x, self.weights[0][:, : self._size].to(x.dtype))

    def forward(self, embedded: Tensor, actions: Tensor) -> Tensor:
        """Returns values (k, V, B) of embedded states (k, V B, M) and joint actions (B, J)."""
        return self._values(embedded, actions, self._layers())

    def first(self, embedded: Tensor, actions: Tensor) -> Tensor:
        """Returns (V, B), the values of the first critic alone."""
        layers = [(weight[:1], bias[:1]) for weight, bias in self._layers()]
        return self._values(embedded[:1], actions, layers)[0]

    def least(self, embedded: Tensor, actions: Tensor) -> Tensor:
        """Returns (V, B), the least of the critics' values; only the actions get a gradient."""
        embedded = embedded.detach()
        *layers, last = [(weight.detach(), bias.detach()) for weight, bias in self._layers()]
        if embedded.dtype not in FAST or not embedded.is_cpu:
            return self._values(embedded, actions, [*layers, last]).amin(0)
        rows = self._rows(embedded, actions)
        return least_value(embedded, rows, layers, last).view(-1, len(actions))

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        """Returns weight and bias of each layer, of the first one the actions' part for `_rows`."""
        first = self.weights[0][:, self._size :]
        if self._spare:
            first = functional.pad(first, (0, 0, 0, self._spare))
        return list(zip((first, *self.weights[1:]), self.biases))

    def _values(
        self, embedded: Tensor, actions: Tensor, layers: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        (first_weight, first_bias), *inner, (last_weight, last_bias) = layers
        rows = self._for_blocks(self._rows(embedded, actions))
        rows = rows.expand(len(embedded), -1, -1)  # (k, V B, J)
        x = torch.baddbmm(embedded, rows, first_weight.to(rows.dtype))
        x = activate(x, first_bias, layer_norm=False)
        for weight, bias in inner:
            x = block(x, weight, bias, layer_norm=False)
        return last_layer(x, last_weight, last_bias).view(len(embedded), -1, len(actions))

    def _rows(self, embedded: Tensor, actions: Tensor) -> Tensor:
        """Returns (V B, J): joint actions (B, J), once for each view in embedded (k, V B, M).

        They have the spare columns that a fast product wants.
        """
        views = embedded.shape[1] // len(actions)
        if views > 1:
            actions = actions.repeat(views, 1)
        return functional.pad(actions, (0, self._spare)) if self._spare else actions

    def _for_blocks(self, x: Tensor) -> Tensor:
        return x.to(self.computes_in or self.biases[0].dtype)


def joint_action(actions: Tensor) -> Tensor:
    """Returns (B, J), the actions (N, B, A) of all agents side by side."""
    return actions.transpose(0, 1).flatten(1)


def joint_with(net: GroupNet, own: Tensor, others: Tensor) -> Tensor:
    """Returns (B, J): the joint action in which a group does `own` (n, B, A) beside `others`."""
    return joint_action(others.index_copy(0, torch.tensor(net.members), own))

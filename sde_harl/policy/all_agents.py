"""The nets of all agents at once, without gradients: one product a layer, whatever the groups are.

What learning needs of every agent at a time, such as the actions that follow a row of a replay,
would be a forward pass for each group otherwise. The layers of groups have the same shapes, so
their weights are stacked: a copy of the weights, which are few beside the rows.

N agents, B rows, O observation, Z latent, A outputs of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sde_harl.policy.block import block, last_layer
from sde_harl.policy.group_net import GroupNet, SubstitutedLatents
from sde_harl.policy.layers import affine

Layer = tuple[Tensor, Tensor]


class AllAgents:
    """Stacks the nets of groups that hold every agent once. They are read at every call."""

    def __init__(self, groups: Sequence[GroupNet]) -> None:
        self._groups = list(groups)
        places = {
            agent: (net, row) for net in self._groups for row, agent in enumerate(net.members)
        }
        self._places = [places[agent] for agent in sorted(places)]
        first = self._groups[0]
        self._first = first
        # A convolution, and observations that are sent as they are, are left to the groups.
        self._is_stackable = not first.conv and not first.trunk_conv and first.shape.local_blocks

    @torch.no_grad()
    def outputs(self, features: Tensor, substituted: SubstitutedLatents | None) -> Tensor:
        """Returns outputs (N, B, A) of normalised observations (N, B, O).

        The policies must not be recurrent. `substituted` as for `GroupNet`, of all agents.
        """
        if len(self._groups) == 1 or not self._is_stackable:
            return self._group_by_group(features, substituted)
        layer_norm = self._first.shape.layer_norm
        number = self._first.computes_in or features.dtype
        x = features.to(number)
        *inner, last = self._layers(GroupNet.local_layers)
        for weight, bias in inner:
            x = block(x, weight, bias, layer_norm=layer_norm)
        if self._first.on_device:
            x = block(x, *last, layer_norm=layer_norm)
        else:
            x = self._quantised(affine(x.float(), *last))
        if substituted:
            x = torch.where(substituted.stale[..., None], substituted.latents, x)
        x = x.to(number)
        for weight, bias in self._layers(GroupNet.trunk):
            x = block(x, weight, bias, layer_norm=layer_norm)
        [head] = self._layers(lambda net: [(net.head_weight, net.head_bias)])
        return last_layer(x, *head)

    def _group_by_group(self, features: Tensor, substituted: SubstitutedLatents | None) -> Tensor:
        size = self._first.head_bias.shape[-1]
        outputs = torch.empty(*features.shape[:2], size)
        for net in self._groups:
            members = list(net.members)
            own = substituted and SubstitutedLatents(*(each[members] for each in substituted))
            outputs[members] = net(features[members], None, own).outputs
        return outputs

    def _layers(self, of: Callable[[GroupNet], Sequence[Layer]]) -> list[Layer]:
        """Returns weight (N, in, out) and bias (N, 1, out) of the layers that `of` gives."""
        of_groups = {id(net): of(net) for net in self._groups}
        layers = []
        for k in range(len(of(self._first))):
            weights, biases = zip(*(of_groups[id(net)][k] for net, _ in self._places))
            layers.append((self._stacked(weights), self._stacked(biases)))
        return layers

    def _stacked(self, parameters: Sequence[Tensor]) -> Tensor:
        """Returns (N, ...) of each agent's row of its group's parameter (n or 1, ...)."""
        rows = [row if len(each) > 1 else 0 for each, (_, row) in zip(parameters, self._places)]
        return torch.stack([each[row] for each, row in zip(parameters, rows)])

    def _quantised(self, latents: Tensor) -> Tensor:
        """Returns what the server decodes, (N, B, Z)."""
        if not self._first.latent_model:
            return self._first.quantise(latents)
        decoded = torch.empty_like(latents)
        for net in self._groups:
            members = list(net.members)
            decoded[members] = net.quantise(latents[members])
        return decoded

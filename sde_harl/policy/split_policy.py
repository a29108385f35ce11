"""The split policy of a run in torch: all role groups, and their export to numpy for acting.

Acting needs no gradient, and numpy's calls cost less than torch's where rows are few. So what the
groups have learnt is exported after each update: every agent's device is sent its local net and
its tables, and the server acts with an `ActingPolicy` of all agents.

N agents of the run, n of a group, k sets of parameters (n, or 1 where they are shared), Z latent,
W width of a block, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sde_harl.codec.tables import Tables
from sde_harl.config.schema import CodecConfig, PolicyConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.inference.acting import ActingPolicy, GruArrays
from sde_harl.policy.inference.conv import ConvArrays
from sde_harl.policy.inference.exploring import Exploration
from sde_harl.policy.shapes import SAMPLED, local_shape, role_groups


class SplitPolicy(nn.Module):
    """All role groups of a run."""

    def __init__(
        self,
        *,
        spec: EnvSpec,
        policy: PolicyConfig,
        codec: CodecConfig,
        share: bool,
        generator: torch.Generator,
        heads: str = SAMPLED,
    ) -> None:
        """With `share` the agents of a group share local net and head, too.

        Where the configuration gives no groups, all agents are then one group. `heads` is
        the algorithm's, as in `OnDeviceShape`.
        """
        super().__init__()
        agents = tuple(range(len(spec.agents)))
        self.shape = local_shape(agents=agents, spec=spec, policy=policy)
        self._branches = spec.branches
        self.groups = [
            GroupNet(
                members=members,
                spec=spec,
                policy=policy,
                codec=codec,
                share=share,
                generator=generator,
                heads=heads,
            )
            for members in role_groups(policy.groups, agents=len(agents), share=share)
        ]
        # The ModuleList registers the groups' parameters. It is typed as a list of plain modules,
        # so all code uses `groups`, which is the same list.
        self.nets = nn.ModuleList(self.groups)
        # Agents in the order of the groups -> agents in their own order.
        self._order = np.argsort([agent for net in self.groups for agent in net.members])
        self.exploration: Exploration | None = None
        """How the agents explore from the next publication on; None in on-policy algorithms."""
        if heads != SAMPLED:
            self.exploration = _exploration(spec, heads)

    def explore(self, epsilon: float, noise: float) -> None:
        """Sets how the agents explore from the next publication on (inference/exploring.py)."""
        assert self.exploration
        chances = np.empty_like(self.exploration.chances)
        chances[..., 0] = epsilon
        chances[..., 1] = noise
        # A new array: the one that was published last is still acted with.
        self.exploration = self.exploration._replace(chances=chances)

    def local_parameters(self) -> list[list[NDArray[np.float32]]]:
        """Returns for each agent what its device holds, in wire order (policy/shapes.py).

        This is the local net, and where the policy runs on its device all behind it too.
        """
        by_agent: dict[int, list[NDArray[np.float32]]] = {}
        for net in self.groups:
            # Copied, since the arrays are sent while the next update changes the parameters.
            arrays = [_for_each_agent(net, each).copy() for each in _device_parameters(net)]
            for row, agent in enumerate(net.members):
                by_agent[agent] = [each[row] for each in arrays]
                if self.exploration and net.on_device:
                    _, *published = self.exploration
                    by_agent[agent] += [each[agent] for each in published]
        return [by_agent[agent] for agent in range(len(by_agent))]

    def build_tables(self, version: int) -> list[Tables]:
        """Returns for each agent the integer tables of the latent elements that it sends.

        Raises UserError where training has broken the entropy model.
        """
        built: dict[int, Tables] = {}
        for net in self.groups:
            if net.latent_model:
                built.update(zip(net.members, net.latent_model.build_tables(version)))
        # Agents of a group have models of equal size; where observations themselves are sent, an
        # agent with a smaller one sends fewer elements.
        return [
            built[agent].first_channels(size)
            for agent, size in enumerate(self.shape.latent_sizes())
        ]

    def acting(self) -> ActingPolicy:
        """Returns a numpy copy of the server's half, all agents stacked.

        Where the policies run on their devices, it holds GRUs and heads without a trunk.
        """
        return ActingPolicy(
            trunk=self._trunk_arrays(),
            head_weight=self._stacked([net.acting_head()[0] for net in self.groups]),
            head_bias=self._stacked([net.acting_head()[1] for net in self.groups]),
            branches=self._branches,
            std=self._deviations(),
            gru=self._gru_arrays(),
            layer_norm=self.shape.layer_norm,
            conv=self._conv_arrays(),
            exploration=self.exploration,
        )

    def _trunk_arrays(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Returns weight (N, in, W) and bias (N, 1, W) of each trunk block."""
        trunk = []
        for blocks in zip(*(net.trunk() for net in self.groups)):  # the k-th block of every group
            weights, biases = zip(*blocks)
            trunk.append((self._stacked(weights), self._stacked(biases)))
        return trunk

    def _deviations(self) -> NDArray[np.float32] | None:
        """Returns (N, 1, D) of continuous actions; None where actions are choices."""
        if any(net.log_std is None for net in self.groups):
            return None
        return self._stacked([net.std() for net in self.groups])

    def _gru_arrays(self) -> GruArrays | None:
        """Returns the GRUs of all agents; None where the policy is not recurrent."""
        layers = [net.gru for net in self.groups if net.gru]
        if not layers:
            return None
        return GruArrays(
            weight_in=self._stacked([each.weight_in for each in layers]),
            bias_in=self._stacked([each.bias_in for each in layers]),
            weight_memory=self._stacked([each.weight_memory for each in layers]),
            bias_memory=self._stacked([each.bias_memory for each in layers]),
        )

    def _conv_arrays(self) -> ConvArrays | None:
        """Returns the trunks' convolutions for all agents; None where no images are sent."""
        layers = [net.trunk_conv for net in self.groups if net.trunk_conv]
        if not layers:
            return None
        weights, biases = zip(*(each.arrays() for each in layers))
        return ConvArrays(
            shape=layers[0].shape, weight=self._stacked(weights), bias=self._stacked(biases)
        )

    def _stacked(self, parts: Sequence[Tensor]) -> NDArray[np.float32]:
        """Returns (N, in, out), in the order of the agents, of one tensor (n or 1, ...) a group.

        What agents share is repeated for each: one batched product over all agents is faster than a
        product for each group.
        """
        arrays = [_for_each_agent(net, part) for net, part in zip(self.groups, parts)]
        stacked: NDArray[np.float32] = np.concatenate(arrays)[self._order]
        return stacked


def _exploration(spec: EnvSpec, heads: str) -> Exploration:
    """Returns how agents explore before their algorithm has said anything: at random."""
    agents = len(spec.agents)
    dimensions = len(spec.branches)
    low = np.zeros((agents, dimensions), np.float32)
    high = low
    if spec.action_bounds:
        low, high = spec.bounds()
    chances = np.zeros((agents, 1, 2), np.float32)
    chances[..., 0] = 1.0
    return Exploration(kind=heads, chances=chances, low=low[:, None], high=high[:, None])


def _for_each_agent(net: GroupNet, parameter: Tensor) -> NDArray[np.float32]:
    """Returns a view (n, in, out) of a parameter (n or 1, in, out) of a group."""
    array: NDArray[np.float32] = parameter.expand(len(net.members), -1, -1).detach().numpy()
    return array


def _device_parameters(net: GroupNet) -> list[Tensor]:
    """Returns what the devices of a group's agents hold, (k, ...) each, in wire order."""
    if not net.shape.local_blocks:
        mask = net.normalise.mask
        gain = net.local_weights[0] * mask * net.unit * net.scale
        return [gain, net.local_biases[0] * mask * net.scale]
    arrays: list[Tensor] = []
    if net.conv:
        arrays += net.conv.arrays()
    for layer in net.local_layers():
        arrays += layer
    if net.on_device:
        arrays += _upper_parameters(net)
    return arrays


def _upper_parameters(net: GroupNet) -> list[Tensor]:
    """Returns the parameters above the local nets of a policy that runs on its device."""
    arrays: list[Tensor] = []
    if net.gru:
        arrays += net.gru.arrays()
    arrays += net.acting_head()
    if net.log_std is not None:
        # As deviations, so that a device needn't know how they are parameterised.
        arrays.append(net.std())
    return arrays

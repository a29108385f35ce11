"""What the torch nets are made of: stacked Linear layers, one for each agent or one for all, and feature normalisation.

n agents, k sets of parameters (n, or 1 where they are shared), B rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sde_harl.policy.local import NORM_EPS, observation_mask

RELU_GAIN = 2.0**0.5


def orthogonal(k: int, size_in: int, size_out: int, gain: float, generator: torch.Generator) -> nn.Parameter:
    """(k, in, out) parameter, every matrix orthogonal of its own."""
    weight = torch.empty(k, size_in, size_out)
    for each in weight:
        nn.init.orthogonal_(each, gain, generator)
    return nn.Parameter(weight)


def stack(
    k: int, widths: list[int], gains: list[float], generator: torch.Generator
) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Weights (k, in, out) and biases (k, 1, out) of the layers between `widths`."""
    pairs = list(zip(widths[:-1], widths[1:], gains))
    weights = nn.ParameterList(orthogonal(k, size_in, size_out, gain, generator) for size_in, size_out, gain in pairs)
    biases = nn.ParameterList(nn.Parameter(torch.zeros(k, 1, size_out)) for _, size_out, _ in pairs)
    return weights, biases


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (n, B, in) times weight (k, in, out) plus bias (k, 1, out): (n, B, out)."""
    return torch.baddbmm(bias, x, weight.expand(len(x), -1, -1))


def activate(x: Tensor, layer_norm: bool) -> Tensor:
    """What a block makes of its products (n, B, W), which this overwrites: ReLU, then layer normalisation if asked.

    HARL's has a gain and a shift of its own; here the next layer has both.
    """
    x = torch.relu_(x)
    return functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS) if layer_norm else x


class FeatureNorm(nn.Module):
    """Layer normalisation over each agent's own features, without gain and shift: the layer behind it has both.

    It has no parameters, so what it makes of a rollout is the same in all epochs.
    """

    mask: Tensor
    count: Tensor

    def __init__(self, sizes: tuple[int, ...], size: int, enabled: bool) -> None:
        """`sizes`: (n,) features of each agent; `size`: the padded size."""
        super().__init__()
        self._enabled, self.padded = enabled, any(each != size for each in sizes)
        mask = torch.from_numpy(observation_mask(sizes, size))[:, None]
        self.register_buffer("mask", mask, persistent=False)  # (n, 1, size)
        self.register_buffer("count", mask.sum(-1, keepdim=True), persistent=False)  # (n, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, B, size) -> (n, B, size); padding stays zero."""
        if not self._enabled:
            return x
        x = x - x.sum(-1, keepdim=True) / self.count
        if self.padded:
            x *= self.mask
        return x.mul_(torch.rsqrt(torch.linalg.vecdot(x, x)[..., None] / self.count + NORM_EPS))

"""What the torch nets are made of: stacked layers, one for each agent or one for all, and feature normalisation.

n agents, k sets of parameters (n, or 1 where they are shared), B rows; H, W, C, K, F as in conv.py.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sde_harl.policy.inference.local_nets import NORM_EPS, normalise_own, observation_mask
from sde_harl.policy.shapes import ConvShape

RELU_GAIN = 2.0**0.5
UNIT = {"float32": 1.0, "uint8": 1.0 / 255.0}
"""What images are multiplied by, by the type of their numbers."""


def orthogonal(
    k: int, size_in: int, size_out: int, gain: float, generator: torch.Generator
) -> nn.Parameter:
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
    weights = nn.ParameterList(
        orthogonal(k, size_in, size_out, gain, generator) for size_in, size_out, gain in pairs
    )
    biases = nn.ParameterList(nn.Parameter(torch.zeros(k, 1, size_out)) for _, size_out, _ in pairs)
    return weights, biases


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (n, B, in) times weight (k, in, out) plus bias (k, 1, out): (n, B, out)."""
    return torch.baddbmm(bias, x, weight.expand(len(x), -1, -1))


def normalise(x: Tensor, layer_norm: bool) -> Tensor:
    """Layer normalisation of x (n, B, W) if asked."""
    return functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS) if layer_norm else x


class FeatureNorm(nn.Module):
    """`local.normalise_own` in torch, without a gradient: what is normalised is data.

    It has no parameters, so what it makes of a rollout is the same in all epochs.
    """

    mask: Tensor

    def __init__(self, sizes: tuple[int, ...], size: int, enabled: bool) -> None:
        """`sizes`: (n,) features of each agent; `size`: the padded size."""
        super().__init__()
        self._enabled, self.padded = enabled, any(each != size for each in sizes)
        self._sizes = np.array(sizes, np.int32)
        mask = torch.from_numpy(observation_mask(sizes, size))[:, None]
        self.register_buffer("mask", mask, persistent=False)  # (n, 1, size)

    def forward(self, x: Tensor) -> Tensor:
        """(n, B, size) -> (n, B, size); padding stays zero."""
        return torch.from_numpy(normalise_own(x.numpy(), self._sizes)) if self._enabled else x


class ConvLayer(nn.Module):
    """The torch twin of `ConvArrays`."""

    def __init__(self, k: int, shape: ConvShape, scale: float, generator: torch.Generator) -> None:
        """`scale`: a factor of what it sees; it is folded into the weights, so that nothing else is multiplied."""
        super().__init__()
        self.shape, self._scale = shape, scale
        self.weight = orthogonal(k, shape.size_window(), shape.filters, RELU_GAIN, generator)
        self.bias = nn.Parameter(torch.zeros(k, 1, shape.filters))

    def arrays(self) -> tuple[Tensor, Tensor]:
        """Weight (k, K K C, F) and bias (k, 1, F), as they act."""
        return self.weight * self._scale, self.bias

    def forward(self, images: Tensor) -> Tensor:
        """(n, B, H W C), of bytes too -> (n, B, size)."""
        return convolve(self.shape, images, *self.arrays())


def convolve(shape: ConvShape, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Images (n, B, H W C), of bytes too, by weight (k, K K C, F) and bias (k, 1, F), and ReLU: (n, B, size)."""
    height, width, channels, _, kernel, stride = shape
    pixels = (
        images.to(weight.dtype).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    )  # (n B, C, H, W)
    weights = weight.unflatten(1, (kernel, kernel, channels)).permute(
        0, 4, 3, 1, 2
    )  # (k, F, C, K, K)
    # one call a set of parameters: torch's grouped convolution takes longer
    parts = zip(pixels.chunk(len(weights)), weights, bias[:, 0])
    x = torch.cat([functional.conv2d(*part, stride=stride) for part in parts])
    return torch.relu_(x).permute(0, 2, 3, 1).reshape(*images.shape[:2], -1)

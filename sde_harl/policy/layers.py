"""Layers of the torch nets: stacked layers, one for each agent or one for all, and normalisation.

The layers of n agents are one tensor (n, in, out) and one batched matrix product. A module for each
agent would be n small operations instead, and the nets are so small that calls would be most of it.

n agents, k sets of parameters (n, or 1 where they are shared), B rows; H, W, C height, width and
channels of an image, K kernel, F filters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sde_harl.policy.inference.local_nets import NORM_EPS, normalise_own, observation_mask
from sde_harl.policy.shapes import ConvShape, LocalShape

RELU_GAIN = 2.0**0.5
"""Gain of the orthogonal initialisation in front of a ReLU."""
FAST_COLUMNS = 16
"""The least columns of a product that MKL is fast with."""
UNIT = {"float32": 1.0, "uint8": 1.0 / 255.0}
"""Factor of an image's numbers, by their type: the nets see bytes as 0 to 1."""


def orthogonal(
    k: int, size_in: int, size_out: int, gain: float, generator: torch.Generator
) -> nn.Parameter:
    """Returns a parameter (k, in, out) whose k matrices are each drawn orthogonal."""
    weight = torch.empty(k, size_in, size_out)
    for each in weight:
        nn.init.orthogonal_(each, gain, generator)
    return nn.Parameter(weight)


def uniform(
    k: int, size_in: int, size_out: int, most: float, generator: torch.Generator
) -> nn.Parameter:
    """Returns a parameter (k, in, out) drawn uniformly between -most and most."""
    return nn.Parameter(
        torch.empty(k, size_in, size_out).uniform_(-most, most, generator=generator)
    )


def stack(
    k: int, widths: list[int], gains: list[float], generator: torch.Generator
) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Returns weights (k, in, out) and biases (k, 1, out) of the layers between `widths`."""
    pairs = list(zip(widths[:-1], widths[1:], gains))
    weights = nn.ParameterList(
        orthogonal(k, size_in, size_out, gain, generator=generator)
        for size_in, size_out, gain in pairs
    )
    biases = nn.ParameterList(nn.Parameter(torch.zeros(k, 1, size_out)) for _, size_out, _ in pairs)
    return weights, biases


def uniform_stack(
    k: int, widths: list[int], generator: torch.Generator
) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Returns what `stack` returns, drawn uniformly up to 1/sqrt(in), as torch's layers are."""
    weights, biases = nn.ParameterList(), nn.ParameterList()
    for size_in, size_out in zip(widths[:-1], widths[1:]):
        most = size_in**-0.5
        weights.append(uniform(k, size_in, size_out, most, generator=generator))
        biases.append(uniform(k, 1, size_out, most, generator=generator))
    return weights, biases


def local_stack(
    shape: LocalShape, k: int, *, on_device: bool, generator: torch.Generator
) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Returns weights and biases of the local blocks, or a gain and a shift where there is none."""
    if not shape.local_blocks:
        gain = nn.Parameter(torch.ones(k, 1, shape.obs))
        shift = nn.Parameter(torch.zeros(k, 1, shape.obs))
        return nn.ParameterList([gain]), nn.ParameterList([shift])
    inner = shape.local_blocks - 1
    widths = [shape.size_in()] + [shape.width] * inner + [shape.latent]
    last_gain = 1.0  # a latent is quantised without a ReLU
    if on_device:
        last_gain = RELU_GAIN
    return stack(k, widths, [RELU_GAIN] * inner + [last_gain], generator=generator)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns x (n, B, in) times weight (k, in, out) plus bias (k, 1, out): (n, B, out)."""
    size = weight.shape[-1]
    spare = spare_columns(size)
    if spare:
        weight, bias = (functional.pad(each, (0, spare)) for each in (weight, bias))
    return torch.baddbmm(bias, x, weight.expand(len(x), -1, -1))[..., :size]


def spare_columns(size: int) -> int:
    """Returns how many columns of zeros to add to a matrix of `size`, so that products are fast.

    MKL takes up to three times as long for 2 to 15 columns as for 16.
    """
    return FAST_COLUMNS - size if 1 < size < FAST_COLUMNS else 0


def normalise(x: Tensor, layer_norm: bool) -> Tensor:
    """Returns the layer normalisation of x (n, B, W) if `layer_norm`, else x."""
    if not layer_norm:
        return x
    return functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


class FeatureNorm(nn.Module):
    """The feature normalisation `normalise_own` for torch; no gradient passes through it.

    It has no parameters (the layer behind it has a gain and a shift), so it is computed once for a
    rollout and serves all epochs.
    """

    mask: Tensor
    """(n, 1, size) 1.0 where the agent has the feature, 0.0 where it is padding."""

    def __init__(self, sizes: tuple[int, ...], size: int, enabled: bool) -> None:
        """`sizes`: (n,) features of each agent; `size`: the padded size."""
        super().__init__()
        self._enabled = enabled
        self.padded = any(each != size for each in sizes)
        self._sizes = np.array(sizes, np.int32)
        mask = torch.from_numpy(observation_mask(sizes, size))[:, None]
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns x (n, B, size) normalised over each agent's own features; padding stays 0."""
        if not self._enabled:
            return x
        return torch.from_numpy(normalise_own(x.numpy(), self._sizes))


class ConvLayer(nn.Module):
    """The convolutions of k agents, with ReLU; the torch twin of `ConvArrays`."""

    def __init__(
        self, k: int, shape: ConvShape, *, scale: float, generator: torch.Generator
    ) -> None:
        """`scale`: a factor of the images.

        It is folded into the weights, which are few, so that no image is ever multiplied by it.
        """
        super().__init__()
        self.shape = shape
        self._scale = scale
        self.weight = orthogonal(
            k, shape.size_window(), shape.filters, gain=RELU_GAIN, generator=generator
        )
        self.bias = nn.Parameter(torch.zeros(k, 1, shape.filters))

    def arrays(self) -> tuple[Tensor, Tensor]:
        """Returns weight (k, K K C, F) and bias (k, 1, F), as they act."""
        return self.weight * self._scale, self.bias

    def forward(self, images: Tensor) -> Tensor:
        """Returns (n, B, size_out) of images (n, B, H W C), which may be bytes."""
        weight, bias = self.arrays()
        return convolve(images, weight, bias, shape=self.shape)


def convolve(images: Tensor, weight: Tensor, bias: Tensor, *, shape: ConvShape) -> Tensor:
    """Returns the convolution and ReLU (n, B, size_out) of images (n, B, H W C), bytes or floats.

    weight (k, K K C, F), bias (k, 1, F).
    """
    pixels = images.to(weight.dtype).reshape(-1, shape.height, shape.width, shape.channels)
    pixels = pixels.permute(0, 3, 1, 2)  # (n B, C, H, W)
    weights = weight.unflatten(1, (shape.kernel, shape.kernel, shape.channels))
    weights = weights.permute(0, 4, 3, 1, 2)  # (k, F, C, K, K)
    # One call for each set of parameters: torch's grouped convolution takes longer.
    parts = zip(pixels.chunk(len(weights)), weights, bias[:, 0])
    x = torch.cat([functional.conv2d(*part, stride=shape.stride) for part in parts])
    return torch.relu_(x).permute(0, 2, 3, 1).reshape(*images.shape[:2], -1)  # (n, B, size_out)

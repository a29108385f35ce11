"""The local nets in numpy: computed on a device, for all its agents in one batched product.

    obs   -> feature normalisation -> [Linear + ReLU] x (local_blocks - 1) -> Linear -> latent
    image -> convolution + ReLU    -> the same

Feature normalisation is layer normalisation over the agent's own features, without a gain and shift
of its own: the Linear behind it has both. The last local block has no ReLU: the quantiser is its
non-linearity. With `local_blocks = 0` the latent is the normalised observation, each feature
with a learnt gain, which sets its quantisation step, and a shift. Parameters travel as one flat
float32 vector in the order of `local_parameter_shapes`.

Devices act in numpy: a board needs no torch for it, and where rows are few numpy's calls cost less.
The nets of a device's agents are stacked, so that each layer is one call for all of them.

n agents of one executor, E environments, O the largest observation of the run, Z latent.
"""

from __future__ import annotations

from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sde_harl.policy.inference import _blocks
from sde_harl.policy.inference.arrays import FloatArray
from sde_harl.policy.inference.conv import ConvArrays
from sde_harl.policy.shapes import LocalShape, local_parameter_shapes

NORM_EPS = 1e-5
"""Added to the variance in layer normalisation, as in torch."""


def split(shapes: list[tuple[int, ...]], weights: FloatArray) -> list[FloatArray]:
    """Returns the arrays of these shapes, views of a flat float32 vector that holds all of them.

    Raises ValueError where the vector's length or a value is not right: it came over the link.
    """
    sizes = [prod(each) for each in shapes]
    if weights.size != sum(sizes):
        raise ValueError(f"{weights.size} weights, expected {sum(sizes)}")
    if not np.isfinite(weights).all():
        raise ValueError("weights are not finite")
    parts = np.split(weights, np.cumsum(sizes)[:-1])
    return [part.reshape(each) for part, each in zip(parts, shapes)]


def split_above(
    shape: LocalShape, above: list[tuple[int, ...]], weights: FloatArray
) -> tuple[FloatArray, list[FloatArray]]:
    """Returns the local nets' parameters, still flat, and the arrays above them, of shapes `above`.

    Raises ValueError where the length or a value of the latter is not right.
    """
    count = sum(map(prod, local_parameter_shapes(shape)))
    return weights[:count], split(above, weights[count:])


def observation_mask(obs_sizes: tuple[int, ...], obs: int) -> FloatArray:
    """Returns (n, O) float32: 1 where an agent's observation has the feature, 0 in its padding."""
    return (np.arange(obs) < np.asarray(obs_sizes)[:, None]).astype(np.float32)


def normalise(x: FloatArray) -> FloatArray:
    """Returns the layer normalisation of x (n, E, W), written over x."""
    share = np.float32(1.0 / x.shape[-1])
    # np.mean and np.var take three times as long on few rows.
    x -= np.add.reduce(x, -1, keepdims=True) * share
    x *= 1.0 / np.sqrt(np.einsum("neo,neo->ne", x, x)[..., None] * share + np.float32(NORM_EPS))
    return x


def normalise_own(x: NDArray[Any], sizes: NDArray[np.int32]) -> FloatArray:
    """Returns x (n, E, O) normalised over each agent's own features; padding is 0.

    `sizes`: (n,) int32 features of each agent.
    """
    result = np.empty(x.shape, np.float32)
    # blocks.c reads flat memory; bytes of images become floats here.
    _blocks.normalise(np.ascontiguousarray(x, np.float32), sizes, NORM_EPS, result)
    return result


def affine(x: FloatArray, weight: FloatArray, bias: FloatArray) -> FloatArray:
    """Returns x (n, E, in) times weight (n, in, out) plus bias (n, 1, out): (n, E, out)."""
    x = np.matmul(x, weight)
    x += bias  # in place: no other code holds the product
    return x


def block(
    x: FloatArray,
    weight: FloatArray,
    bias: FloatArray,
    *,
    layer_norm: bool,
) -> FloatArray:
    """Returns `affine`, then ReLU, then layer normalisation if asked: (n, E, out)."""
    x = np.matmul(x, weight)
    eps = None
    if layer_norm:
        eps = NORM_EPS
    _blocks.activate(x, bias, eps, None)
    return x


class Nets(Protocol):
    """Local nets: `LocalNets`, or its twin in torch."""

    def __call__(self, obs: NDArray[Any]) -> FloatArray:
        """Returns latents (n, E, Z) of observations (n, E, O), before quantisation.

        Returns the inputs of the heads (n, E, W) where the policy runs on its device.
        """


class MakeNets(Protocol):
    """The constructor of `LocalNets`, or of its twin in torch."""

    def __call__(
        self, shape: LocalShape, weights: FloatArray, *, on_device: bool = False
    ) -> Nets: ...


class LocalNets:
    """Local nets of an executor's agents, stacked."""

    def __init__(self, shape: LocalShape, weights: FloatArray, *, on_device: bool = False) -> None:
        """`weights`: float32 vector of all parameters in wire order.

        `on_device`: the policy runs on the device, so the last block has a ReLU like the others.
        Raises ValueError where the vector's length or a value is not right.
        """
        arrays = split(local_parameter_shapes(shape), weights)
        self._shape = shape
        self._layers = [(weight, bias[:, None]) for weight, bias in zip(arrays[::2], arrays[1::2])]
        self._conv: ConvArrays | None = None
        if shape.conv:
            weight, bias = self._layers.pop(0)
            self._conv = ConvArrays(shape=shape.conv, weight=weight, bias=bias)
        self._last: tuple[FloatArray, FloatArray] | None = None
        if not on_device:
            self._last = self._layers.pop()
        self._sizes = np.array(shape.obs_sizes, np.int32)

    def __call__(self, obs: NDArray[Any]) -> FloatArray:
        """Returns latents (n, E, Z) of observations (n, E, O), as `Nets` says."""
        x: NDArray[Any] = obs
        if self._shape.feature_norm:
            x = normalise_own(obs, self._sizes)
        if not self._shape.local_blocks:
            assert self._last
            gain, shift = self._last
            scaled: FloatArray = x * gain[:, None] + shift
            return scaled
        if self._conv:
            x = self._conv(x)
        for weight, bias in self._layers:
            x = block(x, weight, bias, layer_norm=self._shape.layer_norm)
        if self._last is None:
            return x  # the heads follow on this device; nothing is quantised
        weight, bias = self._last
        return affine(x, weight, bias)

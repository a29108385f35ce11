"""The local nets in numpy: what an executor computes on its device, for all its agents in one batched product.

    obs -> feature normalisation -> [Linear + ReLU] x (local_blocks - 1) -> Linear -> latent
    image -> convolution + ReLU -> the same

Feature normalisation is layer normalisation over the agent's own features, without a gain and shift of its own: the
Linear behind it has both. The last local block has no ReLU: the quantiser is its non-linearity. With `local_blocks = 0`
the latent is the normalised observation, each feature with a learnt gain (its quantisation step) and shift. Parameters
travel as one flat float32 vector in the order of
`local_parameter_shapes`.

n agents of one executor, E environments, O the largest observation of the run, Z latent.
"""

from __future__ import annotations

from math import prod
from typing import Protocol

import numpy as np

from sde_harl.policy.inference import _blocks
from sde_harl.policy.inference.conv import ConvArrays
from sde_harl.policy.shapes import LocalShape, local_parameter_shapes

NORM_EPS = 1e-5


def split(shapes: list[tuple[int, ...]], flat: np.ndarray) -> list[np.ndarray]:
    """The parts of a float32 vector of all parameters. Raises ValueError where its length or a value is not right."""
    sizes = [prod(each) for each in shapes]
    if flat.size != sum(sizes):
        raise ValueError(f"{flat.size} weights, expected {sum(sizes)}")
    if not np.isfinite(flat).all():
        raise ValueError("weights are not finite")
    return [part.reshape(each) for part, each in zip(np.split(flat, np.cumsum(sizes)[:-1]), shapes)]


def split_above(
    shape: LocalShape, above: list[tuple[int, ...]], flat: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The local nets' parameters, still flat, and the arrays behind them in the vector, of the shapes `above`.

    Raises ValueError where the length or a value of the latter is not right.
    """
    count = sum(map(prod, local_parameter_shapes(shape)))
    return flat[:count], split(above, flat[count:])


def observation_mask(obs_sizes: tuple[int, ...], obs: int) -> np.ndarray:
    """(n, O) float32: 1 where an agent's observation has the feature, 0 where it is padding."""
    return (np.arange(obs) < np.asarray(obs_sizes)[:, None]).astype(np.float32)


def normalise(x: np.ndarray) -> np.ndarray:
    """Layer normalisation of x (n, E, W), which this overwrites."""
    share = np.float32(1.0 / x.shape[-1])
    x -= (
        np.add.reduce(x, -1, keepdims=True) * share
    )  # np.mean takes three times as long on few rows
    x *= 1.0 / np.sqrt(np.einsum("neo,neo->ne", x, x)[..., None] * share + np.float32(NORM_EPS))
    return x


def normalise_own(x: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Layer normalisation of x (n, E, O) over each agent's own `sizes` (n,) int32 of features; padding is zero."""
    result = np.empty(x.shape, np.float32)
    _blocks.normalise(np.ascontiguousarray(x, np.float32), sizes, NORM_EPS, result)
    return result


def affine(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x (n, E, in) times weight (n, in, out) plus bias (n, 1, out): (n, E, out)."""
    x = np.matmul(x, weight)
    x += bias
    return x


def block(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, layer_norm: bool) -> np.ndarray:
    """`affine`, ReLU, then layer normalisation if asked: (n, E, out)."""
    x = np.matmul(x, weight)
    _blocks.activate(x, bias, NORM_EPS if layer_norm else None, None)
    return x


class Nets(Protocol):
    """What `LocalNets` is, or its twin in torch."""

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Latents (n, E, Z) of observations (n, E, O), before quantisation; of a whole policy, what its head sees."""


class LocalNets:
    """Local nets of an executor's agents, stacked."""

    def __init__(self, shape: LocalShape, flat: np.ndarray, whole: bool = False) -> None:
        """`flat`: float32 vector of all parameters; `whole`: the last block is as the others.

        Raises ValueError where the vector's length or a value is not right.
        """
        arrays = split(local_parameter_shapes(shape), flat)
        self._shape = shape
        self._layers = [(weight, bias[:, None]) for weight, bias in zip(arrays[::2], arrays[1::2])]
        self._conv = ConvArrays(shape.conv, *self._layers.pop(0)) if shape.conv else None
        self._last = None if whole else self._layers.pop()
        self._sizes = np.array(shape.obs_sizes, np.int32)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Latents (n, E, Z) of observations (n, E, O), before quantisation; of a whole policy, what its head sees."""
        x = normalise_own(obs, self._sizes) if self._shape.feature_norm else obs
        if not self._shape.local_blocks:
            assert self._last
            gain, shift = self._last
            return x * gain[:, None] + shift
        if self._conv:
            x = self._conv(x)
        for each in self._layers:
            x = block(x, *each, self._shape.layer_norm)
        return affine(x, *self._last) if self._last else x

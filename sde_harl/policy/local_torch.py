"""The local nets in torch, for a device whose GPU computes them: the twin of `LocalNets`.

It has the same constructor and call. torch adds in another order than numpy, so a latent that lies
within a rounding error of the middle between two symbols may become the other one. Both ends of the
link still agree, since only the device quantises, but two runs are not equal bit for bit.

n agents of one executor, E environments, O observation, Z latent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sde_harl.errors import UserError
from sde_harl.policy.inference.local_nets import normalise_own, split
from sde_harl.policy.layers import affine, convolve, normalise
from sde_harl.policy.shapes import LocalShape, local_parameter_shapes


class TorchLocalNets:
    """Local nets of an executor's agents, stacked, on one of torch's devices."""

    def __init__(
        self,
        shape: LocalShape,
        weights: NDArray[np.float32],
        *,
        on_device: bool = False,
        device: str = "cpu",
    ) -> None:
        """`weights` and `on_device` as in `LocalNets`; `device`: cpu or cuda.

        Raises ValueError as `LocalNets` does, and UserError where torch can't use the device.
        """
        parts = split(local_parameter_shapes(shape), weights)
        arrays = _tensors(parts, device)
        self._shape = shape
        self._device = device
        self._layers = [(weight, bias[:, None]) for weight, bias in zip(arrays[::2], arrays[1::2])]
        self._conv: tuple[Tensor, Tensor] | None = None
        if shape.conv:
            self._conv = self._layers.pop(0)
        self._last: tuple[Tensor, Tensor] | None = None
        if not on_device:
            self._last = self._layers.pop()
        self._sizes = np.array(shape.obs_sizes, np.int32)

    def __call__(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        """Returns latents (n, E, Z) of observations (n, E, O), as `LocalNets` does."""
        features = obs
        if self._shape.feature_norm:
            features = normalise_own(obs, self._sizes)
        with torch.inference_mode():
            x = torch.tensor(features, device=self._device)
            latents: NDArray[np.float32] = self._latents(x).cpu().numpy()
        return latents

    def _latents(self, x: Tensor) -> Tensor:
        if not self._shape.local_blocks:
            assert self._last
            gain, shift = self._last
            return x * gain[:, None] + shift
        if self._shape.conv and self._conv:
            weight, bias = self._conv
            x = convolve(x, weight, bias, shape=self._shape.conv)
        for weight, bias in self._layers:
            x = normalise(torch.relu_(affine(x, weight, bias)), self._shape.layer_norm)
        if self._last is None:
            return x
        weight, bias = self._last
        return affine(x, weight, bias)


def _tensors(arrays: list[NDArray[np.float32]], device: str) -> list[Tensor]:
    """Returns copies of the arrays on a device; raises UserError where torch can't use it."""
    try:
        return [torch.tensor(each, device=device) for each in arrays]
    except (RuntimeError, AssertionError) as error:  # torch has no CUDA, or finds no GPU
        raise UserError(f"executor.device: {device}: {str(error).splitlines()[0]}") from error

"""The local nets through torch, for hosts whose GPU computes them: the twin of `local.LocalNets`, with the same call.

Sums are rounded otherwise than by numpy, so a latent within a rounding error of a tie may become the next symbol.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sde_harl.errors import UserError
from sde_harl.policy.inference.local_nets import normalise_own, split
from sde_harl.policy.layers import affine, convolve, normalise
from sde_harl.policy.shapes import LocalShape, local_parameter_shapes


class TorchLocalNets:
    """Local nets of an executor's agents, stacked, on a device of torch's."""

    def __init__(
        self, shape: LocalShape, flat: np.ndarray, whole: bool = False, device: str = "cpu"
    ) -> None:
        """`flat` and `whole` as of `LocalNets`; `device`: cpu or cuda.

        Raises ValueError as `LocalNets` does, and UserError where torch can't use the device.
        """
        try:
            arrays = [
                torch.tensor(each, device=device)
                for each in split(local_parameter_shapes(shape), flat)
            ]
        except (RuntimeError, AssertionError) as error:  # torch has no CUDA, or finds no GPU
            raise UserError(f"executor.device: {device}: {str(error).splitlines()[0]}") from error
        self._shape, self._device = shape, device
        self._layers = [(weight, bias[:, None]) for weight, bias in zip(arrays[::2], arrays[1::2])]
        self._conv = self._layers.pop(0) if shape.conv else None
        self._last = None if whole else self._layers.pop()
        self._sizes = np.array(shape.obs_sizes, np.int32)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """As `LocalNets` has it: (n, E, O) -> (n, E, Z)."""
        features = normalise_own(obs, self._sizes) if self._shape.feature_norm else obs
        with torch.inference_mode():
            latents: np.ndarray = (
                self._latents(torch.tensor(features, device=self._device)).cpu().numpy()
            )
        return latents

    def _latents(self, x: Tensor) -> Tensor:
        if not self._shape.local_blocks:
            assert self._last
            gain, shift = self._last
            return x * gain[:, None] + shift
        if self._shape.conv and self._conv:
            x = convolve(self._shape.conv, x, *self._conv)
        for each in self._layers:
            x = normalise(torch.relu_(affine(x, *each)), self._shape.layer_norm)
        return affine(x, *self._last) if self._last else x

"""A convolution in numpy, for observations that are images: it stands before the first block.

As in HARL's CNNBase it is one convolution with ReLU. Each image lies in one row of an array, its
channels last, and so does the result: the block behind it takes it as any other observation.
layers.py has the torch twin.

n agents, E environments, H, W, C height, width and channels of an image, K kernel, F filters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sde_harl.policy.inference.arrays import FloatArray
from sde_harl.policy.shapes import ConvShape


class ConvArrays(NamedTuple):
    """The convolutions of all agents."""

    shape: ConvShape
    weight: FloatArray
    """(n, K K C, F)."""
    bias: FloatArray
    """(n, 1, F)."""

    def __call__(self, images: NDArray[Any]) -> FloatArray:
        """Returns (n, E, size_out) of images (n, E, H W C)."""
        agents, envs = images.shape[:2]
        windows = self.windows(images)
        # One product for all windows of all images of an agent, which BLAS does best.
        x = np.matmul(windows, self.weight)  # (n, E positions, F)
        x += self.bias
        np.maximum(x, 0.0, out=x)
        result: FloatArray = x.reshape(agents, envs, -1)
        return result

    def windows(self, images: NDArray[Any]) -> NDArray[Any]:
        """Returns all windows of images (n, E, H W C): (n, E positions, K K C)."""
        agents, envs = images.shape[:2]
        channels = self.shape.channels
        kernel = self.shape.kernel
        stride = self.shape.stride
        # With the channels last, the K C numbers of a window's row are neighbours, so width and
        # channels count as one axis; a step to the right is `stride` times C numbers.
        rows = images.reshape(agents, envs, -1, self.shape.width * channels)  # (n, E, H, W C)
        windows = sliding_window_view(rows, (1, 1, kernel, kernel * channels))
        strided = windows[:, :, ::stride, :: stride * channels]
        return strided.reshape(agents, -1, self.shape.size_window())

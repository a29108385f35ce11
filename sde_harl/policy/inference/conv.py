"""A convolution in numpy, for observations that are images: it stands before the first block, as in HARL's CNNBase.

Each image lies in one row, its channels last. What comes out lies likewise, so that the block behind takes it as it
takes any other observation. layers.py has the torch twin.

n agents, E environments, H, W, C height, width and channels of an image, K kernel, F filters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sde_harl.policy.shapes import ConvShape


class ConvArrays(NamedTuple):
    """The convolutions of all agents."""

    shape: ConvShape
    weight: np.ndarray
    """(n, K K C, F)."""
    bias: np.ndarray
    """(n, 1, F)."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(n, E, H W C) -> (n, E, size), one product an agent over all windows of all its images."""
        agents, envs = images.shape[:2]
        _, width, channels, _, kernel, stride = self.shape
        rows = images.reshape(agents, envs, -1, width * channels)  # a window is K rows of K C
        windows = sliding_window_view(rows, (1, 1, kernel, kernel * channels))[
            :, :, ::stride, :: stride * channels
        ]
        x = np.matmul(
            windows.reshape(agents, -1, self.shape.size_window()), self.weight
        )  # (n, E positions, F)
        x += self.bias
        np.maximum(x, 0.0, out=x)
        return x.reshape(agents, envs, -1)

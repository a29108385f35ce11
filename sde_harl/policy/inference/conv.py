"""A convolution in numpy, for observations that are images: it stands before the first block, as in HARL's CNNBase.

Each image lies in one row, its channels last. What comes out lies likewise, so that the block behind takes it as it
takes any other observation. layers.py has the torch twin.

n agents, E environments, H, W, C height, width and channels of an image, K kernel, F filters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Conv(NamedTuple):
    """Sizes of a convolution without padding, that ends with ReLU."""

    height: int
    width: int
    channels: int
    filters: int
    kernel: int
    stride: int

    def size_in(self) -> int:
        """H W C."""
        return self.height * self.width * self.channels

    def size_window(self) -> int:
        """K K C, what a filter sees at once."""
        return self.kernel * self.kernel * self.channels

    def size(self) -> int:
        """Numbers that come out of an image."""
        rows, columns = (
            (each - self.kernel) // self.stride + 1 for each in (self.height, self.width)
        )
        return rows * columns * self.filters


class ConvArrays(NamedTuple):
    """The convolutions of all agents."""

    shape: Conv
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

"""Observations as they lie in a message, turned into what the nets take.

n agents of one executor, E environments of one slot, O the largest observation of the run, O_i
agent i's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sde_harl.link.wire import WireError
from sde_harl.policy.shapes import LocalShape

FLOAT32 = np.dtype("<f4")


class ObservationReader:
    """Reads the observations of an executor's agents."""

    def __init__(self, shape: LocalShape) -> None:
        self._sizes = shape.obs_sizes
        self._padded_size = shape.obs
        self._dtype = shape.obs_dtype()
        self._is_padded = min(shape.obs_sizes) < shape.obs
        # The usual case: the message's own bytes are the array.
        self._is_as_sent = not (self._is_padded or shape.pixels)
        self._row_bytes = self._dtype.itemsize * sum(shape.obs_sizes)

    def bytes_of(self, rows: int) -> int:
        """Returns the bytes of all agents' observations in so many environments."""
        return self._row_bytes * rows

    def read(self, payload: memoryview, rows: int) -> NDArray[np.float32]:
        """Returns float32 (n, E, O), padded with zeros, from each agent's (E, O_i) in turn.

        It may be a view of the payload. Raises WireError("length").
        """
        if len(payload) != self._row_bytes * rows:
            raise WireError("length")
        agents = len(self._sizes)
        if self._is_as_sent:
            return np.ndarray((agents, rows, self._padded_size), FLOAT32, payload)
        # Images travel as bytes; the division by 255 is part of the published weights.
        values = np.frombuffer(payload, self._dtype).astype(FLOAT32, copy=False)
        if not self._is_padded:
            return values.reshape(agents, rows, self._padded_size)
        # Agents observe different numbers: these lie one agent behind another, without padding.
        obs = np.zeros((agents, rows, self._padded_size), np.float32)
        start = 0
        for row, size in enumerate(self._sizes):
            end = start + rows * size
            obs[row, :, :size] = values[start:end].reshape(rows, size)
            start = end
        return obs

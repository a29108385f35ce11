import numpy as np
from numpy.typing import NDArray

LIMIT: int

class Coder:
    def __init__(
        self,
        cdf: NDArray[np.int32],
        lengths: NDArray[np.int32],
        offsets: NDArray[np.int32],
        medians: NDArray[np.float32],
    ) -> None: ...
    def encode(self, latents: NDArray[np.float32]) -> bytes: ...
    def decode(self, string: bytes | memoryview, latents: NDArray[np.float32]) -> float: ...

import numpy as np

LIMIT: int

class Coder:
    def __init__(
        self, cdf: np.ndarray, lengths: np.ndarray, offsets: np.ndarray, medians: np.ndarray
    ) -> None: ...
    def encode(self, latents: np.ndarray) -> bytes: ...
    def decode(self, string: bytes | memoryview, latents: np.ndarray) -> float: ...

import numpy as np
from numpy.typing import NDArray

from sde_harl.policy.inference.arrays import BoolArray, FloatArray

def flush_denormals() -> None: ...
def activate(
    x: FloatArray, bias: FloatArray, eps: float | None, stats: FloatArray | None
) -> None: ...
def gradients(dy: FloatArray, y: FloatArray, stats: FloatArray | None, db: FloatArray) -> None: ...
def normalise(x: FloatArray, sizes: NDArray[np.int32], eps: float, y: FloatArray) -> None: ...
def choose(
    outputs: FloatArray,
    available: BoolArray,
    race: FloatArray | None,
    edges: NDArray[np.int32],
    actions: NDArray[np.int32],
    log_probs: FloatArray,
) -> None: ...

import numpy as np
from numpy.typing import NDArray

from sde_harl.policy.inference.arrays import BoolArray, FloatArray

def flush_denormals() -> None: ...

Numbers = FloatArray | NDArray[np.int16]
"""float32, or bfloat16 in int16."""

def activate(x: Numbers, bias: FloatArray, eps: float | None, stats: FloatArray | None) -> None: ...
def gradients(dy: Numbers, y: Numbers, stats: FloatArray | None, db: FloatArray) -> None: ...
def values(x: Numbers, w: FloatArray, values: FloatArray) -> None: ...
def value_gradients(
    dvalues: FloatArray, x: Numbers, w: FloatArray, dx: Numbers, dw: FloatArray | None
) -> None: ...
def normalise(x: FloatArray, sizes: NDArray[np.int32], eps: float, y: FloatArray) -> None: ...
def choose(
    outputs: FloatArray,
    available: BoolArray,
    race: FloatArray | None,
    edges: NDArray[np.int32],
    actions: NDArray[np.int32],
    log_probs: FloatArray,
) -> None: ...

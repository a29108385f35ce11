import numpy as np
from numpy.typing import NDArray

from sde_harl.policy.inference.arrays import BoolArray, FloatArray

FEW_OUTPUTS: int
"""Up to so many, `outputs` and its gradients take no longer than matrix products."""

def flush_denormals() -> None: ...
def vectors(floats: int, /) -> bool: ...

Numbers = FloatArray | NDArray[np.int16]
"""float32, or bfloat16 in int16."""

def activate(x: Numbers, bias: FloatArray, eps: float | None, stats: FloatArray | None) -> None: ...
def gradients(dy: Numbers, y: Numbers, stats: FloatArray | None, db: FloatArray) -> None: ...
def relu_gradients(dx: Numbers, y: Numbers, rows: NDArray[np.int32]) -> None: ...
def outputs(x: Numbers, w: FloatArray, bias: FloatArray, y: FloatArray) -> None: ...
def output_gradients(
    dy: FloatArray,
    x: Numbers | None,
    w: FloatArray,
    dx: Numbers,
    dw: FloatArray | None,
    db: FloatArray | None,
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

import numpy as np

def activate(
    x: np.ndarray, bias: np.ndarray, eps: float | None, stats: np.ndarray | None
) -> None: ...
def gradients(dy: np.ndarray, y: np.ndarray, stats: np.ndarray | None, db: np.ndarray) -> None: ...
def normalise(x: np.ndarray, sizes: np.ndarray, eps: float, y: np.ndarray) -> None: ...
def choose(
    outputs: np.ndarray,
    available: np.ndarray,
    race: np.ndarray | None,
    edges: np.ndarray,
    actions: np.ndarray,
    log_probs: np.ndarray,
) -> None: ...

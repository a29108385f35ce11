"""The types of the arrays that acting computes with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Made at import and not only in annotations, so numpy 1.21 is the oldest that a device can have.
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

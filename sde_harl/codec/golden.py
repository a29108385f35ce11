"""Golden bytes that every host's coder has to make and read: two that do understand each other."""

from __future__ import annotations

import numpy as np

from sde_harl.codec.coder import EntropyCoder
from sde_harl.codec.tables import Tables

TABLES = Tables(
    version=1,
    cdf=np.array(
        [[0, 8000, 30000, 65000, 65536, 0], [0, 1000, 20000, 45000, 65000, 65536]], np.int32
    ),
    lengths=np.array([5, 6], np.int32),
    offsets=np.array([-1, -2], np.int32),
    medians=np.array([0.25, -0.5], np.float32),
)
LATENTS = np.array([[0.25, -0.5], [1.0, -2.4], [-0.7, 1.6], [40.0, -300.0]], np.float32)
"""(R, Z); the last row needs the escape code."""
PAYLOAD = bytes.fromhex("c271a1ab0100000028af16074c53fef3")


def coder_agrees() -> bool:
    """Returns True if this host's coder makes the payload of the latents and reads it back."""
    coder = EntropyCoder(TABLES)
    decoded = np.zeros_like(LATENTS)
    if coder.encode(LATENTS) != PAYLOAD:
        return False
    coder.decode(PAYLOAD, decoded)
    return bool((decoded == np.rint(LATENTS - TABLES.medians) + TABLES.medians).all())

"""The codecs by name, and the interface that they share.

A new codec without tables is a class here in PLAIN, its rounding for training in entropy.py's
`quantise_plain`, and its name in the configuration's choices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sde_harl.codec.coder import EntropyCoder
from sde_harl.codec.plain import Float16, Float32, Int8

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from sde_harl.codec.tables import Tables


class Codec(Protocol):
    """Codes the latents of one agent, R rows of Z elements."""

    def encode(self, z: NDArray[np.float32]) -> bytes:
        """Returns the payload of latents z, float32 (R, Z).

        Raises ValueError on a wrong shape or a value that is not finite.
        """

    def decode(self, payload: bytes | memoryview, out: NDArray[np.float32]) -> float:
        """Fills `out`, float32 (R, Z), with a payload's latents as the policy gets them.

        Returns the payload's ideal size in bits, negative where the codec has no probability model.
        Raises ValueError on a damaged payload.
        """


PLAIN: dict[str, Callable[[int], Codec]] = {"float32": Float32, "float16": Float16, "int8": Int8}
"""The codecs that need no tables, by name; each takes the latent's size."""
NAMES = ("entropy", *PLAIN)
"""All codecs, as `codec.name` names them."""


def make_codec(name: str, latent: int, *, tables: Tables | None = None, pack: int = 0) -> Codec:
    """Returns the codec called `name` (one of NAMES) for latents of `latent` elements.

    `entropy` is an `EntropyCoder`: it needs `tables` of as many channels, and `pack`, the rows that
    share a string (0: all of them). Raises ValueError on an unknown name or tables that don't fit.
    """
    if name in PLAIN:
        return PLAIN[name](latent)
    if name != "entropy":
        raise ValueError(f"unknown codec {name!r}; there are {', '.join(NAMES)}")
    if tables is None or len(tables.lengths) != latent:
        raise ValueError(f"the entropy codec needs tables of {latent} channels")
    return EntropyCoder(tables, pack)

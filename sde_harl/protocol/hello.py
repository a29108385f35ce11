"""How an executor introduces itself: the HELLO, which the server checks, prints and records."""

from __future__ import annotations

import json
import os
import platform
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sde_harl import __version__
from sde_harl.errors import UserError
from sde_harl.link.wire import WireError, parse_json
from sde_harl.outside.text import printable

if TYPE_CHECKING:
    from sde_harl.meters.energy import Energy

LONGEST_TEXT = 256
"""Characters that any text of a HELLO may have."""
NUMBERS = {"cores": 1 << 20, "pid": 1 << 32}
"""Fields that are integers from 1, and the largest of each; all others are text."""


class Hello(NamedTuple):
    """Describes a host and the program on it."""

    host: str
    arch: str
    python: str
    numpy: str
    package: str
    """Version of sde_harl."""
    cores: int
    pid: int
    energy: str
    """Scope of the host's energy sensor, or why there is none."""
    gpu_energy: str
    """The same of the GPUs' sensor."""

    def to_json(self) -> bytes:
        """Returns the payload of a HELLO."""
        return json.dumps(self._asdict()).encode()

    @classmethod
    def from_json(cls, payload: memoryview) -> Hello:
        """Reads a HELLO. Raises WireError("hello") unless it has exactly the expected fields."""
        fields = parse_json(payload)
        # No more and no fewer: each of them is printed and recorded, so each is checked.
        if set(fields) != set(cls._fields):
            raise WireError("hello")
        if not all(_is_valid(name, value) for name, value in fields.items()):
            raise WireError("hello")
        return cls(**fields)

    def check_version(self, rank: int) -> None:
        """Raises UserError unless executor `rank` has the same version of sde_harl."""
        # Equal, not compatible: both ends must compute and code alike, bit for bit.
        if self.package != __version__:
            raise UserError(
                f"executor {rank} ({self.host}) has sde_harl {self.package}, "
                f"the server {__version__}"
            )


def _is_valid(name: str, value: Any) -> bool:
    """Returns whether a field of a HELLO has the right type and may be printed."""
    if name in NUMBERS:
        # isinstance would let a bool pass for an int.
        return type(value) is int and 1 <= value <= NUMBERS[name]
    # Refused rather than made printable: an honest host sends no such text.
    return type(value) is str and value.isprintable() and 0 < len(value) <= LONGEST_TEXT


def describe_host(energy: Energy) -> Hello:
    """Describes this host and process; `energy` knows what can be measured on it."""
    return Hello(
        host=socket.gethostname(),
        arch=platform.machine(),
        python=platform.python_version(),
        numpy=np.__version__,
        package=__version__,
        cores=os.cpu_count() or 1,
        pid=os.getpid(),
        # These hold what drivers and the kernel say, in any words.
        energy=printable(energy.host_scope)[:LONGEST_TEXT],
        gpu_energy=printable(energy.gpu_scope)[:LONGEST_TEXT],
    )

"""The METER's payload: what an executor has used and how long its answers took.

k answers since the last report, one row for each decision and agent.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.link.wire import WireError


class Resources(NamedTuple):
    """Counts what an executor has used since its start: the head of a METER, 152 bytes."""

    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int
    sleep_s: float
    waits: int
    rejected: int
    alone: int
    """Decisions that it took without the server, for all its agents."""
    sent: int
    received: int
    sent_bytes: int
    """Bytes of its own frames, as `received_bytes`."""
    received_bytes: int
    carried_sent_bytes: int
    """Bytes that its interfaces carried (meters/network.py), as what follows; -1: unknown."""
    carried_received_bytes: int
    carried_sent_packets: int
    carried_received_packets: int
    joules: float = math.nan
    """Energy of its host, all processes together, since some earlier moment; here and below NaN
    where it has no sensor."""
    gpu_joules: float = math.nan
    idle_w: float = math.nan
    """Power of its host before the run began."""
    gpu_idle_w: float = math.nan


# One letter for each field of `Resources`, in the same order.
RESOURCES = struct.Struct("<dQQdQQQQQQQqqqqdddd")
TIMINGS = np.dtype("<u4")
TIMINGS_A_ROW = 3
"""Local net, encode, round trip."""
LONGEST_NS = 2**32 - 1
LARGEST_BYTES = 1 << 50
"""No host has as much memory; a larger number would not even fit the record."""
METER_BYTES = RESOURCES.size
"""Bytes of a METER payload without its timings."""
TIMING_BYTES = TIMINGS_A_ROW * TIMINGS.itemsize
"""Bytes of one row of timings."""

# The record (run.h5) holds these as signed numbers, so what a device claims must be bounded before.
BOUNDED = (
    "rss_bytes",
    "peak_rss_bytes",
    "alone",
    "sent",
    "received",
    "sent_bytes",
    "received_bytes",
)
# NaN says that there is no sensor; infinity is a broken one.
NOT_INFINITE = ("joules", "gpu_joules", "idle_w", "gpu_idle_w")


def pack_meter(resources: Resources, timings: NDArray[np.integer[Any]]) -> bytes:
    """Returns a METER payload. `timings` (k, 3) in ns; longer ones are sent as 4.29 s, the most."""
    return RESOURCES.pack(*resources) + np.clip(timings, 0, LONGEST_NS).astype(TIMINGS).tobytes()


def unpack_meter(payload: memoryview) -> tuple[Resources, NDArray[np.uint32]]:
    """Returns the resources and the (k, 3) timings in ns of a METER. Raises WireError("meter")."""
    if len(payload) < METER_BYTES or (len(payload) - METER_BYTES) % TIMING_BYTES:
        raise WireError("meter")
    resources = Resources._make(RESOURCES.unpack_from(payload))
    if not _is_plausible(resources):
        raise WireError("meter")
    timings = np.frombuffer(payload, TIMINGS, offset=METER_BYTES).reshape(-1, TIMINGS_A_ROW)
    # A copy in the host's byte order, which outlives the message.
    return resources, timings.astype(np.uint32)


def _is_plausible(resources: Resources) -> bool:
    """Returns whether the numbers can be recorded."""
    return (
        math.isfinite(resources.cpu_s)
        and math.isfinite(resources.sleep_s)
        and not any(math.isinf(getattr(resources, name)) for name in NOT_INFINITE)
        and max(getattr(resources, name) for name in BOUNDED) <= LARGEST_BYTES
    )

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
METER_BYTES = RESOURCES.size
"""Bytes of a METER payload without its timings."""
TIMING_BYTES = TIMINGS_A_ROW * TIMINGS.itemsize
"""Bytes of one row of timings."""

# What a device claims goes into the record and into sums over hosts, so each number has bounds that
# no host can reach: 30 years on 1,000 cores, 2^50 of whatever is counted, a megawatt.
LARGEST_S = 1e12
LARGEST_COUNT = 1 << 50
LARGEST_J = 1e15
LARGEST_W = 1e6
BOUNDS: dict[str, tuple[float, float]] = {
    "cpu_s": (0, LARGEST_S),
    "rss_bytes": (0, LARGEST_COUNT),
    "peak_rss_bytes": (0, LARGEST_COUNT),
    "sleep_s": (0, LARGEST_S),
    "waits": (0, LARGEST_COUNT),
    "rejected": (0, LARGEST_COUNT),
    "alone": (0, LARGEST_COUNT),
    "sent": (0, LARGEST_COUNT),
    "received": (0, LARGEST_COUNT),
    "sent_bytes": (0, LARGEST_COUNT),
    "received_bytes": (0, LARGEST_COUNT),
    # Negative where unknown, and where an interface has been reset since the start.
    "carried_sent_bytes": (-LARGEST_COUNT, LARGEST_COUNT),
    "carried_received_bytes": (-LARGEST_COUNT, LARGEST_COUNT),
    "carried_sent_packets": (-LARGEST_COUNT, LARGEST_COUNT),
    "carried_received_packets": (-LARGEST_COUNT, LARGEST_COUNT),
    "joules": (-LARGEST_J, LARGEST_J),
    "gpu_joules": (-LARGEST_J, LARGEST_J),
    "idle_w": (-LARGEST_W, LARGEST_W),
    "gpu_idle_w": (-LARGEST_W, LARGEST_W),
}
"""The least and the largest value of each field of `Resources`."""
MAY_BE_NAN = ("joules", "gpu_joules", "idle_w", "gpu_idle_w")
"""Fields that are NaN where the host has no sensor."""


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
    """Returns whether each number is within its bounds, or NaN where it may be."""
    for name, value in resources._asdict().items():
        low, high = BOUNDS[name]
        is_unknown = name in MAY_BE_NAN and math.isnan(value)
        if not (is_unknown or low <= value <= high):
            return False
    return True

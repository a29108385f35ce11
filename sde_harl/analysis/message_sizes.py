"""Bytes that one decision of one agent takes: as sent, and as it would be sent otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sde_harl.analysis.traffic import Span
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Holds bytes for one decision of one agent; NaN: unknown."""

    payload: float
    ideal: float  # by the entropy model's probabilities
    wire: float  # with our header, without MPI's and TCP's
    network: float  # all that the devices' interfaces sent, acknowledgements and reports too
    float32: float  # the same latent, uncompressed
    int8: float
    observation: float  # the raw observation: float32, or bytes where it is an image


UNKNOWN = Bytes(
    payload=math.nan,
    ideal=math.nan,
    wire=math.nan,
    network=math.nan,
    float32=math.nan,
    int8=math.nan,
    observation=math.nan,
)


def bytes_per_decision(run: Run, decisions: Columns, sent: list[Span]) -> Bytes:
    """Returns the sizes of these messages; `sent` is the traffic of their senders."""
    if not decisions:
        return UNKNOWN
    environments = decisions["environments"].astype(np.float64)
    count = max(float(environments.sum()), 1.0)  # a row may be of no environment
    latent = float(run.number("latent") or math.nan)
    return Bytes(
        payload=float(decisions["payload_bytes"].sum()) / count,
        ideal=_ideal(decisions["ideal_bits"], environments),
        wire=float(decisions["wire_bytes"].sum()) / count,
        network=_network(sent, count),
        float32=4 * latent,
        int8=latent,
        observation=_observation(run, decisions["agent"], environments),
    )


def _ideal(bits: Array, environments: Array) -> float:
    # Messages without a probability, such as those of plain codecs, are left out of both sums.
    known = np.nan_to_num(bits, nan=-1.0) >= 0
    covered = float(environments[known].sum())
    if not covered:
        return math.nan
    return float(bits[known].sum()) / 8 / covered


def _network(sent: list[Span], count: float) -> float:
    if not sent:
        return math.nan
    # Rank 0 is the server: what it sends is not the devices' uplink.
    return sum(span.counted_bytes for span in sent if span.rank) / count


def _observation(run: Run, agents: Array, environments: Array) -> float:
    """Returns NaN where the record doesn't list the size of every agent's observation."""
    sizes = np.array([float(size) for size in run.json_list("obs_sizes")])
    if not ((agents >= 0) & (agents < len(sizes))).all():
        return math.nan
    element_bytes = 4
    if run.text("obs_dtype") == "uint8":
        element_bytes = 1
    count = max(float(environments.sum()), 1.0)
    return float((element_bytes * sizes[agents] * environments).sum()) / count

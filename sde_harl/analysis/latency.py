"""Splits the latency of a message into stages, from the times that the run measured as it went."""

from __future__ import annotations

import numpy as np

from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

STAGES = ("local net", "encode", "link", "decode", "policy", "whole")


def is_on_device(run: Run) -> bool:
    """Returns True where policies run entirely on the devices and nothing is coded."""
    return run.codec == "none"


def stage_times(run: Run, decisions: Columns) -> dict[str, Array]:
    """Returns the microseconds of each stage, by STAGES, for every message (K,).

    A time is NaN where it is unknown, or where this run doesn't have the stage.
    """
    local = _microseconds(decisions["t_local"])
    encode = _microseconds(decisions["t_encode"])
    round_trip = _microseconds(decisions["t_round_trip"])
    decode = _microseconds(decisions["t_decode"])
    policy = _microseconds(decisions["t_policy"])
    whole = local + encode + round_trip
    if is_on_device(run):
        # A policy on the device waits for no answer: its net's time is all.
        whole = local
    return {
        "local net": local,
        "encode": encode,
        # The round trip (executor's clock) less the server's own stages (server's clock): each is a
        # difference on one clock, so that the clocks of two hosts are never compared. What is left
        # includes waiting for the messages of other agents.
        "link": round_trip - decode - policy,
        "decode": decode,
        "policy": policy,
        "whole": whole,
    }


def _microseconds(nanoseconds: Array) -> Array:
    """Returns NaN for unknown times, which are 0 or less in the file."""
    values = nanoseconds.astype(np.float64)
    return np.where(values > 0, values / 1000.0, np.nan)

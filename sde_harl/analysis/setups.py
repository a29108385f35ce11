"""Compares where a policy can run (split, server, devices) by what a decision costs in each setup.

All of it was measured in the runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sde_harl.analysis.alike import differences
from sde_harl.analysis.devices import SERVER, device_cpu_counters, device_energies
from sde_harl.analysis.each_run import of_each
from sde_harl.analysis.latency import is_on_device, stage_times
from sde_harl.analysis.run_config import setting
from sde_harl.analysis.statistics import Quantiles, quantiles
from sde_harl.analysis.traffic import Span, spans
from sde_harl.errors import UserError
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

CODED = "split, coded"
UNCODED = "split, float32"
ON_SERVER = "all on the server"
ON_DEVICES = "all on the devices"
ORDER = (CODED, UNCODED, ON_SERVER, ON_DEVICES)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Holds the figures of one setup's runs.

    Bytes, processor time and energy are for one decision of one agent; NaN: unknown.
    """

    name: str
    env: str
    emulated: str
    runs: int
    decisions: int
    latency: Quantiles
    payload: float
    frame: float  # with our header
    network: float  # what the devices' interfaces sent, acknowledgements too
    excess: float  # the largest difference of an interface's count from the claim, as a share
    device_cpu_us: float
    device_mj: float  # of the devices' hosts, all that runs there


@dataclass(frozen=True, kw_only=True)
class _Totals:
    """Holds what one run's decisions took in all."""

    setup: str
    decisions: int
    latency_us: Array  # (K,) of every message
    payload: int
    frame: int
    sent: int
    spans: list[Span]
    cpu_s: float
    joules: float


def setups(runs: list[Run]) -> list[Setup]:
    """Returns the runs' figures by setup, in ORDER.

    Raises UserError where the runs can't be compared.
    """
    first = runs[0]
    _check_comparable(runs)
    members: dict[str, list[_Totals]] = {}
    found = of_each(runs, _totals)
    _check_alike(runs, [totals.setup for totals in found])
    for totals in found:
        members.setdefault(totals.setup, []).append(totals)
    if CODED not in members:
        raise UserError(
            f"{first.path}: none of the runs is of a coded split, with which to compare"
        )
    return [_setup(name, first, members[name]) for name in ORDER if name in members]


def _check_comparable(runs: list[Run]) -> None:
    first = runs[0]
    # Different links or environments would pass for a difference between setups.
    for run in runs:
        if (run.env, run.emulated) != (first.env, first.emulated):
            raise UserError(
                f"{run.path}: {run.env} on {run.emulated or 'real links'},"
                f" but {first.path}: {first.env} on {first.emulated or 'real'}"
            )


def _check_alike(runs: list[Run], names: list[str]) -> None:
    """Raises UserError where runs of one setup, whose names are given, are unlike."""
    name_of = {id(run): name for run, name in zip(runs, names, strict=True)}
    firsts: dict[str, tuple[Run, str]] = {}
    unlike = differences(runs, lambda run: name_of[id(run)])
    for run, name, what in zip(runs, names, unlike, strict=True):
        first, expected = firsts.setdefault(name, (run, what))
        # A split after one block and a split after three have no common figure.
        if what != expected:
            raise UserError(
                f"{run.path}: {what}, but {first.path}: {expected};"
                f" the runs of one setup ({name}) may differ in nothing but the seed"
            )


def _setup(name: str, run: Run, members: list[_Totals]) -> Setup:
    decisions = sum(each.decisions for each in members)
    network = math.nan
    # One run without the interfaces' count would make the mean too small.
    if all(each.spans for each in members):
        network = sum(each.sent for each in members) / decisions
    excesses = [abs(span.excess) for each in members for span in each.spans]
    return Setup(
        name=name,
        env=run.env,
        emulated=run.emulated,
        runs=len(members),
        decisions=decisions,
        latency=quantiles(np.concatenate([each.latency_us for each in members])),
        payload=sum(each.payload for each in members) / decisions,
        frame=sum(each.frame for each in members) / decisions,
        network=network,
        excess=max(excesses, default=math.nan),
        device_cpu_us=1e6 * sum(each.cpu_s for each in members) / decisions,
        device_mj=1e3 * sum(each.joules for each in members) / decisions,
    )


def _totals(run: Run) -> _Totals:
    decisions = run.table("decisions")
    resources = run.table("resources")
    if not decisions or not resources:
        raise UserError(f"{run.path}: no decisions were recorded in this run (record.decisions)")
    traffic = spans(run)
    return _Totals(
        setup=_setup_name(run),
        decisions=int(decisions["environments"].sum()),
        latency_us=stage_times(run, decisions)["whole"],
        payload=int(decisions["payload_bytes"].sum()),
        frame=int(decisions["wire_bytes"].sum()),
        sent=_sent_by_devices(traffic),
        spans=traffic,
        cpu_s=_device_cpu_s(run, resources),
        joules=_device_joules(run),
    )


def _sent_by_devices(traffic: Iterable[Span]) -> int:
    return sum(span.counted_bytes for span in traffic if span.rank != SERVER and span.way == "sent")


def _device_joules(run: Run) -> float:
    """Returns the energy of all hosts but the server's; NaN where one has no sensor."""
    # Emulated hosts share one machine and its sensor, which counts for all of them.
    if run.emulated:
        return math.nan
    devices = device_energies(run)
    if not devices:
        return math.nan
    return sum(each.joules for each in devices)


def _device_cpu_s(run: Run, resources: Columns) -> float:
    """Returns the devices' processor time; NaN where it is unknown."""
    counters = device_cpu_counters(run, resources)
    if not counters:
        return math.nan
    return sum(_growth(cpu_s) for cpu_s in counters)


def _growth(cpu_s: Array) -> float:
    """Returns the growth from the first report to the last; NaN where there is only one."""
    # Less the first report: what the process used to start is no cost of a decision.
    if len(cpu_s) < 2:
        return math.nan
    return float(cpu_s[-1] - cpu_s[0])


def _setup_name(run: Run) -> str:
    local_blocks = setting(run, "policy.local_blocks", kind=int)
    if is_on_device(run):
        return ON_DEVICES
    if local_blocks == 0 and run.codec == "float32":
        return ON_SERVER
    if local_blocks and run.codec == "entropy":
        return CODED
    if local_blocks and run.codec == "float32":
        return UNCODED
    raise UserError(
        f"{run.path}: {local_blocks} local blocks with {run.codec} is none of {', '.join(ORDER)}"
    )

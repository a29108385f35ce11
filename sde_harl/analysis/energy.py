"""Joules by host, as its sensor or an external meter counted them; nothing is assumed or modelled.

A sensor counts for all of its host, so the ranks of one host share one figure, and hosts are not
added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sde_harl.analysis.power_meter import read_meter
from sde_harl.errors import UserError
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

# A shorter window says nothing about a single decision.
LEAST_S = 1.0
LEAST_DECISIONS = 1000


class _Sensor(NamedTuple):
    """Names where a sensor's figures are: columns of /resources, and a key of /meta hosts."""

    joules: str
    idle_watts: str
    description: str


HOST_SENSOR = _Sensor(joules="joules", idle_watts="idle_w", description="energy")
GPU_SENSOR = _Sensor(joules="gpu_joules", idle_watts="gpu_idle_w", description="gpu_energy")
NOTHING = np.zeros(0)


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Holds what one sensor of one host counted; NaN: unknown."""

    host: str
    sensor: str  # what the sensor covers, or why there is no figure
    window_s: float
    decisions: int
    joules: float
    idle_w: float
    joules_per_decision: float
    joules_per_decision_without_idle: float


@dataclass(frozen=True, kw_only=True)
class _Host:
    """Holds what the record says about one host."""

    name: str
    sensors: dict[str, Any]
    """The host's entry in /meta hosts."""
    resources: Columns
    """Of its first rank; every rank of a host reads the same sensors."""
    decisions: int


def energies(run: Run, meters: dict[str, Path]) -> list[Energy]:
    """Returns the figures of every host's sensors, in the order of ranks.

    meters: a host's external meter, as a CSV file. Raises UserError where such a file or its host
    is wrong.
    """
    hosts = _hosts(run)
    _check_meters(meters, hosts, run)
    found = []
    for host in hosts:
        found.append(_sensor_energy(host, HOST_SENSOR))
        found.append(_sensor_energy(host, GPU_SENSOR))
        if host.name in meters:
            found.append(_metered_energy(host, meters[host.name], run))
    return found


def _check_meters(meters: dict[str, Path], hosts: list[_Host], run: Run) -> None:
    names = {host.name for host in hosts}
    unknown = sorted(set(meters) - names)
    # A misspelt host would leave its meter unread without a word.
    if unknown:
        raise UserError(
            f"{run.path}: --meter {unknown[0]}: its hosts are {', '.join(sorted(names))}"
        )


def host_energies(run: Run) -> list[Energy]:
    """Returns the figures of every host's own sensor, without the GPUs', in the order of ranks."""
    return [_sensor_energy(host, HOST_SENSOR) for host in _hosts(run)]


def _hosts(run: Run) -> list[_Host]:
    entries = [_host_entry(entry) for entry in run.json_list("hosts")]  # one for each rank
    names = [str(entry.get("host")) for entry in entries]
    resources = run.table("resources")
    decisions = run.table("decisions")
    hosts = []
    for name in dict.fromkeys(names):  # each host once, in the order of ranks
        ranks = [rank for rank, each in enumerate(names) if each == name]
        entry = entries[ranks[0]]
        hosts.append(_host(entry, ranks, resources=resources, decisions=decisions))
    return hosts


def _host(
    entry: dict[str, Any], ranks: list[int], *, resources: Columns, decisions: Columns
) -> _Host:
    """Returns a host by its entry in /meta and its `ranks`; the tables are of all hosts."""
    own = {key: column[resources["rank"] == ranks[0]] for key, column in resources.items()}
    return _Host(
        name=str(entry.get("host")),
        sensors=entry,
        resources=own,
        decisions=_count_decisions(decisions, ranks, own),
    )


def _host_entry(entry: Any) -> dict[str, Any]:
    # Older records hold the host's name alone.
    if isinstance(entry, dict):
        return entry
    return {"host": str(entry)}


def _count_decisions(table: Columns, ranks: list[int], resources: Columns) -> int:
    """Returns the decisions of the host's agents between its first and last look at the sensor."""
    if not table or not len(resources.get("step", ())):
        return 0
    step = table["step"]
    chosen = (step >= resources["step"][0]) & (step < resources["step"][-1])
    if 0 not in ranks:  # the server takes part in every decision
        chosen = chosen & np.isin(table["rank"], ranks)
    return int(table["environments"][chosen].sum())


def _sensor_energy(host: _Host, sensor: _Sensor) -> Energy:
    return _energy(
        host,
        str(host.sensors.get(sensor.description, "not recorded")),
        counted=host.resources.get(sensor.joules, NOTHING),
        idle_watts=host.resources.get(sensor.idle_watts, NOTHING),
    )


def _metered_energy(host: _Host, file: Path, run: Run) -> Energy:
    readings = read_meter(file, run)
    counted = NOTHING
    if host.resources:
        # NaN outside of the meter's log: its first and last reading say nothing about that time.
        counted = np.interp(
            host.resources["time_s"],
            readings.time_s,
            readings.joules,
            left=math.nan,
            right=math.nan,
        )
    return _energy(host, f"external meter, {file}", counted=counted, idle_watts=NOTHING)


def _energy(host: _Host, sensor: str, *, counted: Array, idle_watts: Array) -> Energy:
    """counted: joules so far (K,) at each row of the host's resources."""
    known = counted[~np.isnan(counted)]
    # One gap is enough: what was used meanwhile can't be known from the joules around it.
    if len(known) < 2 or len(known) < len(counted):
        return _unknown_energy(host, sensor)
    time_s = host.resources["time_s"]
    window_s = float(time_s[-1] - time_s[0])
    joules = float(known[-1] - known[0])
    idle_w = math.nan
    if len(idle_watts):
        idle_w = float(idle_watts[0])
    divisor = _divisor(host.decisions, window_s)
    return Energy(
        host=host.name,
        sensor=sensor,
        window_s=window_s,
        decisions=host.decisions,
        joules=joules,
        idle_w=idle_w,
        joules_per_decision=joules / divisor,
        joules_per_decision_without_idle=(joules - idle_w * window_s) / divisor,
    )


def _divisor(decisions: int, window_s: float) -> float:
    """Returns the decisions that joules are divided by; NaN where the window is too short."""
    if window_s >= LEAST_S and decisions >= LEAST_DECISIONS:
        return decisions
    return math.nan


def _unknown_energy(host: _Host, sensor: str) -> Energy:
    return Energy(
        host=host.name,
        sensor=sensor,
        window_s=math.nan,
        decisions=host.decisions,
        joules=math.nan,
        idle_w=math.nan,
        joules_per_decision=math.nan,
        joules_per_decision_without_idle=math.nan,
    )


def energy_notes(found: list[Energy]) -> list[str]:
    """Returns a line for each figure; hosts that have none for the same reason share a line."""
    lines = [_note(each) for each in found if not math.isnan(each.joules)]
    hosts_by_reason: dict[str, list[str]] = {}
    for each in found:
        if math.isnan(each.joules):
            hosts_by_reason.setdefault(each.sensor, []).append(each.host)
    for reason, hosts in hosts_by_reason.items():
        lines.append(f"energy of {', '.join(hosts)}: {reason}")
    return lines


def _note(each: Energy) -> str:
    line = f"energy of {each.host} ({each.sensor}): {each.joules:.1f} J in {each.window_s:.1f} s"
    if math.isnan(each.joules_per_decision):
        return f"{line}; too short for joules of a decision ({each.decisions:,} decisions)"
    line += f", {each.joules_per_decision * 1e3:.3f} mJ a decision"
    if math.isnan(each.idle_w):
        return f"{line} (idle power not measured: meters.idle_s)"
    without_idle = each.joules_per_decision_without_idle * 1e3
    return f"{line}, {without_idle:.3f} mJ without idle ({each.idle_w:.2f} W)"

"""The figures behind prototype.py: what a decision costs in each setup. All of it was measured in the runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from sde_harl.analysis.consumption import Stage, stage, stage_times
from sde_harl.analysis.joules import energies
from sde_harl.analysis.traffic import Span, spans
from sde_harl.errors import UserError
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

CODED = "split, coded"
ORDER = (CODED, "split, float32", "all on the server", "all on the devices")


@dataclass(frozen=True)
class Setup:
    """The runs of one setup. Bytes and processor time are for one decision of one agent."""

    name: str
    env: str
    emulated: str
    runs: int
    decisions: int
    latency: Stage
    payload: float
    frame: float  # with our header
    network: float  # what the devices' interfaces sent, acknowledgements too
    excess: float  # the largest, of any interface's count over what is claimed
    device_cpu_us: float
    device_mj: float  # of the devices' whole hosts


@dataclass(frozen=True)
class _Part:
    """One run."""

    name: str
    decisions: int
    latency_us: Array  # (K,) of every message
    payload: int
    frame: int
    sent: int
    spans: list[Span]
    cpu_s: float
    joules: float


def setups(runs: list[Run]) -> list[Setup]:
    """The runs by setup, in ORDER. Raises UserError where they can't be compared."""
    for run in runs:
        if (run.env, run.emulated) != (runs[0].env, runs[0].emulated):
            what = f"{run.env} on {run.emulated or 'real links'}"
            raise UserError(
                f"{run.path}: {what}, but {runs[0].path}: {runs[0].env} on {runs[0].emulated or 'real'}"
            )
    parts = [_part(run) for run in runs]
    if all(part.name != CODED for part in parts):
        raise UserError(
            f"{runs[0].path}: none of the runs is of a coded split, with which to compare"
        )
    names = [name for name in ORDER if any(part.name == name for part in parts)]
    return [_joined(name, runs[0], [part for part in parts if part.name == name]) for name in names]


def _joined(name: str, run: Run, parts: list[_Part]) -> Setup:
    made = sum(part.decisions for part in parts)
    known = all(part.spans for part in parts)
    excesses = [abs(span.excess) for part in parts for span in part.spans]
    return Setup(
        name, run.env, run.emulated, len(parts), made,
        latency=stage(np.concatenate([part.latency_us for part in parts])),
        payload=sum(part.payload for part in parts) / made,
        frame=sum(part.frame for part in parts) / made,
        network=sum(part.sent for part in parts) / made if known else math.nan,
        excess=max(excesses, default=math.nan),
        device_cpu_us=1e6 * sum(part.cpu_s for part in parts) / made,
        device_mj=1e3 * sum(part.joules for part in parts) / made,
    )  # fmt: skip


def _part(run: Run) -> _Part:
    table, resources = run.table("decisions"), run.table("resources")
    if not table or not resources:
        raise UserError(f"{run.path}: no decisions were recorded in this run (record.decisions)")
    traffic = spans(run)
    return _Part(
        name=_name(run),
        decisions=int(table["environments"].sum()),
        latency_us=stage_times(run, table)["whole"],
        payload=int(table["payload_bytes"].sum()),
        frame=int(table["wire_bytes"].sum()),
        sent=sum(span.counted_bytes for span in traffic if span.rank and span.way == "sent"),
        spans=traffic,
        cpu_s=sum(_growth(resources, rank) for rank in np.unique(resources["rank"]) if rank),
        joules=_joules(run),
    )


def _joules(run: Run) -> float:
    """Of all hosts but the server's; NaN where one has no sensor. Emulated hosts share one machine, and its sensor."""
    server, *devices = [
        (str(host.get("host")), str(host.get("energy"))) for host in run.json_list("hosts")
    ] or [("", "")]
    apart = [device for device in devices if device[0] != server[0]]
    found = [each.joules for each in energies(run, {}) if (each.host, each.sensor) in apart]
    return sum(found) if found and not run.emulated else math.nan


def _growth(resources: Columns, rank: int) -> float:
    """Seconds of processor time from the start's report to the last; NaN where there is but one."""
    used = resources["cpu_s"][resources["rank"] == rank]
    return float(used[-1] - used[0]) if len(used) > 1 else math.nan


def _name(run: Run) -> str:
    policy, codec = _policy(run), str(run.meta.get("codec"))
    if codec == "none":
        return "all on the devices"
    if policy["local_blocks"] == 0 and codec == "float32":
        return "all on the server"
    if policy["local_blocks"] and codec in ("entropy", "float32"):
        return CODED if codec == "entropy" else "split, float32"
    raise UserError(
        f"{run.path}: {policy['local_blocks']} local blocks with {codec} is none of {', '.join(ORDER)}"
    )


def _policy(run: Run) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(str(run.meta["config"]))["policy"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.path}: /meta config has no section policy") from error

"""The figures behind resource_consumption.py, by rank and in all. Needs h5py and numpy alone.

Times are the ones the run measured as it went, each on one host's own clock; nothing is computed from a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sde_harl.analysis.joules import Energy, energies
from sde_harl.analysis.traffic import Span, spans
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

STAGES = ("local net", "encode", "link", "decode", "policy", "whole")
QUANTILES = (50, 95, 99)
ALL = "all"


@dataclass(frozen=True)
class Stage:
    """Latency of one stage for a message, in microseconds; NaN where nothing was measured."""

    p50: float
    p95: float
    p99: float
    unknown: int  # messages without a measurement, left out


@dataclass(frozen=True)
class Bytes:
    """Bytes for one decision of one agent; NaN: unknown."""

    payload: float
    ideal: float
    wire: float  # with our header, without MPI's and TCP's
    network: float  # by the devices' interfaces: all they sent, acknowledgements and reports too
    float32: float  # the same latent, uncompressed
    int8: float
    observation: float  # the raw observation, of float32 or, images, of bytes


@dataclass(frozen=True)
class Row:
    """One rank, or all of them."""

    rank: str
    host: str
    decisions: int
    messages: int
    latency: dict[str, Stage]
    bytes: Bytes
    cpu_s: float
    peak_bytes: float  # of all ranks: the largest
    alone: int  # decisions by exit heads while the server was silent


@dataclass(frozen=True)
class Report:
    """One run."""

    path: str
    env: str
    algo: str
    placement: str
    emulated: str  # what links and devices are meant to be; empty: nothing is emulated
    hosts: list[str]
    latent: int
    codec: str
    rows: list[Row]
    traffic: list[Span]
    energy: list[Energy]


def summarise(run: Run, meters: dict[str, Path] | None = None) -> Report:
    """Read and sum up one run; `meters` as in `energies`. Raises UserError for a damaged file."""
    decisions, resources = run.table("decisions"), run.table("resources")
    hosts = [
        str(host["host"]) if isinstance(host, dict) and "host" in host else str(host)
        for host in run.json_list("hosts")
    ]
    ranks = sorted({int(r) for table in (decisions, resources) for r in table.get("rank", ())})
    traffic = spans(run)
    rows = [_row(run, decisions, resources, traffic, rank, hosts) for rank in ranks]
    if rows:
        rows.append(_row(run, decisions, resources, traffic, None, hosts))
    meta = run.meta
    return Report(
        str(run.path), run.env, run.algo, str(meta.get("placement", "unknown")), run.emulated, hosts,
        int(meta.get("latent", 0)), str(meta.get("codec", "unknown")), rows, traffic, energies(run, meters or {}),
    )  # fmt: skip


def _row(
    run: Run,
    decisions: Columns,
    resources: Columns,
    traffic: list[Span],
    rank: int | None,
    hosts: list[str],
) -> Row:
    mine, used = _of(decisions, rank), _of(resources, rank)
    if rank is None:
        host = f"{len(set(hosts))} hosts"
    else:
        host = hosts[rank] if 0 <= rank < len(hosts) else "?"
    environments = mine.get("environments", np.zeros(0))
    return Row(
        rank=ALL if rank is None else str(rank),
        host=host,
        decisions=int(environments.sum()),
        messages=len(environments),
        latency=_latency(run, mine),
        bytes=_bytes(
            run,
            mine,
            [each for each in traffic if each.way == "sent" and rank in (each.rank, None)],
        ),
        cpu_s=_so_far(used, "cpu_s") if used else math.nan,
        peak_bytes=float(used["peak_rss_bytes"].max()) if used else math.nan,
        alone=int(_so_far(used, "alone")) if "alone" in used else 0,
    )


def _of(table: Columns, rank: int | None) -> Columns:
    if rank is None or not table:
        return table
    chosen = table["rank"] == rank
    return {name: values[chosen] for name, values in table.items()} if chosen.any() else {}


def _so_far(used: Columns, name: str) -> float:
    """What counts from each process's start: the last value of every rank, summed."""
    return float(sum(used[name][used["rank"] == rank].max() for rank in np.unique(used["rank"])))


def _latency(run: Run, table: Columns) -> dict[str, Stage]:
    if not table:
        return dict.fromkeys(STAGES, Stage(math.nan, math.nan, math.nan, 0))
    return {name: stage(values) for name, values in stage_times(run, table).items()}


def stage_times(run: Run, table: Columns) -> dict[str, Array]:
    """Microseconds of each stage, by STAGES, of every message (K,); NaN: unknown, or not a stage of this run's.

    The link is what the round trip (executor's clock) leaves when the server's own stages (server's clock) are taken
    off it: differences of one clock each, so that no two hosts' clocks are compared. It holds the waiting for other
    agents' messages too. A whole policy acts on its device and waits for nobody: its local net is all.
    """
    known = {
        name: _known(table[f"t_{name}"])
        for name in ("local", "encode", "round_trip", "decode", "policy")
    }
    link = known["round_trip"] - known["decode"] - known["policy"]
    on_device = run.meta.get("codec") == "none"
    whole = known["local"] if on_device else known["local"] + known["encode"] + known["round_trip"]
    times = (known["local"], known["encode"], link, known["decode"], known["policy"], whole)
    return dict(zip(STAGES, times, strict=True))


def _known(nanoseconds: Array) -> Array:
    """Microseconds, NaN for unknown (0 or less)."""
    values = nanoseconds.astype(np.float64)
    return np.where(values > 0, values / 1000.0, np.nan)


def stage(values: Array) -> Stage:
    """Quantiles of the known ones."""
    measured = values[~np.isnan(values)]
    p50, p95, p99 = np.percentile(measured, QUANTILES) if len(measured) else (math.nan,) * 3
    return Stage(float(p50), float(p95), float(p99), len(values) - len(measured))


def _bytes(run: Run, table: Columns, sent: list[Span]) -> Bytes:
    latent = float(run.meta.get("latent", math.nan))
    if not table:
        return Bytes(*(math.nan,) * 7)
    environments = table["environments"].astype(np.float64)
    decisions = max(float(environments.sum()), 1.0)
    known = np.nan_to_num(table["ideal_bits"], nan=-1.0) >= 0
    covered = float(environments[known].sum())
    sizes = np.array([float(size) for size in run.json_list("obs_sizes")])
    number = 1 if run.meta.get("obs_dtype") == "uint8" else 4
    agents = table["agent"]
    listed = bool(((agents >= 0) & (agents < len(sizes))).all())
    return Bytes(
        payload=float(table["payload_bytes"].sum()) / decisions,
        ideal=float(table["ideal_bits"][known].sum()) / 8 / covered if covered else math.nan,
        wire=float(table["wire_bytes"].sum()) / decisions,
        network=sum(each.counted_bytes for each in sent if each.rank) / decisions
        if sent
        else math.nan,
        float32=4 * latent,
        int8=latent,
        observation=float((number * sizes[agents] * environments).sum()) / decisions
        if listed
        else math.nan,
    )

"""Sums up what a run's decisions took, for each rank and for all: latency, bytes, CPU, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sde_harl.analysis.devices import SERVER, is_one_process
from sde_harl.analysis.energy import Energy, energies
from sde_harl.analysis.latency import STAGES, stage_times
from sde_harl.analysis.message_sizes import Bytes, bytes_per_decision
from sde_harl.analysis.statistics import Quantiles, quantiles
from sde_harl.analysis.tables import plural
from sde_harl.analysis.traffic import Span, spans
from sde_harl.record.reader import Columns, Run

ALL = "all"
"""The rank of the row that is about all ranks."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Holds the figures of one rank, or of all of them."""

    rank: str
    host: str
    decisions: int
    messages: int
    latency: dict[str, Quantiles]  # by STAGES
    bytes: Bytes
    cpu_s: float  # NaN for an executor in the server's process, whose row has it
    peak_bytes: float  # for all ranks: the largest
    alone: int  # decisions by fallback heads while the server was silent


@dataclass(frozen=True, kw_only=True)
class Report:
    """Holds the figures of one run."""

    path: str
    env: str
    algo: str
    placement: str
    emulated: str  # which links and devices are emulated, and as what; empty: none
    hosts: list[str]
    latent: int
    codec: str
    rows: list[Row]
    traffic: list[Span]
    energy: list[Energy]
    one_process: bool  # one process held server and executors


def summarise(run: Run, meters: dict[str, Path]) -> Report:
    """Reads and sums up one run.

    meters: see `energies`. Raises UserError for a damaged file.
    """
    tables = _Tables(run)
    return Report(
        path=str(run.path),
        env=run.env,
        algo=run.algo,
        placement=run.text("placement"),
        emulated=run.emulated,
        hosts=tables.hosts,
        latent=run.number("latent"),
        codec=run.codec,
        rows=tables.rows(),
        traffic=tables.traffic,
        energy=energies(run, meters),
        one_process=tables.one_process,
    )


class _Tables:
    """Reads a run's tables once, and makes rows of them."""

    def __init__(self, run: Run) -> None:
        self.hosts = [_host_name(entry) for entry in run.json_list("hosts")]
        self.traffic = spans(run)
        self._run = run
        self._decisions = run.table("decisions")
        self._resources = run.table("resources")
        self.one_process = is_one_process(run)

    def rows(self) -> list[Row]:
        """Returns a row for each rank that has figures, and one for all behind them."""
        ranks: set[int] = set()
        for table in (self._decisions, self._resources):
            ranks.update(int(rank) for rank in table.get("rank", ()))
        rows = [self._rank_row(rank) for rank in sorted(ranks)]
        if rows:
            rows.append(self._row_of_all())
        return rows

    def _rank_row(self, rank: int) -> Row:
        host = "?"
        if 0 <= rank < len(self.hosts):
            host = self.hosts[rank]
        return self._row(
            str(rank),
            host,
            decisions=_of_rank(self._decisions, rank),
            resources=_of_rank(self._resources, rank),
            traffic=[span for span in self.traffic if span.rank == rank],
        )

    def _row_of_all(self) -> Row:
        return self._row(
            ALL,
            plural(len(set(self.hosts)), "host"),
            decisions=self._decisions,
            resources=self._resources,
            traffic=self.traffic,
        )

    def _row(
        self, rank: str, host: str, *, decisions: Columns, resources: Columns, traffic: list[Span]
    ) -> Row:
        environments = decisions.get("environments", np.zeros(0))  # the server has none
        sent = [span for span in traffic if span.way == "sent"]
        return Row(
            rank=rank,
            host=host,
            decisions=int(environments.sum()),
            messages=len(environments),
            latency=_latency(self._run, decisions),
            bytes=bytes_per_decision(self._run, decisions, sent),
            cpu_s=self._cpu_s(rank, resources),
            peak_bytes=_peak_bytes(resources),
            alone=int(_counter_sum(resources, "alone", missing=0)),
        )

    def _cpu_s(self, rank: str, resources: Columns) -> float:
        # In one process every rank reports all of it: it is counted once, as the server's.
        if self.one_process:
            if rank not in (ALL, str(SERVER)):
                return math.nan
            resources = _of_rank(resources, SERVER)
        return _counter_sum(resources, "cpu_s", missing=math.nan)


def _host_name(entry: Any) -> str:
    # Older records hold the host's name alone.
    if isinstance(entry, dict) and "host" in entry:
        return str(entry["host"])
    return str(entry)


def _of_rank(table: Columns, rank: int) -> Columns:
    """Returns a rank's rows; empty where it has none."""
    if not table:
        return {}
    chosen = table["rank"] == rank
    if not chosen.any():
        return {}
    return {name: values[chosen] for name, values in table.items()}


def _latency(run: Run, decisions: Columns) -> dict[str, Quantiles]:
    if not decisions:
        return dict.fromkeys(STAGES, quantiles(np.zeros(0)))
    return {name: quantiles(values) for name, values in stage_times(run, decisions).items()}


def _counter_sum(resources: Columns, name: str, *, missing: float) -> float:
    """Sums the last value of every rank, for a counter that starts at zero with each process."""
    if name not in resources:
        return missing
    ranks = resources["rank"]
    values = resources[name]
    return float(sum(values[ranks == rank].max() for rank in np.unique(ranks)))


def _peak_bytes(resources: Columns) -> float:
    if not resources:
        return math.nan
    return float(resources["peak_rss_bytes"].max())

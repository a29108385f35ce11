"""Estimates joules from the processor time that was measured and from watts that the user gives."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from dataclasses import dataclass

from sde_harl.analysis.consumption import ALL, Report, Row, summarise
from sde_harl.errors import UserError
from sde_harl.record.reader import Run

ANY_HOST = ""
"""The key of the watts for all hosts that have none of their own."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Holds the estimate for one rank."""

    run: str
    rank: str
    host: str
    cpu_s: float  # measured
    watts: float  # given
    joules: float  # estimated
    joules_per_decision: float  # estimated


def estimate(run: Run, watts: dict[str, float]) -> list[Estimate]:
    """Returns an estimate for each rank.

    watts: what a busy core draws above idle, by host, or for ANY_HOST. Raises UserError where a
    host has none.
    """
    report = summarise(run, meters={})
    return [_estimate(report, row, watts) for row in report.rows if row.rank != ALL]


def _estimate(report: Report, row: Row, watts: dict[str, float]) -> Estimate:
    given = _watts_of(row.host, watts, report)
    joules = row.cpu_s * given
    return Estimate(
        run=report.path,
        rank=row.rank,
        host=row.host,
        cpu_s=row.cpu_s,
        watts=given,
        joules=joules,
        joules_per_decision=_per_decision(joules, _decisions(report, row)),
    )


def _watts_of(host: str, watts: dict[str, float], report: Report) -> float:
    given = watts.get(host, watts.get(ANY_HOST, math.nan))
    # No default: an assumed wattage would pass for the user's own.
    if math.isnan(given):
        raise UserError(f"{report.path}: no --watts for its host {host}")
    return given


def _per_decision(joules: float, decisions: int) -> float:
    if not decisions:
        return math.nan
    return joules / decisions


def _decisions(report: Report, row: Row) -> int:
    if row.rank == "0" and not row.decisions:
        # The server takes part in every agent's decision.
        return report.rows[-1].decisions
    return row.decisions


def host_and_watts(text: str) -> tuple[str, float]:
    """Reads W or HOST=W of the command line. Raises ArgumentTypeError for anything else."""
    host, _, number = text.rpartition("=")
    try:
        watts = float(number)
    except ValueError:
        watts = math.nan
    if not 0 < watts < math.inf:
        raise ArgumentTypeError(f"expected W or HOST=W with a positive number, got {text!r}")
    return host, watts
